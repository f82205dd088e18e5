"""What `predict` works on, by what a task takes: pairs, single images, frames of a video, or sequences."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ..data.datasets import depth_folder, labelled_folder
from ..data.formats import IMAGE_SUFFIXES, read_images, upright
from ..errors import UserError
from ..tasks import Task
from .pairs import PathLike, images_of, names_of, pairs_from, pairs_in_folder, read_list

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
_KITTI_TIME = re.compile(r"(\d+)_(\d\d)")  # scene and time


@dataclass(frozen=True)
class Input:
    """The images (H, W, 3) uint8 of one prediction, and the name that its outputs get.

    Args:
        name: of the outputs.
        files: where the images come from.
        load: reads them where they are no files of their own; frames of a video are to be read in order.
    """

    name: str
    files: tuple[Path, ...]
    load: Callable[[], list[NDArray[np.uint8]]] | None = None

    def read(self, photographs: bool = False) -> list[NDArray[np.uint8]]:
        """Return the images; UserError for a damaged or missing file, or views of different size.

        Args:
            photographs: turn files as they say that they are to be shown (`upright`).
        """
        images = self.load() if self.load else read_images(*self.files)
        if photographs and not self.load:
            images = [upright(path, image) for path, image in zip(self.files, images, strict=True)]
        for path, image in zip(self.files, images, strict=False):
            if image.shape != images[0].shape:
                raise UserError(
                    f"the views differ in size: {self.files[0]} is {images[0].shape[1]}x{images[0].shape[0]} "
                    f"px, {path} {image.shape[1]}x{image.shape[0]}; a rectified pair has one size"
                )
        return images


def inputs_from(task: Task, source: Any, out: PathLike | None = None) -> Iterable[Input]:
    """Return the inputs of `task` that `source` means: a folder, a list file, an image or video, the number
    of a camera, or an iterable of paths (of as many at a time as the task has inputs).

    A video or camera of pairs has both views side by side.

    Args:
        out: where outputs go; see `images_from`.

    Raises:
        UserError: nothing there, or a view without its other.
    """
    if task.takes != "sequence" and _is_video(source):
        return frames_from(source, task)
    if task.takes == "image":
        return images_from(source, out)
    return {"pair": _pairs, "sequence": sequences_from}[task.takes](source)


def _pairs(source: Any) -> list[Input]:
    return [Input(pair.name, (pair.left, pair.right)) for pair in pairs_from(source)]


def images_from(source: Any, out: PathLike | None = None) -> Iterable[Input]:
    """Return single images: a file, all at or below a folder, the first column of a list file, or paths.

    Where a folder has images and ground truth side by side, as `labelled_folder` and `depth_folder` read
    them, ground truth is no image.

    Args:
        out: where outputs go: where that is inside the folder, images there are outputs of before.
    """
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        if path.is_dir():
            files = images_of(path.rglob("*"))
            others = _truths(path)
            if out is not None and _is_inside(out, path):
                others.append(Path(out))
            files = [file for file in files if not any(_is_inside(file, other) for other in others)]
            if not files:
                raise UserError(f"there is no image in {path}")
            return [Input(str(p.relative_to(path).with_suffix("")), (p,)) for p in files]
        files = [path] if path.suffix.lower() in IMAGE_SUFFIXES else [row[0] for row in read_list(path, 1)]
    else:
        files = [Path(p) for p in source]
    return [Input(name, (p,)) for p, name in zip(files, names_of(files), strict=True)]


def _truths(folder: Path) -> list[Path]:
    """Return the folders of ground truth beside those of images in `folder`."""
    found = []
    for images, truths in (
        (labelled_folder.IMAGES, labelled_folder.LABELS),
        (depth_folder.IMAGES, depth_folder.DEPTHS),
    ):
        if any((folder / name).is_dir() for name in images):
            found += [folder / name for name in truths if (folder / name).is_dir()]
    return found


def _is_inside(path: PathLike, folder: PathLike) -> bool:
    return Path(os.path.abspath(folder)) in Path(os.path.abspath(path)).parents


def _is_video(source: Any) -> bool:
    is_path = isinstance(source, (str, os.PathLike))
    return isinstance(source, int) or (is_path and Path(source).suffix.lower() in VIDEO_SUFFIXES)


def frames_from(source: PathLike | int, task: Task) -> Iterator[Input]:
    """Yield the frames of a video file, or of the camera with this number, parted into the views of `task`.

    Raises:
        UserError: it cannot be opened, or its frames are not pairs where the task takes these.
    """
    if not isinstance(source, int) and not Path(source).is_file():
        raise UserError(f"there is no video {source}")
    capture = cv2.VideoCapture(source if isinstance(source, int) else str(source))
    if not capture.isOpened():
        what = f"camera {source}" if isinstance(source, int) else f"video {source}"
        raise UserError(f"cannot open {what}")
    place = Path(f"camera{source}" if isinstance(source, int) else source)

    def load() -> list[NDArray[np.uint8]]:
        done, frame = capture.retrieve()
        if not done:
            raise UserError(f"{source}: a frame cannot be decoded")
        return views_of_frame(frame, task, str(source))

    try:
        number = 0
        while capture.grab():
            yield Input(f"{place.stem}_{number:06d}", (place,), load)
            number += 1
    finally:
        capture.release()
    if number == 0:
        raise UserError(f"{source} has no frame that can be read")


def views_of_frame(frame: Any, task: Task, where: str) -> list[NDArray[np.uint8]]:
    """Return the views (H, W, 3; RGB) in a frame that OpenCV decoded: one, or the two that lie side by side.

    Raises:
        UserError: a frame of `where` that does not halve.
    """
    views = len(task.inputs)
    image = np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), np.uint8)
    if image.shape[1] % views:
        raise UserError(f"{where}: frames {image.shape[1]} px wide are no two views side by side")
    return [np.ascontiguousarray(view) for view in np.split(image, views, axis=1)]


def sequences_from(source: Any) -> list[Input]:
    """Return pairs with those of the next time: a folder of pairs in the order of time (KITTI's `_10` and
    `_11` belong together), a list file of four columns, or an iterable of four paths."""
    if isinstance(source, (str, os.PathLike)) and Path(source).is_dir():
        return _consecutive(Path(source))
    rows = read_list(Path(source), 4) if isinstance(source, (str, os.PathLike)) else list(source)
    files = [tuple(Path(p) for p in row) for row in rows]
    names = names_of([row[0] for row in files])
    return [Input(name, row) for name, row in zip(names, files, strict=True)]


def _consecutive(folder: Path) -> list[Input]:
    pairs = pairs_in_folder(folder)
    times = [_KITTI_TIME.fullmatch(pair.left.stem) for pair in pairs]
    found = []
    for now, later, first, second in zip(pairs[:-1], pairs[1:], times[:-1], times[1:], strict=True):
        if first and second and (first[1] != second[1] or int(second[2]) != int(first[2]) + 1):
            continue
        if Path(now.name).parent != Path(later.name).parent:
            continue
        found.append(Input(now.name, (now.left, now.right, later.left, later.right)))
    if not found:
        raise UserError(f"no pair in {folder} has a next one; a sequence takes two or more")
    return found
