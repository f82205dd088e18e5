"""ETH3D two-view: grey images of rooms and outdoors.

T. Schöps et al., A multi-view stereo benchmark with high-resolution images and multi-camera videos, CVPR
2017, https://www.eth3d.net/datasets#low-res-two-view.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from . import DATASETS
from ._base import Frame
from .middlebury2014 import MiddleburyScenes

_FOLDERS = {"train": ("two_view_training",), "test": ("two_view_test", "two_view_testing")}


@DATASETS.register("eth3d")
class ETH3D(MiddleburyScenes):
    """ETH3D's two-view pairs: 27 for training, 20 for testing without ground truth.

    The archives hold bare scenes. They lie in folders called like the archives, the ground truth in
    `two_view_training_gt/SCENE/` or with the images; or all in one folder, where those for testing are those
    without ground truth.
    """

    name = "eth3d"
    layout = (
        "two_view_training/SCENE/{im0.png,im1.png} and two_view_training_gt/SCENE/{disp0GT.pfm,mask0nocc.png}"
    )
    splits = ("train", "test")
    counts: ClassVar[dict[str, int]] = {"train": 27, "test": 20}

    def list_frames(self) -> list[Frame]:
        folders = _FOLDERS[self.split]
        named = [base / name for name in folders for base in self.index.bases(self.root, name)]
        if self.root.name in folders:
            named = [self.root]
        if named:
            return [
                self.frame(scene, base, self._truth_of(scene, base))
                for base in named
                for scene in self.scenes(base)
            ]
        bare = self.scenes(self.root)
        known = [scene for scene in bare if self.index.has(scene / "disp0GT.pfm")]
        if self.split == "train":
            return [self.frame(scene, self.root, scene) for scene in known or bare]
        return [self.frame(scene, self.root, None) for scene in bare if known and scene not in known]

    def _truth_of(self, scene: Path, base: Path) -> Path | None:
        if self.split == "test":
            return None
        apart = base.parent / f"{base.name}_gt" / scene.relative_to(base)
        return apart if apart.is_dir() else scene
