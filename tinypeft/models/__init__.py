"""Models and tokenizers by name: Hugging Face folders, and the base that comes with the library."""

from tinypeft.models.auto import AutoConfig, AutoModelForCausalLM
from tinypeft.models.tokenizers import AutoTokenizer, CharTokenizer

__all__ = ["AutoConfig", "AutoModelForCausalLM", "AutoTokenizer", "CharTokenizer"]
