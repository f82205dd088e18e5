"""KITTI 2012 and KITTI 2015: driving, with sparse ground truth by laser.

A. Geiger et al., Are we ready for autonomous driving?, CVPR 2012; M. Menze and A. Geiger, Object scene flow
for autonomous vehicles, CVPR 2015, https://www.cvlibs.net/datasets/kitti/.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from .. import formats
from ..calibration import Calibration, read_calibration
from ..sample import Sample
from . import DATASETS
from ._base import Frame, StereoFiles

_FOLDERS = {"test": "testing"}
_ANNOTATED = re.compile(r"\d+_10")  # the frame of a sequence that has ground truth
# TSNnet validates on these frames of either. Of 2015 it trains on the other 180, of 2012 on all 194.
_PUBLISHED_VAL = frozenset(
    (1, 6, 26, 38, 43, 49, 67, 81, 89, 109, 122, 129, 132, 141, 152, 159, 171, 179, 184, 187)
)


class KITTI(StereoFiles):
    """What both have in common: a pair is NNNNNN_10, its ground truth a 16-bit PNG of 256ths of a pixel.

    `train` is all of `training/`; `fit` and `val` are our fixed partition of it (every fifth frame
    validates), of which no frame is in both; `published-train` and `published-val` are TSNnet's, which
    overlap in KITTI 2012; `test` is `testing/`, without ground truth. Non-occluded pixels are those with a
    value in the `noc` map.
    """

    splits = ("train", "test", "fit", "val", "published-train", "published-val")
    partitions = ("fit", "val", "published-train", "published-val")
    held_out: ClassVar[bool]
    views: ClassVar[tuple[tuple[str, str], ...]]
    truth: ClassVar[str]
    truth_nonoccluded: ClassVar[str]
    calibration: ClassVar[str]

    def list_frames(self) -> list[Frame]:
        folder = _FOLDERS.get(self.split, "training")
        for views in self.views:
            inside = [
                base / folder for base in self.index.bases(self.root, *(f"{folder}/{v}" for v in views))
            ]
            if any((self.root / view).is_dir() for view in views) and self.root.name != _other(folder):
                inside = [self.root]
            if inside:
                break
        else:
            return []
        frames = [frame for base in inside for frame in self._frames(base, views)]
        if self.split in ("fit", "val"):
            frames = [frame for i, frame in enumerate(frames) if (i % 5 == 0) == (self.split == "val")]
        if self.split == "published-val":
            frames = [frame for frame in frames if _number(frame) in _PUBLISHED_VAL]
        elif self.split == "published-train" and self.held_out:
            frames = [frame for frame in frames if _number(frame) not in _PUBLISHED_VAL]
        return frames

    def _frames(self, base: Path, views: tuple[str, str]) -> list[Frame]:
        left, right = (self.index.stems(base / view) for view in views)
        frames = []
        for stem in sorted(filter(_ANNOTATED.fullmatch, left.keys() | right.keys())):
            files = {
                "left": left.get(stem, base / views[0] / f"{stem}.png"),
                "right": right.get(stem, base / views[1] / f"{stem}.png"),
            }
            if self.split != "test":
                files["disparity"] = base / self.truth / f"{stem}.png"
                files["nonoccluded"] = base / self.truth_nonoccluded / f"{stem}.png"
                files |= self.extra(base, stem)
            calibration = base / self.calibration / f"{stem[:-3]}.txt"
            if self.index.has(calibration):
                files["calibration"] = calibration
            frames.append(Frame(stem, files))
        return frames

    def extra(self, base: Path, stem: str) -> dict[str, Path]:
        """Return what one of the two benchmarks has besides."""
        return {}

    def read_nonoccluded(self, frame: Frame, sample: Sample) -> NDArray[np.bool_] | None:
        path = frame.files.get("nonoccluded")
        return None if path is None else formats.read_disparity_png(path) > 0

    def read_calibration(self, frame: Frame, size: tuple[int, ...]) -> Calibration | None:
        path = frame.files.get("calibration")
        grey = frame.files["left"].parent.name == "image_0"
        return None if path is None else read_calibration(path, cameras=(0, 1) if grey else (2, 3))


def _number(frame: Frame) -> int:
    return int(frame.name.partition("_")[0])


def _other(folder: str) -> str:
    return "testing" if folder == "training" else "training"


@DATASETS.register("kitti2012")
class KITTI2012(KITTI):
    """KITTI 2012: 194 training and 195 test pairs; the colour views where they are there, else the grey."""

    name = "kitti2012"
    layout = "training/{colored_0,colored_1 or image_0,image_1,disp_occ,disp_noc}/NNNNNN_10.png"
    counts: ClassVar[dict[str, int]] = {
        "train": 194,
        "test": 195,
        "published-train": 194,
        "published-val": 20,
    }
    held_out = False
    views = (("colored_0", "colored_1"), ("image_0", "image_1"))
    truth = "disp_occ"
    truth_nonoccluded = "disp_noc"
    calibration = "calib"


@DATASETS.register("kitti2015")
class KITTI2015(KITTI):
    """KITTI 2015: 200 training and 200 test pairs; `objects` numbers the moving cars, 0 is background."""

    name = "kitti2015"
    layout = "training/{image_2,image_3,disp_occ_0,disp_noc_0,obj_map}/NNNNNN_10.png"
    counts: ClassVar[dict[str, int]] = {
        "train": 200,
        "test": 200,
        "published-train": 180,
        "published-val": 20,
    }
    held_out = True
    views = (("image_2", "image_3"),)
    truth = "disp_occ_0"
    truth_nonoccluded = "disp_noc_0"
    calibration = "calib_cam_to_cam"

    def extra(self, base: Path, stem: str) -> dict[str, Path]:
        return {"objects": base / "obj_map" / f"{stem}.png"}
