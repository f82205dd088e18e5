"""What the data sets on disk have in common, and those of stereo pairs among them."""

from __future__ import annotations

import os
import warnings
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from ...errors import DataWarning, NothingThere, UserError, unknown
from .. import calibration, formats
from ..sample import Sample, disparity_tensors, full_view, image_tensor

SAMPLES = Path(__file__).parent.parent / "samples"

ROLES = {
    "image": "image",
    "depth": "depth",
    "labels": "labels",
    "left": "left image",
    "right": "right image",
    "disparity": "disparity",
    "disparity_right": "right disparity",
    "nonoccluded": "occlusion mask",
    "objects": "object map",
    "calibration": "calibration",
    "left_next": "left image at t1",
    "right_next": "right image at t1",
    "disparity_next": "disparity at t1",
    "flow": "flow",
    "nonoccluded_next": "occlusion mask at t1",
    "nonoccluded_flow": "occlusion mask of the flow",
    "invalid": "mask of invalid pixels",
    "outofframe": "mask of pixels out of the right view",
}


class Frame(NamedTuple):
    """One sample on disk: its name and the file of each role in `ROLES`, there or not."""

    name: str
    files: dict[str, Path]


class FolderIndex:
    """Answers what lies in a folder by listing each folder once, for a network disk answers slowly."""

    def __init__(self) -> None:
        self._files: dict[Path, frozenset[str]] = {}
        self._folders: dict[Path, tuple[str, ...]] = {}

    def _scan(self, folder: Path) -> None:
        if folder in self._files:
            return
        files: list[str] = []
        folders: list[str] = []
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    (folders if entry.is_dir() else files).append(entry.name)
        except OSError:
            pass  # a folder that is not there has no files
        self._files[folder] = frozenset(files)
        self._folders[folder] = tuple(sorted(name for name in folders if not name.startswith(".")))

    def files(self, folder: Path, suffixes: Iterable[str] = formats.IMAGE_SUFFIXES) -> list[str]:
        """Return the names of the files of `folder` with one of these lower-case `suffixes`, sorted."""
        self._scan(folder)
        wanted = frozenset(suffixes)
        names = (name for name in self._files[folder] if not name.startswith("."))
        return sorted(name for name in names if os.path.splitext(name)[1].lower() in wanted)

    def stems(self, folder: Path) -> dict[str, Path]:
        """Return the images of `folder` by name without suffix."""
        return {os.path.splitext(name)[0]: folder / name for name in self.files(folder)}

    def tree(self, folder: Path) -> dict[str, Path]:
        """Return the images at or below `folder` by path relative to it, without suffix."""
        found = self.stems(folder)
        for inside in self.folders(folder):
            found |= {f"{inside.name}/{stem}": path for stem, path in self.tree(inside).items()}
        return found

    def folders(self, folder: Path) -> list[Path]:
        """Return the folders inside `folder`, sorted, hidden ones left out."""
        self._scan(folder)
        return [folder / name for name in self._folders[folder]]

    def walk(self, folder: Path) -> list[Path]:
        """Return `folder` and all folders below it, hidden ones left out."""
        return [folder, *(below for inside in self.folders(folder) for below in self.walk(inside))]

    def has(self, path: Path) -> bool:
        """Return whether the file `path` is there."""
        self._scan(path.parent)
        return path.name in self._files[path.parent]

    def first(self, *paths: Path) -> Path:
        """Return the first of `paths` that is there, or the first of all."""
        return next((path for path in paths if self.has(path)), paths[0])

    def bases(self, root: Path, *markers: str) -> list[Path]:
        """Return where a data set begins: `root`, or folders up to two below that hold one of `markers`."""
        level = [root]
        for _ in range(3):
            found = [folder for folder in level if any((folder / marker).is_dir() for marker in markers)]
            if found:
                return found
            level = [inside for folder in level for inside in self.folders(folder)]
        return []


