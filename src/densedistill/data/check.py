"""What of a data set is there, what is missing, what is broken."""

from __future__ import annotations

import contextlib
import inspect
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch.utils.data import Subset

from ..errors import NothingThere, UserError, nearest
from ..machine import usable_cores
from ..registry import construct
from .datasets import DATASETS
from .datasets._base import ROLES, FilesOnDisk
from .views import find_doubtful


@dataclass
class Role:
    """The files of one kind: how many samples have one, and where those should be that are missing."""

    found: int = 0
    missing: list[Path] = field(default_factory=list)
    required: bool = False


@dataclass
class Survey:
    """What was found of one split.

    Args:
        split: its name.
        samples: how many were found.
        expected: how many the whole data set has, where that is known.
        roles: for each kind of file what was found of it.
        broken: samples that cannot be read, and why; None when they were not opened.
        absent: where something was looked for, when there is nothing of this split, else empty.
        fault: why its samples could not be listed, else empty.
        doubt: what the views of a pair say against it, and which pair; else empty. A few are looked at.
    """

    split: str
    samples: int = 0
    expected: int | None = None
    roles: dict[str, Role] = field(default_factory=dict)
    broken: list[tuple[str, str]] | None = None
    absent: str = ""
    fault: str = ""
    doubt: str = ""

    @property
    def usable(self) -> bool:
        """Whether every sample found has what it needs and could be read."""
        incomplete = any(role.required and role.missing for role in self.roles.values())
        return not (self.absent or self.fault or incomplete or self.broken)


def check_dataset(
    name: str,
    root: str | os.PathLike[str] | None = None,
    fast: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
    **options: Any,
) -> list[Survey]:
    """Return what is there of the data set `name` below `root`, a survey a split; splits that an option makes
    the same are one.

    Args:
        name: of the data set; one that is made of files.
        root: where they lie; None for the pairs that ship.
        fast: list the files only. Otherwise every sample is read: images by checksum, sizes, ground truth.
        progress: called with split, samples done and all samples.
        **options: of the data set; `split` limits the check to one.

    Raises:
        UserError: no such data set or option, or one without files.
    """
    dataset = DATASETS[name]
    if not (isinstance(dataset, type) and issubclass(dataset, FilesOnDisk)):
        raise UserError(f"data set '{name}' is not made of files; there is nothing to check")
    for option in options:
        accepted = {name: 0 for kind in dataset.__mro__ for name in inspect.signature(kind).parameters}
        if option not in accepted:
            raise UserError(f"data set '{name}' takes no option '{option}'{nearest(option, accepted)}")
    chosen = options.pop("split", None)
    splits = [chosen] if chosen else [split for split in dataset.splits if split not in dataset.partitions]
    if root is not None and not Path(root).expanduser().exists():
        raise UserError(f"data set '{name}': there is no folder {root}")
    surveys, seen = [], []
    for split in splits:
        given = {"root": root, **dataset.everything(), **options, "split": split, "strict": False}
        try:
            samples = construct("data set", name, dataset, given)
        except NothingThere as error:
            surveys.append(Survey(split, absent=str(error)))
            continue
        except UserError as error:
            surveys.append(Survey(split, fault=str(error)))
            continue
        if samples.frames not in seen:
            seen.append(samples.frames)
            surveys.append(_survey(samples, fast, progress))
    return surveys


def _survey(samples: FilesOnDisk, fast: bool, progress: Callable[[str, int, int], None] | None) -> Survey:
    split = samples.split
    survey = Survey(split, len(samples), samples.whole())
    survey.roles = {role: Role(required=role in samples.required) for role in ROLES}
    for frame in samples.frames:
        for role in frame.files:
            survey.roles[role].found += 1
    for _, role, path in samples.missing:
        survey.roles[role].missing.append(path)
    survey.roles = {name: role for name, role in survey.roles.items() if role.found or role.missing}
    if not fast:
        images = {role for role in samples.required if role.startswith(("image", "left", "right"))}
        whole = [i for i, frame in enumerate(samples.frames) if images <= frame.files.keys()]
        survey.broken = _broken(samples, whole, lambda done: progress and progress(split, done, len(samples)))
        with contextlib.suppress(UserError):  # one that cannot be read is among the broken
            found = find_doubtful(Subset(samples, whole))
            survey.doubt = f"{found[1]} ({samples.names[whole[found[0]]]})" if found else ""
    return survey


def _broken(samples: FilesOnDisk, whole: list[int], progress: Callable[[int], Any]) -> list[tuple[str, str]]:
    broken = []
    pool = ThreadPoolExecutor(usable_cores())  # decoding leaves Python's lock
    try:
        for done, (index, reason) in enumerate(
            zip(whole, pool.map(lambda i: _reason(samples, i), whole), strict=True)
        ):
            if reason:
                broken.append((samples.frames[index].name, reason))
            progress(done + 1)
    finally:
        pool.shutdown(cancel_futures=True)  # after Ctrl-C nobody waits for what was not begun
    return broken


def _reason(samples: FilesOnDisk, index: int) -> str:
    try:
        samples[index]
    except UserError as error:
        return str(error)
    return ""
