"""LoRA for Keras 3 models, as a plugin of kwrap."""

from kwrap_lora._adapters import adapters, use_adapters
from kwrap_lora._checks import kwrap_check_plan
from kwrap_lora._errors import AdapterFileError, AdapterMismatchError
from kwrap_lora._hook import LoRA
from kwrap_lora._saving import load_adapter, save_adapter

__all__ = [
    "AdapterFileError",
    "AdapterMismatchError",
    "LoRA",
    "adapters",
    "kwrap_check_plan",
    "load_adapter",
    "save_adapter",
    "use_adapters",
]
