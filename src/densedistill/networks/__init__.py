"""Networks: one file an architecture, plain `nn.Module`s that know nothing of distillation."""

from . import acvnet, dsnet, espnet, fcos, gwcnet, lacgwcnet, pspnet, tsnnet, zoo
from .input_spec import IMAGENET_MEAN, IMAGENET_STD, InputSpec
from .registry import create_model, list_models, register_model

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "InputSpec",
    "acvnet",
    "create_model",
    "dsnet",
    "espnet",
    "fcos",
    "gwcnet",
    "lacgwcnet",
    "list_models",
    "pspnet",
    "register_model",
    "tsnnet",
    "zoo",
]