class FilesOnDisk(Dataset[Sample]):
    """Samples whose files lie below a folder.

    A data set says where its files lie (`list_frames`) and how a sample is read (`__getitem__`).

    Args:
        root: the folder of the files.
        split: one of `splits`; default the first.
        limit: at most so many samples, evenly spread.
        strict: False keeps samples whose files are missing, as `data check` needs.

    Raises:
        UserError: nothing found, or a file without its counterpart.
    """

    task: ClassVar[str]
    name: ClassVar[str]
    layout: ClassVar[str]
    splits: ClassVar[tuple[str, ...]] = ("all",)
    #: Splits whose files are also those of others, so that `data check` need not read them twice.
    partitions: ClassVar[tuple[str, ...]] = ()
    counts: ClassVar[dict[str, int]] = {}
    required: tuple[str, ...]
    #: What to do without the files of a role; default to look at what is missing.
    advice: ClassVar[dict[str, str]] = {}

    def __init__(
        self,
        root: str | os.PathLike[str] | None = None,
        split: str | None = None,
        limit: int | None = None,
        strict: bool = True,
    ):
        if root is None:
            raise UserError(f"data set '{self.name}' needs root, the folder of its files ({self.layout})")
        self.root = Path(root).expanduser()
        if not self.root.exists():
            raise UserError(f"data set '{self.name}': there is no folder {self.root}")
        self.split = self.splits[0] if split is None else split
        if self.split not in self.splits:
            raise unknown("split", self.split, self.splits, of=f"data set '{self.name}'")
        self.index = FolderIndex()
        listed = self.list_frames()
        if not listed:
            raise NothingThere(
                f"data set '{self.name}': nothing of split '{self.split}' in {root}; expected {self.layout}"
            )
        self.missing = [
            (frame.name, role, path)
            for frame in listed
            for role, path in frame.files.items()
            if not self.index.has(path)
        ]
        if strict:
            self._refuse_incomplete()
        gone = {(name, role) for name, role, _ in self.missing}
        self.frames = [
            Frame(name, {role: path for role, path in files.items() if (name, role) not in gone})
            for name, files in _spread(listed, limit)
        ]
        del self.index  # workers need no copy of it

    def _refuse_incomplete(self) -> None:
        incomplete = [gap for gap in self.missing if gap[1] in self.required]
        if incomplete:
            name, role, path = incomplete[0]
            others = len({name for name, *_ in incomplete}) - 1
            are = "sample is" if others == 1 else "samples are"
            more = f" (and {others} more {are} incomplete)" if others else ""
            raise UserError(
                f"data set '{self.name}': sample {name} has no {ROLES[role]}, {path} is missing{more}; "
                + self.advice.get(role, f"`densedistill data check {self.name} {self.root}` lists all")
            )

    @classmethod
    def everything(cls) -> dict[str, Any]:
        """Return the options with which a sample holds all that there is of it."""
        return {}

    def whole(self) -> int | None:
        """Return how many samples the split has where nothing is missing, or None if that is unknown."""
        return self.counts.get(self.split)

    @abstractmethod
    def list_frames(self) -> list[Frame]:
        """Return the samples of `self.split` with every file that should be there."""

    @abstractmethod
    def __getitem__(self, index: int) -> Sample:
        """Return a sample; UserError for a damaged file, sizes that differ, or empty ground truth."""

    def meta_of(self, frame: Frame, size: tuple[int, ...], **more: Any) -> dict[str, Any]:
        """Return the `meta` of a sample that is the whole of its source, `size` (height, width) px."""
        return {"name": frame.name, "dataset": self.name, "size": size, "view": full_view(*size), **more}

    def keep_with(self, role: str) -> None:
        """Leave out the samples without a file of `role`, unless none has one."""
        self.frames = [frame for frame in self.frames if role in frame.files] or self.frames

    @property
    def names(self) -> list[str]:
        """The samples' names, in order; with "/" where the data set has folders."""
        return [frame.name for frame in self.frames]

    def __len__(self) -> int:
        return len(self.frames)


