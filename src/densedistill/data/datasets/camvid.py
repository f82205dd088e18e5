"""CamVid: driving scenes from Cambridge, 11 classes, in SegNet's split.

G. Brostow et al., Semantic object classes in video: A high-definition ground truth database, PRL 2009; the
split at 480x360 of 367, 101 and 233 images is that of SegNet's tutorial.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from . import DATASETS
from ._base import Frame
from ._labelled import ClassMaps, lookup, read_indices

VOID = 11


@DATASETS.register("camvid")
class CamVid(ClassMaps):
    """CamVid's `train`, `val` and `test` images; the stored 11, unlabelled, is void."""

    name = "camvid"
    layout = "train/NAME.png and trainannot/NAME.png; val, valannot, test and testannot likewise"
    classes = (
        *("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian"),
        "bicyclist",
    )

    def list_frames(self) -> list[Frame]:
        frames = []
        for base in self.index.bases(self.root, self.split)[:1]:
            annotated = base / f"{self.split}annot"
            labels = self.index.stems(annotated)
            for stem, path in sorted(self.index.stems(base / self.split).items()):
                files = {"image": path, "labels": labels.get(stem, annotated / f"{stem}.png")}
                frames.append(Frame(stem, files))
        return frames

    def read_labels(self, path: Path) -> NDArray[np.uint8]:
        stored = read_indices(path)
        # A value beyond the unlabelled one is a fault, which the reader of all data sets names.
        return np.where(stored == VOID, lookup({})[stored], stored)
