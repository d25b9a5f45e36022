"""Parameter-efficient fine-tuning, one method a file, with peft's verbs."""

from tinypeft.peft.config import PeftConfig, TaskType
from tinypeft.peft.lora import LoraConfig, LoraLayer
from tinypeft.peft.model import PeftModel, get_peft_model

__all__ = ["LoraConfig", "LoraLayer", "PeftConfig", "PeftModel", "TaskType", "get_peft_model"]
