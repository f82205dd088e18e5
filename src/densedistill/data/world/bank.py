"""The textures and cut-outs that scenes draw from: mip-mapped tables on a device, filtered look-ups."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from .cutouts import CUTOUT_SIZE, CUTOUTS, draw_cutout
from .patterns import draw_pattern

SIZE = 256
LEVELS = 7
PATTERN_COUNT = 148
CROPS_PER_PHOTO = 9
PHOTOS = (
    "astronaut",
    "brick",
    "camera",
    "chelsea",
    "china",
    "coffee",
    "flower",
    "grass",
    "gravel",
    "hubble_deep_field",
    "rocket",
)
PHOTO_FIRST = PATTERN_COUNT
TEXTURE_COUNT = PATTERN_COUNT + len(PHOTOS) * CROPS_PER_PHOTO
# Every level is stored with a rim one texel wide, so that looking up needs no clamping.
_STORED = [((SIZE >> level) + 2) ** 2 for level in range(LEVELS)]
_TEXELS = sum(_STORED)
_LEVEL_OFFSETS = np.cumsum([0, *_STORED[:-1]])


@dataclass
class Bank:
    """All textures with their mip levels, and all cut-outs.

    Attributes:
        texels: int32 (TEXTURE_COUNT * texels per pyramid,), 0xBBGGRR packed, finest level first.
        level_offsets: int32 (LEVELS,), where a level starts within a pyramid.
        cutouts: float32 (CUTOUTS * CUTOUT_SIZE ** 2,), signed distance in cells, positive inside.
    """

    texels: Tensor
    level_offsets: Tensor
    cutouts: Tensor

    def colour(self, texture: Tensor, u: Tensor, v: Tensor, lod: Tensor) -> list[Tensor]:
        """Return red, green and blue in [0, 1] at (u, v) texels of the finest level, bilinear in the
        nearest mip level.

        Args:
            texture: int32 (N,), which texture.
            u, v: float32 (N,), any value; textures repeat mirrored.
            lod: float32 (N,), log2 of the texels that one pixel covers.
        """
        taps, weights = self._taps(texture, u, v, lod)
        channels = []
        for shift in (0, 8, 16):
            parts = [
                ((tap >> shift) & 255).float().mul_(weight) for tap, weight in zip(taps, weights, strict=True)
            ]
            channels.append(parts[0].add_(parts[1]).add_(parts[2]).add_(parts[3]).mul_(1 / 255))
        return channels

    def grey(self, texture: Tensor, u: Tensor, v: Tensor, lod: Tensor) -> Tensor:
        """Return the green channel in [0, 1]; arguments as for `colour`."""
        taps, weights = self._taps(texture, u, v, lod)
        parts = [((tap >> 8) & 255).float().mul_(weight) for tap, weight in zip(taps, weights, strict=True)]
        return parts[0].add_(parts[1]).add_(parts[2]).add_(parts[3]).mul_(1 / 255)

    def _taps(self, texture: Tensor, u: Tensor, v: Tensor, lod: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        level = lod.add(0.5).clamp_(0, LEVELS - 1).int()
        size = torch.exp2(level.float().neg_()).mul_(SIZE)
        x, y = _fold(u, size), _fold(v, size)
        x0, y0 = x.floor(), y.floor()
        fx, fy = x.sub_(x0), y.sub_(y0)
        stride = size.int().add_(2)
        first = self.level_offsets.index_select(0, level)
        first.add_(texture * _TEXELS).add_(y0.int().mul_(stride)).add_(x0.int())
        below = first + stride
        taps = [self.texels.index_select(0, i) for i in (first, first + 1, below, below + 1)]
        both = fx * fy
        return taps, [1 - fx - fy + both, fx - both, fy - both, both]

    def inside(self, cutout: Tensor | int, u: Tensor, v: Tensor) -> Tensor:
        """Return the signed distance, cells, at (u, v) in [0, 1], bilinear: above zero inside the cut-out."""
        n = CUTOUT_SIZE
        x = u.mul(n).sub_(0.5).clamp_(0, n - 1.001)
        y = v.mul(n).sub_(0.5).clamp_(0, n - 1.001)
        x0, y0 = x.floor(), y.floor()
        fx, fy = x.sub_(x0), y.sub_(y0)
        first = y0.mul_(n).add_(x0).int().add_(cutout * (n * n))
        flat = first.reshape(-1)
        a, b, c, d = (
            self.cutouts.index_select(0, flat + step).view(first.shape) for step in (0, 1, n, n + 1)
        )
        return torch.lerp(torch.lerp(a, b, fx), torch.lerp(c, d, fx), fy)


def _fold(u: Tensor, size: Tensor) -> Tensor:
    """Return the coordinate in a level of `size` texels, mirrored at its borders, counted from the rim."""
    u = u.mul(1 / (2 * SIZE))
    return u.sub_(u.round()).abs_().mul_(size).mul_(2).add_(0.5)


def _photo_crops(name: str, rng: np.random.Generator) -> list[np.ndarray]:
    path = Path(__file__).parent / "textures" / f"{name}.jpg"
    photo = np.asarray(cv2.imread(str(path), cv2.IMREAD_COLOR_RGB))
    height, width = photo.shape[:2]
    crops = [cv2.resize(photo, (SIZE, SIZE), interpolation=cv2.INTER_AREA)]
    while len(crops) < CROPS_PER_PHOTO:
        side = int(min(height, width) * rng.uniform(0.35, 1.0))
        y, x = int(rng.integers(0, height - side + 1)), int(rng.integers(0, width - side + 1))
        method = cv2.INTER_AREA if side > SIZE else cv2.INTER_CUBIC
        crops.append(cv2.resize(photo[y : y + side, x : x + side], (SIZE, SIZE), interpolation=method))
    return crops


def _pyramid(image: np.ndarray) -> np.ndarray:
    levels = []
    for level in range(LEVELS):
        if level:
            image = cv2.resize(image, (SIZE >> level, SIZE >> level), interpolation=cv2.INTER_AREA)
        wide = np.pad(image, ((1, 1), (1, 1), (0, 0)), mode="edge").reshape(-1, 3).astype(np.int32)
        levels.append(wide[:, 0] | wide[:, 1] << 8 | wide[:, 2] << 16)
    return np.concatenate(levels)


@functools.lru_cache(maxsize=4)
def get_bank(device: str = "cpu") -> Bank:
    """Return the bank on a device, made once per process (about a second)."""
    if device != "cpu":
        bank = get_bank("cpu")
        return Bank(bank.texels.to(device), bank.level_offsets.to(device), bank.cutouts.to(device))
    texels = np.empty((TEXTURE_COUNT, _TEXELS), np.int32)
    for index in range(PATTERN_COUNT):
        texels[index] = _pyramid(draw_pattern(index, SIZE))
    row = PHOTO_FIRST
    for number, name in enumerate(PHOTOS):
        for crop in _photo_crops(name, np.random.default_rng([21, number])):
            texels[row] = _pyramid(crop)
            row += 1
    cutouts = np.stack([draw_cutout(index) for index in range(CUTOUTS)])
    return Bank(
        torch.from_numpy(texels.reshape(-1)),
        torch.from_numpy(_LEVEL_OFFSETS.astype(np.int32)),
        torch.from_numpy(cutouts.reshape(-1)),
    )
