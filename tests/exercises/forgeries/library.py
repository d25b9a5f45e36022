# expect: load
# confined only
# The library that teaches it, imported or read.
import importlib

sys.path[:0] = ["CHECKOUT", "/usr/lib/python3/dist-packages"]
sys.modules.pop("tinypeft", None)
lora = importlib.import_module("tinypeft.peft.lora")
