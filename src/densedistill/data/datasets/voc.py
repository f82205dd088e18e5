"""Pascal VOC: 20 classes of objects, as class maps (with the augmented labels) and as boxes.

M. Everingham et al., The Pascal visual object classes challenge, IJCV 2010; 10,582 augmented labels by B.
Hariharan et al., Semantic contours from inverse detectors, ICCV 2011.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from ...errors import UserError
from .. import formats
from . import DATASETS
from ._base import Frame
from ._boxes import XmlBoxes
from ._labelled import ClassMaps, class_names

OBJECTS = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train"),
    "tvmonitor",
)


def read_list(root: Path, folders: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return the ids of the first list file there is, ROOT/ImageSets/FOLDER/NAME.txt, else an empty list."""
    for folder in folders:
        for name in names:
            path = root / "ImageSets" / folder / f"{name}.txt"
            if path.is_file():
                lines = os.fsdecode(formats.read_bytes(path)).splitlines()
                return [line.split()[0] for line in lines if line.split()]
    return []


@DATASETS.register("voc")
class VOC(ClassMaps):
    """Pascal VOC 2012's class maps; `train` is the augmented list (10,582), `val` has 1,449 images.

    Of several years in one root the last is read, since it holds the images of those before it. Borders of
    objects (stored 255) are void; class 0 is the background.

    Args:
        augmented: read SegmentationClassAug, which has labels for the augmented list; else the original
            SegmentationClass, which is all that VOC itself has.
        **options: as every data set of images.
    """

    name = "voc"
    layout = (
        "JPEGImages/ID.jpg, SegmentationClassAug/ID.png, ImageSets/SegmentationAug/train_aug.txt; or, with "
        "augmented: false, SegmentationClass/ID.png, ImageSets/Segmentation/train.txt"
    )
    advice: ClassVar[dict[str, str]] = {
        "labels": "augmented: false reads VOC's own SegmentationClass, labelled: false the images alone"
    }
    splits = ("train", "val")
    classes = ("background", *OBJECTS)

    def __init__(
        self,
        root: str | os.PathLike[str] | None = None,
        split: str | None = None,
        augmented: bool = True,
        **options: Any,
    ):
        self.augmented = augmented
        super().__init__(root, split, **options)

    def list_frames(self) -> list[Frame]:
        lists = ["train_aug", "trainaug"] if self.augmented and self.split == "train" else [self.split]
        folder = "SegmentationClassAug" if self.augmented else "SegmentationClass"
        return [
            Frame(i, {"image": base / "JPEGImages" / f"{i}.jpg", "labels": base / folder / f"{i}.png"})
            for base in self.index.bases(self.root, "JPEGImages")[-1:]
            for i in read_list(base, ("SegmentationAug", "Segmentation"), lists)
        ]


@DATASETS.register("voc_detection")
class VOCDetection(XmlBoxes):
    """Boxes in Pascal VOC's XML: the 20 classes of VOC itself, or those of your own data.

    Args:
        classes: names in the order of their numbers; default VOC's 20.
        difficult: objects that are marked difficult count like any other; else they are ignored.
        **options: as every data set of boxes.
    """

    name = "voc_detection"
    layout = "JPEGImages/ID.jpg, Annotations/ID.xml, ImageSets/Main/SPLIT.txt"
    splits = ("train", "val", "trainval", "test")
    partitions = ("trainval",)

    def __init__(
        self,
        root: str | os.PathLike[str] | None = None,
        split: str | None = None,
        classes: Sequence[str] = OBJECTS,
        **options: Any,
    ):
        if not classes:
            raise UserError("data set 'voc_detection' needs classes, the names in the order of their numbers")
        self.classes = class_names(classes, self.name)
        super().__init__(root, split, **options)


@DATASETS.register("bccd")
class BCCD(XmlBoxes):
    """BCCD: 364 images of blood cells, 4,888 boxes of 3 classes (https://github.com/Shenggan/BCCD_Dataset).

    Two of its boxes have no size and are left out.
    """

    name = "bccd"
    layout = "BCCD/JPEGImages/ID.jpg, BCCD/Annotations/ID.xml, BCCD/ImageSets/Main/SPLIT.txt"
    splits = ("train", "val", "test", "trainval")
    partitions = ("trainval",)
    classes = ("RBC", "WBC", "Platelets")

    def __init__(
        self,
        root: str | os.PathLike[str] | None = None,
        split: str | None = None,
        bad_boxes: str = "skip",
        **options: Any,
    ):
        super().__init__(root, split, bad_boxes=bad_boxes, **options)
