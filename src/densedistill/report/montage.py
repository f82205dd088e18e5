"""Scenes as one image, with everybody's answer, for a README or a slide."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ..files import atomic_write
from .pictures import Picture, Scene, colour_disparity, colour_error, shrink

_GAP, _LINE = 8, 24
_INK, _SOFT, _PAPER = (23, 26, 33), (92, 100, 112), (255, 255, 255)


def write_montage(
    picture: Picture, path: str | os.PathLike[str], width: int = 300, quality: int = 82
) -> Path:
    """Write `picture` as an image file and return its path: a column a matcher, each `width` px wide."""
    low, high = picture.range
    truth = colour_disparity(picture.truth, low, high, picture.valid)
    columns = [("left view", picture.left, truth, "ground truth")]
    for name, disparity in picture.predictions.items():
        error = colour_error(disparity, picture.truth, picture.valid)
        columns.append((name, colour_disparity(disparity, low, high), error, picture.captions.get(name, "")))
    tiles = [
        (title, _tile(top, width), _tile(bottom, width), caption) for title, top, bottom, caption in columns
    ]
    height = tiles[0][1].height
    sheet = Image.new("RGB", (len(tiles) * (width + _GAP) + _GAP, 2 * (height + _LINE) + 3 * _GAP), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, (title, top, bottom, caption) in enumerate(tiles):
        x, y = _GAP + number * (width + _GAP), _GAP
        draw.text((x, y), title, _INK, ImageFont.load_default(17))
        sheet.paste(top, (x, y + _LINE))
        sheet.paste(bottom, (x, y + _LINE + height + _GAP))
        draw.text((x, y + _LINE + 2 * height + _GAP + 5), caption, _SOFT, ImageFont.load_default(14))
    with atomic_write(path) as part:
        sheet.save(part, quality=quality)
    return Path(path)


def write_scenes(
    scenes: Sequence[Scene],
    path: str | os.PathLike[str],
    width: int = 220,
    quality: int = 82,
    given: bool = True,
) -> Path:
    """Write `scenes` of any task as an image file and return its path: a row a scene, a column its image, the
    ground truth and each network's answer, each `width` px wide, captions beneath.

    Args:
        given: show image and ground truth; without them, where a licence forbids it, the answers alone.
    """
    rows = []
    for scene in scenes:
        row = [("image", scene.image, ""), ("ground truth", scene.truth, "")] if given else []
        row += [(name, found, scene.captions.get(name, "")) for name, found in scene.predictions.items()]
        rows.append([(name, _tile(picture, width), caption) for name, picture, caption in row])
    line = _LINE if any(caption for row in rows for _, _, caption in row) else 0
    heights = [max(tile.height for _, tile, _ in row) + line + _GAP for row in rows]
    sheet = Image.new("RGB", (len(rows[0]) * (width + _GAP) + _GAP, _GAP + _LINE + sum(heights)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, (name, _, _) in enumerate(rows[0]):
        draw.text((_GAP + number * (width + _GAP), _GAP), name, _INK, ImageFont.load_default(15))
    y = _GAP + _LINE
    for tiles, height in zip(rows, heights, strict=True):
        for number, (_, tile, caption) in enumerate(tiles):
            x = _GAP + number * (width + _GAP)
            sheet.paste(tile, (x, y))
            draw.text((x, y + tile.height + 4), caption, _SOFT, ImageFont.load_default(13))
        y += height
    with atomic_write(path) as part:
        sheet.save(part, quality=quality)
    return Path(path)


def _tile(image: NDArray[np.uint8], width: int) -> Image.Image:
    height = round(image.shape[0] * width / image.shape[1])
    return Image.fromarray(shrink(image, width)).resize((width, height))
