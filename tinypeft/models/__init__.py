"""Models and tokenizers by name: Hugging Face folders, and the base that comes with the library."""

from tinypeft.models.auto import AutoConfig, AutoModelForCausalLM
from tinypeft.models.tokenizers import AutoTokenizer, CharTokenizer
from tinypeft.peft.prompt import tokenizer_loaders

__all__ = ["AutoConfig", "AutoModelForCausalLM", "AutoTokenizer", "CharTokenizer"]

tokenizer_loaders.append(AutoTokenizer.from_pretrained)  # for PromptTuningConfig(tokenizer_name_or_path="...")
