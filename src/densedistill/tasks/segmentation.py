"""Semantic segmentation: a class for each pixel of a single image."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..data import formats
from .colours import label_colours, label_error_map, labels_of
from .files import Predicted, Writer, array_writer, colour_writer
from .task import Task

OVERLAY = 0.55  # share of the palette's colour over the image


def _png(path: Path, predicted: Predicted) -> None:
    formats.write_image(path, labels_of(predicted.outputs["logits"]).astype(np.uint8))


def _overlay(path: Path, predicted: Predicted) -> None:
    colours = label_colours(predicted.outputs["logits"])
    mixed = OVERLAY * colours + (1 - OVERLAY) * predicted.image
    formats.write_image(path, np.rint(mixed).astype(np.uint8))


TASK = Task(
    name="segmentation",
    inputs=("image",),
    outputs=("logits",),
    targets={"logits": "labels"},
    ignore={"labels": 255},
    restore={"logits": "bilinear"},
    metrics=("miou",),
    takes="image",
    writers={
        "png": Writer("{}.png", "8-bit PNG of the classes' numbers", _png),
        "color": colour_writer("logits", label_colours, says="picture, a colour a class"),
        "overlay": Writer("{}.overlay.png", "the colours laid over the image", _overlay),
        "npy": array_writer("logits", says="float32 NumPy array of the logits (C, H, W)"),
    },
    writes=("png", "overlay"),
    colours={"logits": label_colours},
    error_colours={"logits": label_error_map},
)
