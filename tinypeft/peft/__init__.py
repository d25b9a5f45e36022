"""Parameter-efficient fine-tuning, one method a file, with peft's verbs.

To add a method, write a file with its config and its layer, and import the config here. Shapes in comments: B batch, T time,
d model width, h heads, r rank, p virtual tokens, V vocabulary.
"""

from tinypeft.peft.adalora import AdaLoraConfig
from tinypeft.peft.bitfit import BitFitConfig
from tinypeft.peft.bottleneck import BottleneckConfig
from tinypeft.peft.config import PeftConfig, TaskType
from tinypeft.peft.dora import DoraLayer
from tinypeft.peft.ia3 import IA3Config
from tinypeft.peft.layernorm import LNTuningConfig
from tinypeft.peft.lora import LoraConfig, LoraLayer
from tinypeft.peft.lora_plus import create_loraplus_optimizer
from tinypeft.peft.model import PeftModel, get_peft_model
from tinypeft.peft.prefix import PrefixTuningConfig
from tinypeft.peft.prompt import PromptTuningConfig
from tinypeft.peft.subspace import SubspaceConfig, best_low_rank, effective_rank
from tinypeft.peft.ulora import ULoraConfig
from tinypeft.peft.vera import VeraConfig

__all__ = ["AdaLoraConfig", "BitFitConfig", "BottleneckConfig", "DoraLayer", "IA3Config", "LNTuningConfig", "LoraConfig",
           "LoraLayer", "PeftConfig", "PeftModel", "PrefixTuningConfig", "PromptTuningConfig", "SubspaceConfig", "TaskType",
           "ULoraConfig", "VeraConfig", "best_low_rank", "create_loraplus_optimizer", "effective_rank", "get_peft_model"]
