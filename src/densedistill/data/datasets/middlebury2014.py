"""Middlebury 2014 and the third Middlebury evaluation (MiddEval3), made of it.

D. Scharstein et al., High-resolution stereo datasets with subpixel-accurate ground truth, GCPR 2014,
https://vision.middlebury.edu/stereo/data/scenes2014/ and https://vision.middlebury.edu/stereo/submit3/.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from ...errors import UserError
from ..occlusion import seen_in_both
from ..sample import Sample, disparity_tensors
from . import DATASETS
from ._base import SAMPLES, Frame, StereoFiles


class Scenes(StereoFiles):
    """Pairs with a folder each, a scene, anywhere in `root`.

    Without a mask of what both views see it is made from both views' disparity, where that is there.
    """

    #: What the images are called, without suffix; one of them makes a folder a scene.
    views: ClassVar[frozenset[str]]

    def scenes(self, folder: Path, depth: int = 3) -> list[Path]:
        """Return the scene folders at or up to `depth` below `folder`."""
        if self.views & self.index.stems(folder).keys():
            return [folder]
        if depth == 0:
            return []
        return [scene for inside in self.index.folders(folder) for scene in self.scenes(inside, depth - 1)]

    def name_of(self, scene: Path, base: Path) -> str:
        """Return the name of the scene: its path below `base`."""
        return scene.name if scene == base else scene.relative_to(base).as_posix()

    def read_nonoccluded(self, frame: Frame, sample: Sample) -> NDArray[np.bool_] | None:
        if "nonoccluded" in frame.files or "disparity_right" not in frame.files:
            return super().read_nonoccluded(frame, sample)
        right = self.read_disparity(frame.files["disparity_right"])
        return seen_in_both(sample["disparity"][0].numpy(), right)


class MiddleburyScenes(Scenes):
    """Folders SCENE/{im0,im1}.png with disp0GT.pfm or disp0.pfm (inf = unknown), mask0nocc.png and calib.txt.

    In the mask 255 is seen in both views, 128 occluded, 0 unknown.
    """

    views = frozenset({"im0", "im1"})
    marks: ClassVar[tuple[str, ...]] = ("GT", "")

    def frame(self, scene: Path, base: Path, truth: Path | None) -> Frame:
        """Return the frame of `scene`, named by its path below `base`, with the ground truth in `truth`."""
        files = {"left": scene / "im0.png", "right": scene / "im1.png"}
        if truth is not None:
            files["disparity"] = self.index.first(*(truth / f"disp0{mark}.pfm" for mark in self.marks))
            optional = {
                "disparity_right": self.index.first(*(truth / f"disp1{mark}.pfm" for mark in self.marks)),
                "nonoccluded": truth / "mask0nocc.png",
            }
            files |= {role: path for role, path in optional.items() if self.index.has(path)}
        if self.index.has(scene / "calib.txt"):
            files["calibration"] = scene / "calib.txt"
        return Frame(self.name_of(scene, base), files)


@DATASETS.register("middlebury2014")
class Middlebury2014(MiddleburyScenes):
    """Middlebury 2014: every scene below `root`; without one the Motorcycle pair that ships, quarter size."""

    name = "middlebury2014"
    layout = "SCENE/{im0.png,im1.png,disp0.pfm}, also with -perfect or -imperfect after the name"
    marks = ("", "GT")

    def __init__(self, root: str | os.PathLike[str] | None = None, split: str | None = None, **options: Any):
        super().__init__(SAMPLES / "middlebury2014" if root is None else root, split, **options)

    def list_frames(self) -> list[Frame]:
        return [self.frame(scene, self.root, scene) for scene in self.scenes(self.root)]


@DATASETS.register("middleburyeval3")
class MiddleburyEval3(MiddleburyScenes):
    """MiddEval3, the online benchmark's training and test pairs at full, half or quarter size.

    Args:
        resolution: of the images, "F", "H" or "Q".
        truth: of the ground truth; default as the images. "F" is what the online table measures by, whatever
            size was predicted: for `evaluate --protocol middlebury`, not for training.
        **options: as every data set of files.
    """

    name = "middleburyeval3"
    layout = "MiddEval3/training{F,H,Q}/SCENE/{im0.png,im1.png,disp0GT.pfm,mask0nocc.png}"
    splits = ("train", "test")
    counts: ClassVar[dict[str, int]] = {"train": 15, "test": 15}

    def __init__(
        self,
        root: str | os.PathLike[str] | None = None,
        split: str | None = None,
        resolution: str = "H",
        truth: str | None = None,
        **options: Any,
    ):
        for what, size in (("resolution", resolution), ("truth", truth or resolution)):
            if size not in ("F", "H", "Q"):
                raise UserError(f"{what} of data set '{self.name}' is F, H or Q, got '{size}'")
        if "FHQ".index(truth or resolution) > "FHQ".index(resolution):
            raise UserError(f"truth of data set '{self.name}' is as large as the images or larger")
        self.resolution, self.truth = resolution, truth or resolution
        super().__init__(root, split, **options)

    def list_frames(self) -> list[Frame]:
        folder = {"train": "training", "test": "test"}[self.split] + self.resolution
        found = [base / folder for base in self.index.bases(self.root, folder)]
        if self.root.name == folder:
            found = [self.root]
        return [
            self.frame(scene, base, self._truth_of(scene, base) if self.split == "train" else None)
            for base in found
            for scene in self.scenes(base)
        ]

    def _truth_of(self, scene: Path, base: Path) -> Path:
        if self.truth == self.resolution:
            return scene
        return base.parent / f"training{self.truth}" / scene.relative_to(base)

    def _disparity(self, path: Path, size: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        if self.truth == self.resolution:
            return super()._disparity(path, size)
        return disparity_tensors(self.read_disparity(path))

    def __getitem__(self, index: int) -> Sample:
        """Return a sample; `meta` holds `ndisp`, the range of disparities that the benchmark tells, px."""
        sample = super().__getitem__(index)
        truth = self.frames[index].files.get("disparity")
        calibration = truth.parent / "calib.txt" if truth is not None else None
        if calibration is not None and calibration.is_file():
            found = re.search(r"^ndisp=(\d+)", calibration.read_text(errors="replace"), re.MULTILINE)
            if found:
                sample["meta"]["ndisp"] = int(found[1])
        return sample
