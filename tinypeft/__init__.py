"""tinypeft: parameter-efficient fine-tuning, learned by building it.

Names, arguments and files are those of transformers and peft; everything underneath is NumPy. In reading order: autograd,
nn, peft, models, training. Shapes in comments: B batch, T time, d model width, h heads, r rank, p virtual tokens, V vocabulary.
"""

from tinypeft.autograd import Tensor, checkpoint, gradcheck, no_grad
from tinypeft.backend import bfloat16, float16, float32, float64, keep_freed_memory
from tinypeft.models import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from tinypeft.nn import GPT2Config, LlamaConfig
from tinypeft.peft import (
    AdaLoraConfig,
    BitFitConfig,
    BottleneckConfig,
    IA3Config,
    LNTuningConfig,
    LoraConfig,
    PeftConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptTuningConfig,
    SubspaceConfig,
    TaskType,
    ULoraConfig,
    VeraConfig,
    create_loraplus_optimizer,
    get_peft_model,
)
from tinypeft.quant import BitsAndBytesConfig, prepare_model_for_kbit_training

__version__ = "0.1.0"
__all__ = ["AdaLoraConfig", "AutoConfig", "AutoModelForCausalLM", "AutoTokenizer", "BitFitConfig", "BitsAndBytesConfig",
           "BottleneckConfig", "GPT2Config", "IA3Config", "LNTuningConfig", "LlamaConfig", "LoraConfig", "PeftConfig",
           "PeftModel", "PrefixTuningConfig", "PromptTuningConfig", "SubspaceConfig", "TaskType", "Tensor", "ULoraConfig",
           "VeraConfig", "bfloat16", "checkpoint", "create_loraplus_optimizer", "float16", "float32", "float64",
           "get_peft_model", "gradcheck", "no_grad", "prepare_model_for_kbit_training"]

keep_freed_memory()