class StereoFiles(FilesOnDisk):
    """Stereo pairs on disk, with ground truth or without.

    A data set says where its files lie (`list_frames`) and what is its own about reading them.

    Args:
        root: the folder of the files.
        split: one of `splits`; default the first.
        want: ground truth to read of what there is: `disparity`, `disparity_right`, `disparity_nonoccluded`,
            `objects`. Leave out what is not needed; decoding costs time.
        limit: at most so many samples, evenly spread.
        strict: False keeps samples whose files are missing, as `data check` needs.

    Raises:
        UserError: nothing found, or a file without its counterpart.
    """

    task: ClassVar[str] = "stereo"
    required: tuple[str, ...] = ("left", "right", "disparity")
    truths: ClassVar[tuple[str, ...]] = (
        "disparity",
        "disparity_right",
        "disparity_nonoccluded",
        "objects",
    )
    disparity_scale: float | None = None

    def __init__(
        self,
        root: str | os.PathLike[str] | None = None,
        split: str | None = None,
        want: Sequence[str] = ("disparity", "disparity_nonoccluded", "objects"),
        limit: int | None = None,
        strict: bool = True,
    ):
        for key in want:
            if key not in self.truths:
                raise unknown("ground truth", key, self.truths, of=f"data set '{self.name}'")
        self.want = frozenset(want)
        super().__init__(root, split, limit, strict)

    @classmethod
    def everything(cls) -> dict[str, Any]:
        return {"want": cls.truths}

    def __getitem__(self, index: int) -> Sample:
        """Return a sample; UserError for a damaged file, views that differ in size, or empty ground truth."""
        frame = self.frames[index]
        left, right = formats.read_images(frame.files["left"], frame.files["right"])
        if left.shape != right.shape:
            raise UserError(
                f"the views differ in size: {frame.files['left']} is {left.shape[1]}x{left.shape[0]} px, "
                f"{frame.files['right']} {right.shape[1]}x{right.shape[0]}; a rectified pair has one size"
            )
        sample: Sample = {"left": image_tensor(left), "right": image_tensor(right)}
        for key in ("disparity", "disparity_right"):
            if key in self.want and key in frame.files:
                sample[key], sample[f"{key}_valid"] = self._disparity(frame.files[key], left.shape[:2])
        if "disparity_nonoccluded" in self.want and "disparity" in sample:
            mask = self.read_nonoccluded(frame, sample)
            if mask is not None:
                where = frame.files.get("nonoccluded", Path(frame.name))
                formats.check_size(where, mask, sample["disparity"].shape[-2:])
                sample["disparity_nonoccluded"] = torch.from_numpy(mask)[None] & sample["disparity_valid"]
        return self._with_the_rest(sample, frame, left.shape[:2])

    def _with_the_rest(self, sample: Sample, frame: Frame, size: tuple[int, ...]) -> Sample:
        """Return the sample with its object map, where that is wanted and there, and its `meta`."""
        if "objects" in self.want and "objects" in frame.files:
            objects = formats.read_grey(frame.files["objects"])
            formats.check_size(frame.files["objects"], objects, size)
            sample["objects"] = torch.from_numpy(objects.astype(np.int64))
        sample["meta"] = self.meta_of(frame, size, calibration=self.read_calibration(frame, size))
        return sample

    def _disparity(self, path: Path, size: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        values = self.read_disparity(path)
        formats.check_size(path, values, size)
        return measured(values, path)

    def read_disparity(self, path: Path) -> NDArray[np.float32]:
        """Return the map in `path`, (H, W) positive px; 0, less, inf and nan are unknown."""
        return formats.read_disparity(path, self.disparity_scale)

    def read_nonoccluded(self, frame: Frame, sample: Sample) -> NDArray[np.bool_] | None:
        """Return where the left view's pixels are seen in the right one, (H, W), or None if unknown."""
        path = frame.files.get("nonoccluded")
        return None if path is None else formats.read_grey(path) == 255

    def read_calibration(self, frame: Frame, size: tuple[int, ...]) -> calibration.Calibration | None:
        """Return the calibration of the pair, or None."""
        path = frame.files.get("calibration")
        return None if path is None else calibration.read_calibration(path)


def measured(values: NDArray[np.float32], where: Path | str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return `disparity_tensors(values)` of the map in `where`; UserError when no pixel is valid."""
    truth, valid = disparity_tensors(values)
    if not valid.any():
        raise UserError(
            f"{where} has no valid pixel (all are 0, negative, inf or nan); leave this sample out"
        )
    return truth, valid


def doubt_strangers(frames: Sequence[Frame], role: str, folder: Path | None, wanted: Sequence[str]) -> None:
    """Warn where ground truth of `role` lies in `folder` and none of it belongs to one of `frames`, since its
    files are called otherwise than the images, or are none of those `wanted` (suffixes)."""
    if folder is None or any(role in frame.files for frame in frames):
        return
    strangers = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    stranger = next(strangers, None)
    if stranger is not None and frames:
        warnings.warn(
            f"no {ROLES[role]} is read: {folder} holds {stranger.relative_to(folder)}, but no file that is "
            f"called like an image, as {frames[0].name} with {' or '.join(wanted)}",
            DataWarning,
            stacklevel=2,
        )


def listed_frames(path: Path, columns: tuple[int, ...]) -> list[list[str]]:
    """Return the columns of a list file, a sample a line; blank lines and those after "#" are left out.

    Raises:
        UserError: no such file, or a line of another number of columns.
    """
    found = []
    for number, line in enumerate(os.fsdecode(formats.read_bytes(path)).splitlines(), start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) not in columns:
            wanted = " or ".join(map(str, columns))
            raise UserError(f"{path}, line {number}: expected {wanted} columns, got '{line}'")
        found.append(words)
    return found


def _spread(frames: list[Frame], limit: int | None) -> list[Frame]:
    if limit is None or limit >= len(frames):
        return frames
    if limit < 1:
        raise UserError(f"limit is the number of samples, 1 or more, got {limit}")
    return [frames[i * len(frames) // limit] for i in range(limit)]
