"""Submissions to Cityscapes' pixel-level benchmark: written by `predict --write labelids`, checked here."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np

from ..data.datasets._labelled import read_indices
from ..data.datasets.cityscapes import LABEL_IDS
from ..errors import UserError

SIZE = (1024, 2048)
TEST_IMAGES = 1525
CITIES = ("berlin", "bielefeld", "bonn", "leverkusen", "mainz", "munich")
_FRAME = re.compile(r"([a-z]+)_\d{6}_\d{6}")


def check_submission(folder: str | os.PathLike[str], images: int = TEST_IMAGES) -> int:
    """Return the number of prediction files in `folder`, when they are what the benchmark's server takes.

    Each test image must have one PNG somewhere in the folder whose name holds CITY_SEQUENCE_FRAME, of
    2048x1024 px in one channel, which holds label ids of the 19 classes.

    Args:
        folder: of the predictions, or several below it.
        images: how many there must be.

    Raises:
        UserError: the first fault found: a file, and what is wrong with it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}")
    allowed = np.zeros(256, bool)
    allowed[list(LABEL_IDS.values())] = True
    seen: dict[str, Path] = {}
    for path in sorted(folder.rglob("*.png")):
        frame = _FRAME.search(path.name)
        if frame is None:
            raise UserError(f"{path} names no frame: a name holds CITY_SEQUENCE_FRAME, as the images' do")
        if images == TEST_IMAGES and frame[1] not in CITIES:
            raise UserError(f"{path} is of {frame[1]}, which is not in the test set ({', '.join(CITIES)})")
        if frame[0] in seen:
            raise UserError(f"{path} and {seen[frame[0]]} are both of {frame[0]}; keep one")
        seen[frame[0]] = path
        labels = read_indices(path)
        if labels.shape != SIZE:
            raise UserError(f"{path} is {labels.shape[1]}x{labels.shape[0]} px; predictions are 2048x1024")
        wrong = np.unique(labels[~allowed[labels]])
        if len(wrong):
            raise UserError(
                f"{path} holds label id {wrong[0]}, which is not evaluated; are these train ids? write them "
                "with `densedistill predict --write labelids`"
            )
    if len(seen) != images:
        raise UserError(f"{folder} has predictions for {len(seen)} images, the test set has {images}")
    return len(seen)
