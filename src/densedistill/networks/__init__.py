"""Networks: one file an architecture, plain `nn.Module`s that know nothing of distillation."""

from . import acvnet, dsnet, dwarf, gwcnet, lacgwcnet, tsnnet
from .input_spec import IMAGENET_MEAN, IMAGENET_STD, InputSpec
from .registry import create_model, list_models, register_model

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "InputSpec",
    "acvnet",
    "create_model",
    "dsnet",
    "dwarf",
    "gwcnet",
    "lacgwcnet",
    "list_models",
    "register_model",
    "tsnnet",
]
