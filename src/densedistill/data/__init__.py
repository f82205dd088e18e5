"""Files to samples: formats, data sets, augmentation, batches."""

from .datasets import DATASETS, create_dataset, list_datasets
from .sample import Sample, collate

__all__ = ["DATASETS", "Sample", "collate", "create_dataset", "list_datasets"]
