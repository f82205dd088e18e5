"""Whatever a caller names as data, as labelled sequences of samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.datasets import DATASETS, open_dataset
from ..data.datasets._base import FilesOnDisk
from ..errors import UserError, unknown
from ..tasks import Task
from .protocols import Protocol


@dataclass(frozen=True)
class Source:
    """A data set with the label it has in a table, and its metrics where a protocol fixes them."""

    label: str
    samples: Any
    metrics: tuple[str, ...] = ()


def find_sources(
    data: Any,
    protocol: Protocol,
    task: Task,
    root: Any = None,
    split: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> list[Source]:
    """Return the data sets that `data` means (see `evaluate`).

    Raises:
        UserError: there is no such data set, or nothing was named.
    """
    if protocol.parts:
        return _parts(data, protocol, task, root, split, options)
    if data is None:
        raise UserError(
            "there is nothing to evaluate on: name a data set, or 'samples' for the pairs that ship"
        )
    if isinstance(data, Mapping) and task.inputs[0] not in data:
        return [_one(value, str(label), task, root, split, options) for label, value in data.items()]
    if isinstance(data, str) and data == "samples":
        if split is not None or options:
            raise UserError("the samples that ship are one set, without splits or options; leave these out")
        return _shipped(task)
    if isinstance(data, (list, tuple)) and data and all(isinstance(entry, str) for entry in data):
        return [one for name in data for one in find_sources(name, protocol, task, root, split, options)]
    return [_one([data] if isinstance(data, Mapping) else data, None, task, root, split, options)]


def _one(
    data: Any,
    label: str | None,
    task: Task,
    root: Any,
    split: str | None,
    options: Mapping[str, Any] | None,
) -> Source:
    if isinstance(data, str):
        if ":" not in data and data not in DATASETS:
            raise unknown("data set", data, ["samples", *DATASETS])
        chosen = root.get(data) if isinstance(root, Mapping) else root
        samples = open_dataset(data, task.name, root=chosen, split=split, **(options or {}))
        return Source(label or data, keep_measurable(samples, task))
    if not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
        raise UserError(
            f"data is a data set, the name of one or a list of samples, got {type(data).__name__}"
        )
    return Source(label or getattr(data, "name", None) or _label(data), data)


def keep_measurable(samples: Any, task: Task) -> Any:
    """Return a data set of files without the samples that lack the ground truth of `task`, as some of a
    folder of your own may; one without any is left as it is, and measuring on it says so."""
    if isinstance(samples, FilesOnDisk):
        samples.keep_with(task.targets[task.outputs[0]])
    return samples


def _shipped(task: Task) -> list[Source]:
    """Return the samples that ship for `task`: for stereo Motorcycle (Middlebury 2014, quarter size) and
    Cones (Middlebury 2003)."""
    if not task.samples:
        raise UserError(f"no samples ship for {task.name}; name a data set, 'world' for procedural scenes")
    return [Source(label, open_dataset(name, task.name)) for label, name in task.samples.items()]


def _parts(
    data: Any,
    protocol: Protocol,
    task: Task,
    root: Any,
    split: str | None,
    options: Mapping[str, Any] | None,
) -> list[Source]:
    """Return the data sets of a protocol that brings its own: given in `data`, or found below `root`."""
    given: dict[str, Any] = dict(data) if isinstance(data, Mapping) else {}
    if isinstance(root, Mapping):
        for name in root:
            if name not in protocol.parts:
                raise UserError(
                    f"protocol '{protocol.name}' has no data set '{name}'; it has {_names(protocol)}"
                )
        places = {name: Path(place) for name, place in root.items()}
    elif root is not None:
        places = {name: Path(root) / name for name in protocol.parts if (Path(root) / name).is_dir()}
    else:
        places = {}
    sources = []
    for name, metrics in protocol.parts.items():
        if name in given:
            sources.append(Source(name, given[name], metrics))
        elif name in places:
            sources.append(Source(name, _open_part(name, task, places[name], split, options), metrics))
    if not sources:
        where = f" below {root}" if isinstance(root, (str, Path)) else ""
        raise UserError(
            f"protocol '{protocol.name}' needs the root of at least one of {_names(protocol)}{where}"
        )
    return sources


def _open_part(
    name: str, task: Task, root: Path, split: str | None, options: Mapping[str, Any] | None
) -> Any:
    name = "middleburyeval3" if name == "middlebury" else name
    return open_dataset(name, task.name, root=root, split=split, **(options or {}))


def _names(protocol: Protocol) -> str:
    return ", ".join(protocol.parts)


def _label(data: Any) -> str:
    return "samples" if isinstance(data, (list, tuple)) else type(data).__name__.lower()
