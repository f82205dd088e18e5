"""Data sets by name, one file a benchmark: `create_dataset`, `list_datasets`."""

from __future__ import annotations

import inspect
import os
from typing import Any

from torch.utils.data import Dataset

from ...errors import UserError, nearest
from ...registry import Registry, construct, discover
from ..sample import Sample

DATASETS = Registry("data set", discover(__name__, __file__))


def list_datasets(pattern: str = "*") -> list[str]:
    """Return the names of the data sets that match a shell-style `pattern`, sorted."""
    return DATASETS.names(pattern)


def create_dataset(
    name: str, root: str | os.PathLike[str] | None = None, split: str | None = None, **options: Any
) -> Dataset[Sample]:
    """Return the data set `name`: a torch data set of samples with `.names` and `.task`.

    Args:
        name: a registered name, or `package.module:Name` for a class of your own.
        root: the folder of the files. `middlebury2014` and `middlebury2003` without it are the pairs that
            ship.
        split: which part; default the data set's first, which is all that has public ground truth.
        **options: of the data set, for example `limit=100` for 100 samples spread over the whole.

    Raises:
        UserError: no such data set, split or option; a root where something is missing.
    """
    dataset = DATASETS[name]
    given = {
        key: value for key, value in {"root": root, "split": split}.items() if value is not None
    } | options
    accepted = inspect.signature(dataset).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted.values()):
        for option in given:
            if option not in accepted:
                raise UserError(f"data set '{name}' takes no option '{option}'{nearest(option, accepted)}")
    return construct("data set", name, dataset, given)


def open_dataset(name: str, task: str, /, **options: Any) -> Dataset[Sample]:
    """Return `create_dataset(name, **options)` with samples for `task`, where the data set serves several."""
    if "task" in inspect.signature(DATASETS[name]).parameters:
        options.setdefault("task", task)
    return create_dataset(name, **options)
