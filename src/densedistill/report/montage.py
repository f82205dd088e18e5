"""Scenes as one image, with everybody's answer, for a README or a slide."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ..files import atomic_write
from .pictures import Picture, Scene, shrink

_GAP, _LINE = 8, 24
_INK, _SOFT, _PAPER = (23, 26, 33), (92, 100, 112), (255, 255, 255)


def write_montage(
    picture: Picture, path: str | os.PathLike[str], width: int = 300, quality: int = 82
) -> Path:
    """Write `picture` as an image file and return its path: a column a matcher, each `width` px wide."""
    scene = picture.scene
    tops = [(scene.image, ""), *((found, "") for found in scene.predictions.values())]
    bottoms = [(scene.truth, "ground truth")]
    bottoms += [(error, scene.captions.get(name, "")) for name, error in scene.errors.items()]
    return _write_sheet(["left view", *scene.predictions], [tops, bottoms], path, width, quality)


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
    titles = [*(["image", "ground truth"] if given else []), *scenes[0].predictions]
    rows = []
    for scene in scenes:
        row = [(scene.image, ""), (scene.truth, "")] if given else []
        rows.append(row + [(p, scene.captions.get(name, "")) for name, p in scene.predictions.items()])
    return _write_sheet(titles, rows, path, width, quality)


def _write_sheet(
    titles: Sequence[str],
    rows: Sequence[Sequence[tuple[NDArray[np.uint8], str]]],
    path: str | os.PathLike[str],
    width: int,
    quality: int,
) -> Path:
    """Draw rows of (picture, caption beneath) under their columns' titles and write the sheet."""
    tiles = [[(_tile(picture, width), caption) for picture, caption in row] for row in rows]
    lines = [_LINE if any(caption for _, caption in row) else 0 for row in rows]
    heights = [
        max(tile.height for tile, _ in row) + line + _GAP for row, line in zip(tiles, lines, strict=True)
    ]
    sheet = Image.new("RGB", (len(titles) * (width + _GAP) + _GAP, _GAP + _LINE + sum(heights)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    columns = [_GAP + number * (width + _GAP) for number in range(len(titles))]
    for x, title in zip(columns, titles, strict=True):
        draw.text((x, _GAP), title, _INK, ImageFont.load_default(16))
    y = _GAP + _LINE
    for row, height in zip(tiles, heights, strict=True):
        for x, (tile, caption) in zip(columns, row, strict=True):
            sheet.paste(tile, (x, y))
            draw.text((x, y + tile.height + 4), caption, _SOFT, ImageFont.load_default(14))
        y += height
    with atomic_write(path) as part:
        sheet.save(part, quality=quality)
    return Path(path)


def _tile(image: NDArray[np.uint8], width: int) -> Image.Image:
    height = round(image.shape[0] * width / image.shape[1])
    return Image.fromarray(shrink(image, width)).resize((width, height))
