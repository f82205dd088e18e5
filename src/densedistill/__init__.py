"""densedistill: distil dense-prediction networks, prove what was kept, and ship the result.

The public API is loaded on first use, so that `import densedistill` needs no torch.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "create_model": "networks.registry",
    "list_models": "networks.registry",
    "register_model": "networks.registry",
    "load_weights": "networks.published",
    "wrap": "networks.wrap",
    "InputSpec": "networks.input_spec",
    "Predictor": "inference.predictor",
    "evaluate": "inference.evaluate",
    "predict": "inference.predict",
    "Taps": "distillation.taps",
    "Objective": "distillation.objective",
    "create_teacher": "distillation.teachers",
    "exact_gradients": "distillation.exact",
    "recomputed_activations": "distillation.recompute",
    "create_dataset": "data.datasets",
    "list_datasets": "data.datasets",
    "list_recipes": "recipes",
    "load_recipe": "recipes",
    "train": "verbs",
    "distill": "verbs",
    "export": "deployment.export",
    "quantise": "deployment.quantise",
    "benchmark": "deployment.benchmark",
    "load_runtime": "runtimes",
    "label": "verbs",
    "UserError": "errors",
}
_MODULES = {"losses": "distillation.losses", "metrics": "metrics", "tasks": "tasks", "data": "data"}

__all__ = ["__version__", *sorted(_PUBLIC), *sorted(_MODULES)]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{_MODULES[name]}")
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


def __dir__() -> list[str]:
    return __all__
