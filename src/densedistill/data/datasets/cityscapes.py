"""Cityscapes: street scenes of 50 cities, 19 classes.

M. Cordts et al., The Cityscapes dataset for semantic urban scene understanding, CVPR 2016,
https://www.cityscapes-dataset.com.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ...errors import UserError
from . import DATASETS
from ._base import Frame
from ._labelled import ClassMaps, lookup, read_indices

# Stored label id, name and colour of the 19 classes, by train id; all else is void.
_CLASSES = (
    (7, "road", (128, 64, 128)),
    (8, "sidewalk", (244, 35, 232)),
    (11, "building", (70, 70, 70)),
    (12, "wall", (102, 102, 156)),
    (13, "fence", (190, 153, 153)),
    (17, "pole", (153, 153, 153)),
    (19, "traffic light", (250, 170, 30)),
    (20, "traffic sign", (220, 220, 0)),
    (21, "vegetation", (107, 142, 35)),
    (22, "terrain", (152, 251, 152)),
    (23, "sky", (70, 130, 180)),
    (24, "person", (220, 20, 60)),
    (25, "rider", (255, 0, 0)),
    (26, "car", (0, 0, 142)),
    (27, "truck", (0, 0, 70)),
    (28, "bus", (0, 60, 100)),
    (31, "train", (0, 80, 100)),
    (32, "motorcycle", (0, 0, 230)),
    (33, "bicycle", (119, 11, 32)),
)
LABEL_IDS = {train: stored for train, (stored, _, _) in enumerate(_CLASSES)}
TRAIN_IDS = {stored: train for train, stored in LABEL_IDS.items()}


@DATASETS.register("cityscapes")
class Cityscapes(ClassMaps):
    """Cityscapes' `train` (2975), `val` (500), `test` (1525, without labels) and `train_extra` images.

    Stored label ids become the 19 train ids, everything else is void. Each archive may have been unpacked
    into a folder of its own.

    Args:
        quality: `fine` or `coarse` labels; the latter are all there is for `train_extra`.
        **options: as every data set of images.
    """

    name = "cityscapes"
    layout = "leftImg8bit/SPLIT/CITY/NAME_leftImg8bit.png and gtFine/SPLIT/CITY/NAME_gtFine_labelIds.png"
    splits = ("train", "val", "test", "train_extra")
    counts: ClassVar[dict[str, int]] = {"train": 2975, "val": 500, "test": 1525, "train_extra": 19998}
    unlabelled: ClassVar[tuple[str, ...]] = ("test",)
    classes: Sequence[str] = tuple(name for _, name, _ in _CLASSES)
    colours: ClassVar[tuple[tuple[int, int, int], ...]] = tuple(colour for _, _, colour in _CLASSES)

    def __init__(
        self,
        root: str | os.PathLike[str] | None = None,
        split: str | None = None,
        quality: str | None = None,
        **options: Any,
    ):
        if quality not in (None, "fine", "coarse"):
            raise UserError(f"data set 'cityscapes': quality is fine or coarse, got '{quality}'")
        self.mode = quality or ("coarse" if split == "train_extra" else "fine")
        super().__init__(root, split, **options)

    def list_frames(self) -> list[Frame]:
        kind = "gtFine" if self.mode == "fine" else "gtCoarse"
        images, labelled = f"leftImg8bit/{self.split}", f"{kind}/{self.split}"
        truth = (self.index.bases(self.root, labelled) or [self.root])[0]
        found = []
        for base in self.index.bases(self.root, images)[:1]:
            for city in self.index.folders(base / images):
                for stem, path in sorted(self.index.stems(city).items()):
                    name = stem.removesuffix("_leftImg8bit")
                    labels = truth / labelled / city.name / f"{name}_{kind}_labelIds.png"
                    found.append(Frame(f"{city.name}/{name}", {"image": path, "labels": labels}))
        return found

    def read_labels(self, path: Path) -> NDArray[np.uint8]:
        return lookup(TRAIN_IDS)[read_indices(path)]
