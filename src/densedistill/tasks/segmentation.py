"""Semantic segmentation: a class for each pixel of a single image."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..data import formats
from ..errors import UserError
from .colours import label_colours, label_error_map, labels_of, lay_over
from .files import Predicted, Writer, array_writer
from .task import Task


def _png(path: Path, predicted: Predicted) -> None:
    formats.write_labels_png(path, labels_of(predicted.outputs["logits"]))


def _color(path: Path, predicted: Predicted) -> None:
    formats.write_image(path, label_colours(predicted.outputs["logits"]))


def _overlay(path: Path, predicted: Predicted) -> None:
    colours = label_colours(predicted.outputs["logits"])
    formats.write_image(path, lay_over(predicted.image, colours))


def _label_ids(path: Path, predicted: Predicted) -> None:
    from ..data.datasets.cityscapes import LABEL_IDS

    train_ids = labels_of(predicted.outputs["logits"])
    if train_ids.max() >= len(LABEL_IDS):
        raise UserError(
            f"label ids are those of Cityscapes' {len(LABEL_IDS)} classes; the network predicts class "
            f"{train_ids.max()}"
        )
    table = np.array([LABEL_IDS[number] for number in range(len(LABEL_IDS))], np.uint8)
    formats.write_image(path, table[train_ids])


TASK = Task(
    name="segmentation",
    inputs=("image",),
    outputs=("logits",),
    targets={"logits": "labels"},
    ignore={"labels": 255},
    restore={"logits": "bilinear"},
    metrics=("miou", "accuracy"),
    takes="image",
    writers={
        "png": Writer("{}.png", "8-bit PNG of the classes' numbers", _png),
        "color": Writer("{}.color.png", "picture, a colour a class", _color),
        "overlay": Writer("{}.overlay.png", "the colours laid over the image", _overlay),
        "labelids": Writer("{}_pred_labelIds.png", "Cityscapes' label ids, for a submission", _label_ids),
        "npy": array_writer("logits", says="float32 NumPy array of the logits (C, H, W)"),
    },
    writes=("png", "overlay"),
    colours={"logits": label_colours},
    error_colours={"logits": label_error_map},
)
