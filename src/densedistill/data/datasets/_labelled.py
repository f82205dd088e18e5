"""What the data sets of single images on disk have in common, labelled by class maps or by boxes."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from ...errors import UserError
from .. import formats
from ..sample import BOXES, IGNORE_LABEL, Sample, image_tensor
from ._base import FilesOnDisk, Frame


class ImageFiles(FilesOnDisk):
    """Single images on disk with ground truth, or without.

    A data set says where its files lie (`list_frames`) and how its labels are read.

    Args:
        root: the folder of the files.
        split: one of `splits`; default the first.
        size: (height, width) px that images and labels are resized to; None keeps them.
        labelled: False reads the images alone, for training on a teacher's answers.
        cache: keep what was read in memory, for small sets and small sizes: reading is then done once.
        limit: at most so many samples, evenly spread.
        strict: False keeps samples whose files are missing, as `data check` needs.

    Raises:
        UserError: nothing found, or an image without its labels.
    """

    splits: ClassVar[tuple[str, ...]] = ("train", "val", "test")
    required: tuple[str, ...] = ("image", "labels")
    advice: ClassVar[dict[str, str]] = {"labels": "set labelled: false to train on a teacher's answers alone"}
    unlabelled: ClassVar[tuple[str, ...]] = ()
    classes: Sequence[str] = ()

    def __init__(
        self,
        root: str | os.PathLike[str] | None = None,
        split: str | None = None,
        size: Sequence[int] | None = None,
        labelled: bool = True,
        cache: bool = False,
        limit: int | None = None,
        strict: bool = True,
    ):
        if size is not None and (len(size) != 2 or min(size) < 1):
            raise UserError(f"data set '{self.name}' needs size [height, width] in px, got {list(size)}")
        self.size = None if size is None else (int(size[0]), int(size[1]))
        self.cache: dict[int, Sample] | None = {} if cache else None
        self.labelled = labelled and split not in self.unlabelled
        if not self.labelled:
            self.required = ("image",)
        super().__init__(root, split, limit, strict)

    @abstractmethod
    def read_truth(self, frame: Frame, image: NDArray[np.uint8]) -> dict[str, Any]:
        """Return the ground truth of a sample as NumPy arrays, at the size of its file."""

    def __getitem__(self, index: int) -> Sample:
        """Return a sample; UserError for a damaged file, or labels that do not fit."""
        if self.cache is None:
            return self._read(index)
        if index not in self.cache:
            self.cache[index] = self._read(index)
        # Tensors are shared: nothing downstream changes one in place.
        return dict(self.cache[index])

    def _read(self, index: int) -> Sample:
        frame = self.frames[index]
        image = formats.read_image(frame.files["image"])
        wanted = self.labelled and "labels" in frame.files
        truth = self.read_truth(frame, image) if wanted else {}
        source = image.shape[:2]
        if self.size is not None and self.size != source:
            image, truth = self._resized(image, truth)
        sample: Sample = {"image": image_tensor(image)}
        sample |= {key: torch.from_numpy(value) for key, value in truth.items()}
        more = {"source_size": source, "classes": tuple(self.classes)}
        sample["meta"] = self.meta_of(frame, image.shape[:2], **more)
        return sample

    def _resized(
        self, image: NDArray[np.uint8], truth: Mapping[str, NDArray[Any]]
    ) -> tuple[NDArray[np.uint8], dict[str, NDArray[Any]]]:
        assert self.size is not None
        height, width = self.size
        factors = np.array([width / image.shape[1], height / image.shape[0]] * 2, np.float32)
        way = cv2.INTER_AREA if height < image.shape[0] else cv2.INTER_LINEAR
        image = np.asarray(cv2.resize(image, (width, height), interpolation=way), np.uint8)
        resized = dict(truth)
        if "labels" in truth:
            labels = truth["labels"].astype(np.uint8)
            resized["labels"] = cv2.resize(
                labels, (width, height), interpolation=cv2.INTER_NEAREST_EXACT
            ).astype(np.int64)
        resized |= {key: truth[key] * factors for key in BOXES if key in truth}
        return image, resized


class ClassMaps(ImageFiles):
    """Images with a class for each pixel."""

    task = "segmentation"

    def read_truth(self, frame: Frame, image: NDArray[np.uint8]) -> dict[str, Any]:
        path = frame.files["labels"]
        if path.suffix.lower() in (".jpg", ".jpeg"):
            raise UserError(f"{path} is a JPEG, which keeps no label as it was; write the labels as PNG")
        stored = self.read_labels(path)
        formats.check_size(path, stored, image.shape[:2])
        known = stored != IGNORE_LABEL
        if not known.any():
            raise UserError(f"{path} is all void, it labels no pixel; leave this sample out")
        if stored[known].max() >= len(self.classes):
            raise UserError(
                f"{path} holds label {stored[known].max()}, the data set '{self.name}' has classes "
                f"0 to {len(self.classes) - 1} and 255 for void; map its values"
            )
        return {"labels": stored.astype(np.int64)}

    def read_labels(self, path: Path) -> NDArray[np.uint8]:
        """Return the class of each pixel in `path`, (H, W); 255 is void."""
        return read_indices(path)


def read_indices(path: Path) -> NDArray[np.uint8]:
    """Return the indices of a one-channel or palette PNG, (H, W) uint8; UserError when it has colours."""
    from PIL import Image

    formats.check_image(path)
    try:
        with Image.open(path) as picture:
            if picture.mode not in ("L", "P", "1", "I", "I;16"):
                raise UserError(
                    f"{path} is a {picture.mode} image; labels are numbers in one channel, or give colours"
                )
            values = np.asarray(picture)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"cannot read labels from {path}: {str(error).splitlines()[0]}") from None
    for label in (values.min(initial=0), values.max(initial=0)):
        if not 0 <= label <= IGNORE_LABEL:
            raise UserError(f"{path} holds label {label}; labels are 0 to 254, 255 is void")
    return values.astype(np.uint8)


def class_names(classes: Sequence[str], name: str) -> tuple[str, ...]:
    """Return the `classes` given to data set `name`; UserError for a text, whose letters are no classes."""
    if isinstance(classes, str):
        raise UserError(f"data set '{name}': classes is a list of names, got '{classes}'; write [{classes}]")
    return tuple(classes)


def lookup(known: Mapping[int, int]) -> NDArray[np.uint8]:
    """Return the table (256,) from stored values to classes; what is not `known` is void."""
    table = np.full(256, IGNORE_LABEL, np.uint8)
    for stored, number in known.items():
        table[stored] = number
    return table
