"""Images with boxes: what the readers share, and Pascal VOC's XML."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from ...errors import DataWarning, UserError, nearest
from .. import formats
from ._base import Frame
from ._labelled import ImageFiles

SLACK = 1.0  # px that a box may reach beyond the image: several tools count its last pixel


class Annotated(NamedTuple):
    """One object, or several: its class by name, its sides in px, and whether answers there count neither for
    nor against."""

    label: str
    box: tuple[float, float, float, float]
    ignored: bool = False


class Boxes(ImageFiles):
    """Images with boxes.

    Args:
        bad_boxes: what becomes of a box without size or outside the image: `refuse` or `skip`.
        **options: as every data set of images.
    """

    task = "detection"
    #: Px that a side is longer than.
    least_side: ClassVar[float] = 0.0

    def __init__(
        self,
        root: str | os.PathLike[str] | None = None,
        split: str | None = None,
        bad_boxes: str = "refuse",
        **options: Any,
    ):
        if bad_boxes not in ("refuse", "skip"):
            raise UserError(f"data set '{self.name}': bad_boxes is refuse or skip, got '{bad_boxes}'")
        self.bad_boxes = bad_boxes
        self._doubted = False
        super().__init__(root, split, **options)

    def truth_of(self, objects: Sequence[Annotated], image: NDArray[np.uint8], where: Path) -> dict[str, Any]:
        """Return `boxes` (N, 4) float32 xyxy px and `classes` (N) int64 of `objects`, and where some are
        ignored `ignored_boxes` and `ignored_classes` of those; an ignored one at fault is left out."""
        boxes, classes = [], []
        for thing in (thing for thing in objects if not thing.ignored):
            if thing.label not in self.classes:
                raise UserError(
                    f"{where} holds an object of class '{thing.label}', which data set '{self.name}' does "
                    f"not have{nearest(thing.label, self.classes)}"
                )
            fault = self._fault(thing.box, image.shape)
            if fault and self.bad_boxes == "refuse":
                raise UserError(
                    f"{where}: the box {_sides(thing.box)} of a '{thing.label}' {fault}; mend it, or set "
                    "bad_boxes: skip"
                )
            if not fault:
                boxes.append(thing.box)
                classes.append(self.classes.index(thing.label))
        truth = _arrays(boxes, classes, image)
        ignored = [
            thing
            for thing in objects
            if thing.ignored and thing.label in self.classes and not self._fault(thing.box, image.shape)
        ]
        if ignored:
            numbers = [self.classes.index(thing.label) for thing in ignored]
            aside = _arrays([thing.box for thing in ignored], numbers, image)
            truth |= {f"ignored_{key}": value for key, value in aside.items()}
        return truth

    def check_size(self, frame: Frame, image: NDArray[np.uint8], annotated: Sequence[Any]) -> None:
        """Say where the boxes of `frame` were drawn on an image of another size than the `image` of its file.

        Args:
            frame: the sample.
            image: as read from its file.
            annotated: (height, width) that its annotation says, each a number, a text or None; what is none,
                or 0 as several tools write it, says nothing.

        Raises:
            UserError: they were drawn on the image turned as its file says that it is to be shown.

        Warns:
            DataWarning: they differ otherwise, once for a data set: many an annotation has a wrong size and
                right boxes.
        """
        try:
            height, width = (int(side) for side in annotated)
        except (TypeError, ValueError):
            return
        if (height, width) == image.shape[:2] or 0 in (height, width):
            return
        path = frame.files["image"]
        sizes = f"{path} is {image.shape[1]}x{image.shape[0]} px, its boxes are of {width}x{height}"
        if formats.upright(path, image).shape[:2] == (height, width):
            raise UserError(f"{sizes}: they lie upon the image as its EXIF mark turns it; save it turned so")
        if not self._doubted:
            self._doubted = True
            warnings.warn(f"{sizes}: was it resized without them?", DataWarning, stacklevel=2)

    def _fault(self, box: Sequence[float], shape: Sequence[int]) -> str:
        """Return what is wrong with `box` in an image of `shape`, or nothing."""
        left, top, right, bottom = box
        # Nor has one size whose side is no number.
        if not (right - left > self.least_side and bottom - top > self.least_side):
            return "has no size"
        height, width = shape[:2]
        if left < -SLACK or top < -SLACK or right > width + SLACK or bottom > height + SLACK:
            return f"lies outside its image of {width}x{height} px"
        return ""


class XmlBoxes(Boxes):
    """Boxes in Pascal VOC's XML, with a list file for each split; of several years in one root all are read.

    Args:
        difficult: objects that are marked difficult count like any other; else they are ignored.
        **options: as every data set of boxes.
    """

    least_side = 1.0  # of a box whose last pixel is its first, which is how tools write one without size

    def __init__(
        self,
        root: str | os.PathLike[str] | None = None,
        split: str | None = None,
        difficult: bool = False,
        **options: Any,
    ):
        self.difficult = difficult
        super().__init__(root, split, **options)

    def list_frames(self) -> list[Frame]:
        from .voc import read_list

        frames = []
        bases = self.index.bases(self.root, "Annotations")
        for base in bases:
            inside = f"{base.name}/" if len(bases) > 1 else ""
            for i in read_list(base, ("Main",), (self.split,)):
                files = {
                    "image": base / "JPEGImages" / f"{i}.jpg",
                    "labels": base / "Annotations" / f"{i}.xml",
                }
                frames.append(Frame(f"{inside}{i}", files))
        return frames

    def read_truth(self, frame: Frame, image: NDArray[np.uint8]) -> dict[str, Any]:
        objects, size = read_xml(frame.files["labels"], self.difficult)
        self.check_size(frame, image, size)
        return self.truth_of(objects, image, frame.files["labels"])


def read_xml(path: Path, difficult: bool = False) -> tuple[list[Annotated], tuple[str | None, str | None]]:
    """Return the objects in a Pascal VOC annotation, and the (height, width) that it says of its image.

    VOC counts pixels from 1 and includes the last, so that (1, 1, W, H) is the whole image: `left` and `top`
    are one less here.

    Args:
        path: of the XML file.
        difficult: objects that are marked difficult count like any other; else they are ignored.

    Raises:
        UserError: the file is damaged or a box is incomplete.
    """
    try:
        tree = ElementTree.fromstring(formats.read_bytes(path))
    except ElementTree.ParseError as error:
        raise UserError(f"{path} is no XML: {error}") from None
    objects = []
    for element in tree.iter("object"):
        ignored = element.findtext("difficult", "0").strip() == "1" and not difficult
        try:
            sides = [
                float(element.findtext(f"bndbox/{side}", "")) for side in ("xmin", "ymin", "xmax", "ymax")
            ]
        except ValueError:
            raise UserError(f"{path}: an object lacks a side of its box (xmin, ymin, xmax, ymax)") from None
        box = (sides[0] - 1, sides[1] - 1, sides[2], sides[3])
        objects.append(Annotated(element.findtext("name", "").strip(), box, ignored))
    return objects, (tree.findtext("size/height"), tree.findtext("size/width"))


def _arrays(
    boxes: Sequence[Sequence[float]], classes: Sequence[int], image: NDArray[np.uint8]
) -> dict[str, NDArray[Any]]:
    """Return `boxes`, clipped to the image, and `classes` as arrays."""
    limits = np.array([image.shape[1], image.shape[0]] * 2, np.float32)
    return {
        "boxes": np.clip(np.array(boxes, np.float32).reshape(-1, 4), 0, limits),
        "classes": np.array(classes, np.int64),
    }


def _sides(box: Sequence[float]) -> str:
    return "(" + ", ".join(f"{side:g}" for side in box) + ")"
