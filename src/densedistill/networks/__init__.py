"""Networks: one file an architecture, plain `nn.Module`s that know nothing of distillation."""

from . import acvnet, depth_slim, dsnet, gwcnet, lacgwcnet, lapdepth, spatialkd, tsnnet, vnl
from .input_spec import IMAGENET_MEAN, IMAGENET_STD, InputSpec
from .registry import create_model, list_models, register_model

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "InputSpec",
    "acvnet",
    "create_model",
    "depth_slim",
    "dsnet",
    "gwcnet",
    "lacgwcnet",
    "lapdepth",
    "list_models",
    "register_model",
    "spatialkd",
    "tsnnet",
    "vnl",
]
