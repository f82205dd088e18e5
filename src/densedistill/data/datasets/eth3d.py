"""ETH3D two-view: grey images of rooms and outdoors.

T. Schöps et al., A multi-view stereo benchmark with high-resolution images and multi-camera videos, CVPR
2017, https://www.eth3d.net/datasets#low-res-two-view.
"""

from __future__ import annotations

from typing import ClassVar

from . import DATASETS
from ._base import Frame
from .middlebury2014 import MiddleburyScenes

_FOLDERS = {"train": "two_view_training", "test": "two_view_test"}


@DATASETS.register("eth3d")
class ETH3D(MiddleburyScenes):
    """ETH3D's two-view pairs: 27 for training, 20 for testing without ground truth.

    Ground truth lies in `two_view_training_gt/SCENE/` as the archives unpack, or with the images.
    """

    name = "eth3d"
    layout = (
        "two_view_training/SCENE/{im0.png,im1.png} and two_view_training_gt/SCENE/{disp0GT.pfm,mask0nocc.png}"
    )
    splits = ("train", "test")
    counts: ClassVar[dict[str, int]] = {"train": 27, "test": 20}

    def list_frames(self) -> list[Frame]:
        folder = _FOLDERS[self.split]
        if self.root.name == folder:
            found = [self.root]
        else:
            found = [base / folder for base in self.index.bases(self.root, folder)]
        if not found and self.split == "train":  # scenes alone, with their ground truth
            found = [self.root]
        frames = []
        for base in found:
            for scene in self.scenes(base):
                apart = base.parent / f"{folder}_gt" / scene.relative_to(base)
                truth = apart if apart.is_dir() else scene
                frames.append(self.frame(scene, base, truth if self.split == "train" else None))
        return frames
