"""NYU Depth V2: indoor scenes by a Kinect.

N. Silberman et al., Indoor segmentation and support inference from RGBD images, ECCV 2012,
https://cs.nyu.edu/~fergus/datasets/nyu_depth_v2.html.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ...errors import UserError
from ..calibration import Calibration
from ..nyu_labelled import LabelledFile
from . import DATASETS
from ._base import Frame, listed_frames
from ._depth import DepthFiles

# Of the RGB camera, from the data set's toolbox.
CAMERA = Calibration(518.8579, 519.4696, 325.5824, 253.7362, baseline_m=0.0, size=(480, 640))


@DATASETS.register("nyu")
class NYU(DepthFiles):
    """NYU Depth V2, from the labelled .mat file, from folders, or by a list of the synchronised frames.

    - The labelled file, `nyu_depth_v2_labeled.mat` with `splits.mat` beside it, is read directly.
    - Folders are `{train,test}/SCENE/rgb_N.jpg` with `sync_depth_N.png`, millimetres, as `densedistill data
      make nyu-official` writes them.
    - A list has lines of image, depth and, if known, dense depth, relative to `root`, with or without a
      leading slash; a focal length after them is not read.

    Args:
        root: the folder, or the labelled file itself.
        split: `train` (795 images of the official split) or `test` (654).
        list: a list file, for the synchronised frames.
        dense: read depth whose holes were filled.
        part: `nyu` leaves the white border out, as published training does; default `whole`.
        **options: as every data set of depth.
    """

    name = "nyu"
    layout = (
        "nyu_depth_v2_labeled.mat and splits.mat, or {train,test}/SCENE/rgb_N.jpg and sync_depth_N.png, or a "
        "list that is given"
    )
    splits = ("train", "test")
    counts: ClassVar[dict[str, int]] = {"train": 795, "test": 654}
    expected = (0.4, 9.0)

    def __init__(
        self,
        root: str | os.PathLike[str] | None = None,
        split: str | None = None,
        list: str | os.PathLike[str] | None = None,
        dense: bool = False,
        **options: Any,
    ):
        self.list, self.dense = list, dense
        self.labelled: LabelledFile | None = None
        super().__init__(root, split, **options)

    def whole(self) -> int | None:
        return super().whole() if self.list is None else None  # a list may be any

    def list_frames(self) -> list[Frame]:
        if self.list is not None:
            return self._listed(Path(self.list).expanduser())
        mat = self.root if self.root.is_file() else self.root / "nyu_depth_v2_labeled.mat"
        if mat.is_file():
            self.labelled = LabelledFile(mat)
            return [Frame(f"{i:05d}", {"image": mat}) for i in self.labelled.split(self.split)]
        return self._folders()

    def _listed(self, path: Path) -> list[Frame]:
        path = path if path.is_file() else self.root / path
        frames = []
        for words in listed_frames(path, (2, 3, 4)):
            images = [word.lstrip("/") for word in words if not _is_number(word)]
            if len(images) < 2:
                raise UserError(f"{path}: a line names an image and its depth, got '{' '.join(words)}'")
            if self.dense and len(images) < 3:
                raise UserError(f"{path}: lines name no dense depth, got '{' '.join(words)}'")
            depth = images[2] if self.dense else images[1]
            files = {"image": self.root / images[0], "depth": self.root / depth}
            frames.append(Frame(Path(images[0]).with_suffix("").as_posix(), files))
        return frames

    def _folders(self) -> list[Frame]:
        frames = []
        for scene in self.index.folders(self.root / self.split):
            for stem, image in self.index.stems(scene).items():
                if stem.startswith("rgb_"):
                    number = stem.removeprefix("rgb_")
                    depth = scene / f"sync_depth_{number}.png"
                    if self.dense:
                        depth = scene / "dense" / f"sync_depth_dense_{number}.png"
                    frames.append(Frame(f"{scene.name}/{stem}", {"image": image, "depth": depth}))
        return sorted(frames)

    def read_image(self, frame: Frame) -> NDArray[np.uint8]:
        if self.labelled is not None:
            return self.labelled.image(int(frame.name))
        return super().read_image(frame)

    def read_depth(self, frame: Frame) -> NDArray[np.float32] | None:
        if self.labelled is not None:
            return self.labelled.depth(int(frame.name), raw=not self.dense)
        return super().read_depth(frame)

    def read_calibration(self, frame: Frame, size: tuple[int, ...]) -> Calibration | None:
        return CAMERA if tuple(size) == (480, 640) else None


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
