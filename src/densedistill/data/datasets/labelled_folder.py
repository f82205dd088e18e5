"""A plain folder of images and class maps of your own, with numbers or colours for classes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import UserError
from .. import formats
from ..sample import IGNORE_LABEL
from . import DATASETS
from ._base import Frame
from ._labelled import ClassMaps, class_names, lookup, read_indices

IMAGES = ("images", "image", "rgb", "img", "JPEGImages")
LABELS = ("labels", "label", "masks", "mask", "annotations", "gt", "SegmentationClass")


@DATASETS.register("labelled_folder")
class LabelledFolder(ClassMaps):
    """Images in `images/`, class maps in `labels/` under the same names.

    Folders inside these are read too. With a split its folder is looked for in both (`images/train/`), and
    begins the samples' names. Without a map, a stored number is the class and 255 is void.

    Args:
        classes: names in the order of their numbers.
        ids: stored number to class, by number or name; what is not listed is void.
        colours: class name to its (red, green, blue) in colour PNGs; what is not listed is void.
        images, labels: names of the folders inside `root`, where they have others.
        **options: as every data set of images.
    """

    name = "labelled_folder"
    layout = "images/NAME.jpg and labels/NAME.png, or images/SPLIT/… and labels/SPLIT/…"
    splits = ("all", "train", "val", "test")

    def __init__(
        self,
        root: str | os.PathLike[str] | None = None,
        split: str | None = None,
        classes: Sequence[str] = (),
        ids: Mapping[Any, Any] | None = None,
        colours: Mapping[str, Sequence[int]] | None = None,
        images: str | None = None,
        labels: str | None = None,
        labelled: bool = True,
        **options: Any,
    ):
        if ids is not None and colours is not None:
            raise UserError("data set 'labelled_folder': give ids or colours, not both")
        for key, mapping in (("ids", ids), ("colours", colours)):
            if not isinstance(mapping, Mapping | None):
                raise UserError(f"data set 'labelled_folder': {key} is a mapping, got {mapping}")
        self.classes = class_names(classes, self.name) or tuple(colours or ())
        if labelled and not self.classes:
            raise UserError(
                "data set 'labelled_folder' needs classes, names in the order of their numbers, or colours"
            )
        self.table = (
            None if ids is None else lookup({self._stored(k): self._number(v) for k, v in ids.items()})
        )
        self.colours = None
        if colours is not None:
            self.colours = {_packed(colour, name): self._number(name) for name, colour in colours.items()}
        self.folders = (images, labels)
        super().__init__(root, split, labelled=labelled, **options)

    def _stored(self, value: Any) -> int:
        if not str(value).isdigit() or int(value) > IGNORE_LABEL:
            raise UserError(
                f"data set 'labelled_folder': ids maps stored numbers from 0 to 255, got '{value}'"
            )
        return int(value)

    def _number(self, value: Any) -> int:
        if value in self.classes:
            return self.classes.index(value)
        if isinstance(value, int) and 0 <= value < len(self.classes):
            return value
        raise UserError(
            f"data set 'labelled_folder': '{value}' is none of its classes ({', '.join(self.classes)})"
        )

    def list_frames(self) -> list[Frame]:
        images = self._folder(self.folders[0], IMAGES)
        if images is None:
            return []
        labels = self._folder(self.folders[1], LABELS)
        found = {} if labels is None else self.index.tree(labels)
        missing = self.root / "labels" if labels is None else labels
        inside = "" if self.split == "all" else f"{self.split}/"
        return [
            Frame(f"{inside}{stem}", {"image": path, "labels": found.get(stem, missing / f"{stem}.png")})
            for stem, path in sorted(self.index.tree(images).items())
        ]

    def _folder(self, given: str | None, choices: Sequence[str]) -> Path | None:
        for name in choices if given is None else (given,):
            inside = self.root / name if self.split == "all" else self.root / name / self.split
            if inside.is_dir():
                return inside
        if given is not None:
            raise UserError(f"data set 'labelled_folder': there is no folder {self.root / given}")
        return None

    def read_labels(self, path: Path) -> NDArray[np.uint8]:
        if self.colours is None:
            stored = read_indices(path)
            return stored if self.table is None else self.table[stored]
        image = formats.read_image(path).astype(np.int64)
        packed = (image[..., 0] << 16) + (image[..., 1] << 8) + image[..., 2]
        labels = np.full(packed.shape, IGNORE_LABEL, np.uint8)
        for colour, number in self.colours.items():
            labels[packed == colour] = number
        return labels


def _packed(colour: Sequence[int], name: str) -> int:
    if len(colour) != 3 or not all(isinstance(part, int) and 0 <= part <= 255 for part in colour):
        raise UserError(
            f"data set 'labelled_folder': the colour of '{name}' is three numbers from 0 to 255, got {colour}"
        )
    return (colour[0] << 16) + (colour[1] << 8) + colour[2]
