"""Cityscapes: street scenes of 50 cities, 19 classes.

M. Cordts et al., The Cityscapes dataset for semantic urban scene understanding, CVPR 2016,
https://www.cityscapes-dataset.com. File lists and the table of classes are torchvision's.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torchvision.datasets import Cityscapes as TorchvisionCityscapes

from ...errors import UserError
from . import DATASETS
from ._base import Frame
from ._labelled import ClassMaps, lookup, read_indices

TABLE = TorchvisionCityscapes.classes
# From stored label ids to train ids, and back for submissions: 19 classes, all else void.
TRAIN_IDS = {c.id: c.train_id for c in TABLE if c.id >= 0 and not c.ignore_in_eval and 0 <= c.train_id < 19}
LABEL_IDS = {train: stored for stored, train in TRAIN_IDS.items()}


@DATASETS.register("cityscapes")
class Cityscapes(ClassMaps):
    """Cityscapes' `train` (2975), `val` (500), `test` (1525, without labels) and `train_extra` images.

    Stored label ids become the 19 train ids, everything else is void.

    Args:
        quality: `fine` or `coarse` labels; the latter are all there is for `train_extra`.
        **options: as every data set of images.
    """

    name = "cityscapes"
    layout = "leftImg8bit/SPLIT/CITY/NAME_leftImg8bit.png and gtFine/SPLIT/CITY/NAME_gtFine_labelIds.png"
    splits = ("train", "val", "test", "train_extra")
    counts: ClassVar[dict[str, int]] = {"train": 2975, "val": 500, "test": 1525}
    unlabelled: ClassVar[tuple[str, ...]] = ("test",)
    classes: Sequence[str] = tuple(
        c.name for c in sorted((c for c in TABLE if c.id in TRAIN_IDS), key=lambda c: c.train_id)
    )
    colours: ClassVar[tuple[tuple[int, int, int], ...]] = tuple(
        c.color for c in sorted((c for c in TABLE if c.id in TRAIN_IDS), key=lambda c: c.train_id)
    )

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
        found = []
        for city in self.index.folders(self.root / "leftImg8bit" / self.split):
            for stem, path in sorted(self.index.stems(city).items()):
                name = stem.removesuffix("_leftImg8bit")
                labels = self.root / kind / self.split / city.name / f"{name}_{kind}_labelIds.png"
                found.append(Frame(f"{city.name}/{name}", {"image": path, "labels": labels}))
        return found

    def read_labels(self, path: Path) -> NDArray[np.uint8]:
        return lookup(TRAIN_IDS)[read_indices(path)]
