"""Networks: one file an architecture, plain `nn.Module`s that know nothing of distillation."""

import importlib
import pkgutil

from .input_spec import IMAGENET_MEAN, IMAGENET_STD, InputSpec
from .registry import create_model, list_models, register_model

# An architecture is registered by its file being here.
for _module in pkgutil.iter_modules(__path__):
    if not (_module.ispkg or _module.name.startswith("_")):
        importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "InputSpec", "create_model", "list_models", "register_model"]
