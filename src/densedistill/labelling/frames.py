"""The frames that are labelled: a data set's samples, or files and videos of one's own, by number and by
name."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from ..data.datasets import open_dataset
from ..data.sample import Sample, full_view, image_tensor
from ..data.store import Store
from ..errors import UserError
from ..inference.inputs import VIDEO_SUFFIXES, Input, inputs_from, views_of_frame
from ..tasks import Task

_NUMBER = re.compile(r"(\d+)(?!.*\d)")


class Frames(Protocol):
    """Samples by number, and what they are called."""

    @property
    def names(self) -> Sequence[str]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Sample: ...


def open_frames(source: Mapping[str, Any], task: Task, out: Path | None = None) -> Frames:
    """Return the frames that `source` means.

    Args:
        source: `{"data": NAME, "root": …, …}` for a data set, else `{"frames": PATH}` for a folder, a list
            file, an image, a video, or a store with images.
        task: whose inputs the frames need.
        out: where labels go; what lies there is no frame.

    Raises:
        UserError: nothing there, two frames of one name, frames out of order, or one missing.
    """
    options = dict(source)
    if "data" in options:
        frames: Any = open_dataset(options.pop("data"), task.name, **options)
    else:
        path = Path(options["frames"]).expanduser()
        if (path / "manifest.json").is_file():
            frames = StoredFrames(path, task)
        elif path.suffix.lower() in VIDEO_SUFFIXES:
            frames = VideoFrames(path, task)
        else:
            inputs = list(inputs_from(task, path, out))
            if task.takes == "sequence":
                check_order(inputs)
            frames = FileFrames(inputs, task)
    if not hasattr(frames, "names"):
        raise UserError(f"data set '{source['data']}' has no 'names', one a sample: labels are found by them")
    names = list(frames.names)
    if not names:
        raise UserError(f"there is no frame in {source}")
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise UserError(f"two frames are called '{repeated[0]}'; labels are found by the name")
    strange = next(
        (name for name in names if ".." in name.split("/") or name.startswith("/") or "\\" in name), None
    )
    if strange is not None:
        raise UserError(f"a frame called '{strange}' would be written outside of the labels' folder")
    return frames


def check_order(inputs: Sequence[Input]) -> None:
    """Refuse a sequence whose next frame is not the next: UserError naming what is out of order or
    missing."""
    for one in inputs:
        now, after = (_NUMBER.search(one.files[i].stem) for i in (0, 2))
        if now is None or after is None or one.files[0].parent != one.files[2].parent:
            continue
        first, second = int(now[1]), int(after[1])
        if second <= first:
            raise UserError(
                f"frames are out of order: {one.files[2].name} is given as what follows {one.files[0].name}"
            )
        if second != first + 1:
            raise UserError(
                f"frame {first + 1:0{len(now[1])}d} is missing in {one.files[0].parent}: "
                f"{one.files[2].name} follows "
                f"{one.files[0].name}; a list file says which frames belong together"
            )


class FileFrames:
    """Images in files."""

    def __init__(self, inputs: Sequence[Input], task: Task):
        self.inputs, self.keys = inputs, task.inputs
        self.names = [one.name for one in inputs]

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> Sample:
        return _sample(self.names[index], self.keys, self.inputs[index].read())


class VideoFrames:
    """The frames of a video, decoded in order; pairs lie side by side in them."""

    def __init__(self, path: Path, task: Task):
        if task.takes == "sequence":
            raise UserError(f"task '{task.name}' takes pairs and the next; name a folder or a list of frames")
        if not path.is_file():
            raise UserError(f"there is no video {path}")
        self.path, self.task = path, task
        self._capture: Any = None
        self._place = 0
        count = 0
        capture = self._start()
        while capture.grab():
            count += 1
        self._capture = None
        self.names = [f"{path.stem}_{number:06d}" for number in range(count)]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        if self._capture is None or index < self._place:
            self._capture, self._place = self._start(), 0
        while self._place < index and self._capture.grab():
            self._place += 1
        done, image = self._capture.read()
        self._place += 1
        if not done:
            raise UserError(f"{self.path}: frame {index} cannot be decoded")
        return _sample(self.names[index], self.task.inputs, views_of_frame(image, self.task, str(self.path)))

    def _start(self) -> Any:
        capture = cv2.VideoCapture(str(self.path))
        if not capture.isOpened():
            raise UserError(f"cannot open the video {self.path}")
        return capture


class StoredFrames:
    """The images that a store keeps beside its answers."""

    def __init__(self, root: Path, task: Task):
        self.store, self.keys = Store(root), task.inputs
        self.names = self.store.names

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        name = self.names[index]
        images = self.store.read(name, self.keys)
        size = next(iter(images.values())).shape[-2:]
        return {**images, "meta": _meta(name, size)}


def _sample(name: str, keys: Sequence[str], images: Sequence[np.ndarray]) -> Sample:
    tensors = {
        key: image_tensor(np.ascontiguousarray(image)) for key, image in zip(keys, images, strict=True)
    }
    return {**tensors, "meta": _meta(name, images[0].shape[:2])}


def _meta(name: str, size: Sequence[int]) -> dict[str, Any]:
    return {"name": name, "size": tuple(size), "view": full_view(size[0], size[1])}
