"""Object detection: boxes with a class and a score, in a single image."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data import formats
from ..files import write_text
from .colours import draw_boxes
from .files import Predicted, Writer
from .task import Task


def draw(image: NDArray[np.uint8], values: Mapping[str, Any]) -> NDArray[np.uint8]:
    """Return `image` (H, W, 3) with boxes (N, 4) xyxy px drawn on it, those of a score below 0.3 left out;
    `names` of the classes may stand among the values."""
    names = values.get("names", ())
    return draw_boxes(image, values["boxes"], values.get("classes"), values.get("scores"), names)


def _json(path: Path, predicted: Predicted) -> None:
    boxes, scores, classes = (predicted.outputs[key] for key in ("boxes", "scores", "classes"))
    names = predicted.classes
    found = [
        {
            "box": [round(float(side), 2) for side in box],
            "score": round(float(score), 5),
            "class": int(number),
            **({"name": names[number]} if 0 <= number < len(names) else {}),
        }
        for box, score, number in zip(boxes, scores, classes.astype(int), strict=True)
    ]
    height, width = predicted.image.shape[:2]
    write_text(path, json.dumps({"width": width, "height": height, "boxes": found}, indent=1) + "\n")


def _drawn(path: Path, predicted: Predicted) -> None:
    formats.write_image(path, draw(predicted.image, {**predicted.outputs, "names": predicted.classes}))


TASK = Task(
    name="detection",
    inputs=("image",),
    outputs=("boxes", "scores", "classes"),
    targets={"boxes": "boxes", "classes": "classes"},
    raw=("class_logits", "distances", "centerness"),
    pixels=frozenset({"distances"}),
    ignore={"classes": -1},
    aside=("ignored_boxes", "ignored_classes"),
    restore={"boxes": "boxes"},
    metrics=("map", "map50"),
    takes="image",
    writers={
        "json": Writer("{}.json", "boxes (left, top, right, bottom in px), scores and classes", _json),
        "color": Writer("{}.color.png", "the image with the boxes drawn", _drawn),
    },
    writes=("json", "color"),
    draw=draw,
)
