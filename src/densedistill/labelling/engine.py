"""`label`: frames in, stored answers out, a shard at a time, so that whatever stops it costs one shard at
most."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..data import store
from ..data.views import find_doubtful
from ..distillation.teachers import PredictorTeacher, Teacher, create_teacher
from ..errors import DataWarning, UserError
from ..files import locked, remove_parts
from ..networks.device import find_device
from ..runtimes import Runtime
from ..tasks import get_task
from . import files
from .answer import Labeller
from .frames import Frames, open_frames

Advance = Callable[[int, int], None]

#: What a folder was labelled with, where it is not just "another KEY".
_OTHERWISE = {
    "filters": "other filters",
    "frames": "other frames",
    "frames_sha256": "other frames",
    "images": "other images",
    "mirrored": "other --mirrored",
    "tapped": "other taps",
    "write": "another kind of labels",
}


@dataclass(frozen=True)
class Settings:
    """What is labelled, by whom, and how; plain values, which every process can make its own from.

    Args:
        teacher: `create_teacher`'s arguments, `{"name": …, "weights": …, …}`.
        frames: `{"frames": PATH}` or `{"data": NAME, "root": …, …}`; see `open_frames`.
        out: the folder that is written.
        task: None for the teacher's.
        filters: `(name, options)` each; see `FILTERS`.
        write: `shards`, which a `store` teacher reads, or `files` in the benchmarks' formats.
        shard_size: frames a shard; what a killed run loses at most.
        mirrored: store the answers to the mirrored frames, too, for training with horizontal flips.
        taps: the teacher's taps to store beside its outputs.
        images: store the frames themselves, too.
        device: where the teacher runs; of several processes on `cuda` each takes the next GPU.
    """

    teacher: Mapping[str, Any]
    frames: Mapping[str, Any]
    out: str
    task: str | None = None
    filters: Sequence[tuple[str, Mapping[str, Any]]] = ()
    write: str = "shards"
    shard_size: int = 32
    mirrored: bool = False
    taps: Sequence[str] = ()
    images: bool = False
    device: str = "cpu"


@dataclass
class Labelling:
    """What a run of `label` did: shards found whole, redone because damaged, and made; and the manifest."""

    out: Path
    found: int = 0
    mended: int = 0
    made: int = 0
    manifest: dict[str, Any] = field(default_factory=dict)

    @property
    def frames(self) -> int:
        """How many frames are labelled."""
        return int(self.manifest["frames"])


class Job:
    """`Settings` brought to life in one process: teacher, frames, filters."""

    def __init__(self, settings: Settings):
        self.settings, self.out = settings, Path(settings.out).expanduser()
        if settings.write not in ("shards", "files"):
            raise UserError(f"labels are written as shards or files, not '{settings.write}'")
        if settings.shard_size < 1:
            raise UserError(f"a shard has 1 frame or more, not {settings.shard_size}")
        if settings.write == "files" and (settings.taps or settings.mirrored or settings.images):
            raise UserError("taps, mirrored answers and images are stored in shards alone: --write shards")
        self.teacher: Teacher = create_teacher(**settings.teacher).to(find_device(settings.device))
        task = settings.task or getattr(getattr(self.teacher, "task", None), "name", None)
        self.task = get_task(task or "stereo")
        if self.task.name == "detection":
            raise UserError("labels are maps: disparity, depth, flow or classes of pixels; not boxes")
        self.frames: Frames = open_frames(settings.frames, self.task, self.out)
        self.names = list(self.frames.names)
        self.labeller = Labeller(
            self.teacher, self.task, settings.filters, settings.mirrored, settings.taps, settings.images
        )

    @property
    def shards(self) -> int:
        """How many shards there are in all."""
        return -(-len(self.names) // self.settings.shard_size)

    def describe(self) -> dict[str, Any]:
        """Return what the labels depend on, for the manifest."""
        settings = self.settings
        return {
            "version": store.VERSION,
            "write": settings.write,
            "task": self.task.name,
            "teacher": {
                "name": str(getattr(self.teacher, "name", settings.teacher["name"])),
                "given": _plain(settings.teacher),
                "weights_sha256": digest(self.teacher),
                "max_disparity": self.teacher.max_disparity,
                "align_corners": self.teacher.align_corners,
            },
            "filters": [{"name": name, **_plain(options)} for name, options in settings.filters],
            "frames": len(self.names),
            "frames_sha256": hashlib.sha256("\n".join(self.names).encode()).hexdigest(),
            "shard_size": settings.shard_size,
            "shards": self.shards,
            "mirrored": settings.mirrored,
            "images": settings.images,
            "tapped": _plain(settings.taps),
        }

    def make(self, number: int) -> dict[str, Any]:
        """Label the frames of shard `number`, write it, then its receipt, and return that.

        Raises:
            UserError: a teacher that answers nonsense, a damaged frame, or a full disk.
        """
        first = number * self.settings.shard_size
        chosen = self.names[first : first + self.settings.shard_size]
        counts: dict[str, Any] = {}
        facts: dict[str, Any] = {}

        def labelled() -> Iterator[Any]:
            for offset, name in enumerate(chosen):
                label = self.labeller(self.frames[first + offset], name)
                merge_counts(counts, label.counts)
                facts.update(label.facts)
                yield name, label.arrays

        if self.settings.write == "shards":
            receipt = store.write_shard(self.out, number, labelled())
        else:
            receipt = files.write_files(self.out, labelled())
        receipt |= {"counts": counts, **facts}
        store.write_receipt(self.out, number, receipt)
        return receipt


def label(
    settings: Settings,
    processes: int = 1,
    cluster: str | None = None,
    progress: Advance | None = None,
) -> Labelling:
    """Label what `settings` say, or the rest of it, and return what was done.

    What is there already and whole (by checksum) is kept; a run that was killed goes on where it was, and the
    result is the same, byte for byte.

    Args:
        settings: of the labelling.
        processes: on this machine; or, with a cluster, how many workers there.
        cluster: of Ray: `local` for one on this machine, else its address.
        progress: called with shards done and shards in all.

    Raises:
        UserError: see `Settings`; another labeller is at work on `out`; `out` was labelled otherwise.

    Warns:
        DataWarning: left and right views look swapped.
    """
    from .scale import run_shards

    out = Path(settings.out).expanduser()
    with locked(out, "labeller"):
        job = Job(settings)
        manifest = job.describe()
        _agree(out, manifest)
        remove_parts(out)  # of a run that was killed
        done = Labelling(out)
        receipts: dict[int, dict[str, Any]] = {}
        for number in range(job.shards):
            receipt, damaged = whole(out, number, settings.write)
            done.mended += damaged
            if receipt is not None:
                receipts[number] = receipt
        done.found = len(receipts)
        store.write_manifest(out, {**manifest, "complete": False})
        missing = [number for number in range(job.shards) if number not in receipts]
        if missing:
            found = find_doubtful(job.frames)
            if found is not None:
                where = job.frames.names[found[0]]
                warnings.warn(f"{found[1]} (frame '{where}')", DataWarning, stacklevel=2)
        for number, receipt in run_shards(job, missing, processes, cluster):
            receipts[number] = receipt
            done.made += 1
            if progress is not None:
                progress(len(receipts), job.shards)
        remove_parts(out)  # of workers that died
        done.manifest = {**manifest, **_totals([receipts[n] for n in sorted(receipts)]), "complete": True}
        store.write_manifest(out, done.manifest)
        return done


def whole(out: Path, number: int, write: str) -> tuple[dict[str, Any] | None, bool]:
    """Return the receipt of shard `number` if the shard is there and as it was written, and whether it is
    damaged."""
    receipt = store.read_receipt(out, number)
    if receipt is None:
        return None, store.shard_path(out, number).with_suffix(".json").exists()
    if write == "shards":
        intact = store.checksum(store.shard_path(out, number)) == receipt.get("sha256")
    else:
        intact = all(store.checksum(out / name) == sha for name, sha in receipt.get("files", {}).items())
    return (receipt, False) if intact else (None, True)


def digest(teacher: Teacher) -> str:
    """Return the SHA-256 of all weights of a teacher, those in exported files too; of nothing for one
    without."""
    sha = hashlib.sha256()
    for module in teacher.modules():
        runtime = getattr(module.predict, "net", None) if isinstance(module, PredictorTeacher) else None
        if isinstance(runtime, Runtime):
            sha.update((runtime.card.checksum or store.checksum(runtime.path) or "").encode())
    for key, value in sorted(teacher.state_dict().items()):
        sha.update(key.encode())
        sha.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def merge_counts(total: dict[str, Any], more: Mapping[str, Any]) -> None:
    """Add nested counts to `total`, in place."""
    for key, value in more.items():
        if isinstance(value, Mapping):
            merge_counts(total.setdefault(key, {}), value)
        else:
            total[key] = total.get(key, 0) + value


def _agree(out: Path, manifest: Mapping[str, Any]) -> None:
    """Refuse to go on with labels that were made otherwise."""
    nothing_yet = not any((out / "shards").glob("*.json"))
    if nothing_yet or not (out / store.MANIFEST).is_file():
        return
    try:
        before = store.read_manifest(out)
    except UserError:
        return  # damaged; it is written anew
    for key, value in manifest.items():
        if before.get(key) != json.loads(json.dumps(value)):
            what = _OTHERWISE.get(key, f"another {key}")
            raise UserError(f"{out} was labelled with {what}; name another folder, or remove this one")


def _totals(receipts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    counts: dict[str, Any] = {}
    for receipt in receipts:
        merge_counts(counts, receipt["counts"])
    facts = {key: receipts[0][key] for key in ("outputs", "channels", "taps") if key in receipts[0]}
    return {"counts": counts, "bytes": sum(receipt["bytes"] for receipt in receipts), **facts}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


__all__ = ["Job", "Labelling", "Settings", "label", "merge_counts", "whole"]
