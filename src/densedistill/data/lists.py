"""Splits as list files, made from a data set's root by rule, and samples that two splits share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

from ..errors import UserError, counted
from ..registry import construct
from .datasets import DATASETS
from .datasets._base import StereoFiles

# A published split for training, and the one for validation beside it.
_BESIDE = {"published-val": "published-train", "published-train": "published-val", "val": "fit", "fit": "val"}


def list_lines(
    name: str, root: str | os.PathLike[str], split: str | None = None, **options: Any
) -> list[str]:
    """Return a line a sample of a split: left, right and, where it has one, disparity, relative to `root`.

    It is the form of published list files, which data set `folder` reads as `pairs`.

    Raises:
        UserError: no such data set, split or files, or a path with a blank, which the form cannot hold.
    """
    base = Path(root).expanduser()
    lines = []
    for frame in _files(name, root, split, options).frames:
        files = [frame.files[role] for role in ("left", "right", "disparity") if role in frame.files]
        columns = [file.relative_to(base).as_posix() for file in files]
        blank = next((column for column in columns if len(column.split()) != 1), None)
        if blank is not None:
            raise UserError(f"a list file cannot name '{blank}': there is a blank in it")
        lines.append(" ".join(columns))
    return lines


def overlap(name: str, root: str | os.PathLike[str], split: str, **options: Any) -> str:
    """Return what to say when the split that stands beside `split` shares samples with it; "" when none."""
    if split not in _BESIDE:
        return ""
    both = (split, _BESIDE[split])
    here, there = (set(_files(name, root, one, options).names) for one in both)
    return shared(name, here & there, both)


def shared(name: str, samples: set[str], splits: tuple[str, str]) -> str:
    """Return the warning that two splits of a data set, or one used twice, share `samples`; "" when they
    share none."""
    if not samples:
        return ""
    where = "is" if len(samples) == 1 else "are"
    where += " used twice" if splits[0] == splits[1] else f" in {splits[0]} and in {splits[1]}"
    named = min(samples) if len(samples) == 1 else f"{min(samples)}, …"
    apart = {"fit", "val"} <= set(getattr(DATASETS[name], "splits", ()))
    return (
        f"{counted(len(samples), 'sample')} of {name} {where} ({named}), in training and in validation: "
        "figures are then of what was trained on; "
        + ("fit and val have none in common" if apart else "validate on others")
    )


def _files(name: str, root: Any, split: str | None, options: dict[str, Any]) -> StereoFiles:
    kind = DATASETS[name]
    if not (isinstance(kind, type) and issubclass(kind, StereoFiles)):
        raise UserError(f"data set '{name}' is not made of files; there is nothing to list")
    given = {"root": root, "split": split, "want": ("disparity",), **options}
    return cast(StereoFiles, construct("data set", name, kind, given))
