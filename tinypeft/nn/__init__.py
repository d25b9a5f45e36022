"""Modules, layers and the two model families, GPT-2 and Llama, with Hugging Face's names and layouts."""

from tinypeft.nn.causal_lm import CausalLM, CausalLMOutput, Config
from tinypeft.nn.gpt2 import GPT2Config, GPT2LMHeadModel
from tinypeft.nn.layers import Conv1D, Dropout, Embedding, LayerNorm, Linear, RMSNorm
from tinypeft.nn.llama import LlamaConfig, LlamaForCausalLM
from tinypeft.nn.module import Module, Parameter, generator, new_parameter, refuse_meta

__all__ = ["CausalLM", "CausalLMOutput", "Config", "Conv1D", "Dropout", "Embedding", "GPT2Config", "GPT2LMHeadModel",
           "LayerNorm", "Linear", "LlamaConfig", "LlamaForCausalLM", "Module", "Parameter", "RMSNorm", "generator",
           "new_parameter", "refuse_meta"]
