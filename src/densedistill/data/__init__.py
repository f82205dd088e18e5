"""Files to samples: formats, data sets, augmentation, batches.

Names are loaded on first use, so that reading and writing files needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .datasets import DATASETS, create_dataset, list_datasets
    from .sample import Sample, collate

__all__ = ["DATASETS", "Sample", "collate", "create_dataset", "list_datasets"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    module = "sample" if name in ("Sample", "collate") else "datasets"
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)
