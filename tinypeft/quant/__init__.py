"""Quantization: codebooks, blocks of 4 and 8 bits, and linear layers that compute with them. The QLoRA paper.

    packed, state = quantize_4bit(x, quant_type="nf4", blocksize=64, compress_statistics=True)
    dequantize_4bit(packed, state), state.bits_per_parameter

Names and results are bitsandbytes', in NumPy arrays; the default type is NF4.
"""

from tinypeft.quant.blockwise import QuantState, dequantize_4bit, dequantize_blockwise, quantize_4bit, quantize_blockwise
from tinypeft.quant.codebooks import (
    ScaledValues,
    create_dynamic_map,
    create_linear_map,
    create_normal_map,
    entropy,
    equal_mass,
    get_4bit_type,
    lloyd_max,
    regions,
)
from tinypeft.quant.config import BitsAndBytesConfig
from tinypeft.quant.convert import prepare_model_for_kbit_training, replace_with_bnb_linear
from tinypeft.quant.int8 import (
    int8_linear_matmul,
    int8_mixed_scaled_mm,
    int8_mm_dequant,
    int8_vectorwise_dequant,
    int8_vectorwise_quant,
)
from tinypeft.quant.linear import Int8Params, Linear4bit, Linear8bitLt, Params4bit

__all__ = ["BitsAndBytesConfig", "Int8Params", "Linear4bit", "Linear8bitLt", "Params4bit", "QuantState", "ScaledValues",
           "create_dynamic_map", "create_linear_map", "create_normal_map", "dequantize_4bit", "dequantize_blockwise",
           "entropy", "equal_mass", "get_4bit_type", "int8_linear_matmul", "int8_mixed_scaled_mm",
           "int8_mm_dequant", "int8_vectorwise_dequant", "int8_vectorwise_quant", "lloyd_max",
           "prepare_model_for_kbit_training", "quantize_4bit", "quantize_blockwise", "regions", "replace_with_bnb_linear"]
