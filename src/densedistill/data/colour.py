"""Changes of light, lens and sensor on uint8 images (H, W, 3)."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Image = np.ndarray

_LEVELS = np.arange(256, dtype=np.float32)
_GREY = np.array([0.299, 0.587, 0.114])
_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
_FROM_YIQ = np.linalg.inv(_TO_YIQ)


class Light(NamedTuple):
    """How one view is lit: factors of brightness, contrast and saturation, exponent, and hue in turns."""

    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    gamma: float = 1.0
    hue: float = 0.0


def draw_published(rng: Generator) -> Light:
    """Return the light of the published Middlebury loaders: brightness 0.5-2, gamma and contrast 0.8-1.2."""
    brightness, gamma, contrast = rng.uniform(0.5, 2), rng.uniform(0.8, 1.2), rng.uniform(0.8, 1.2)
    return Light(brightness=brightness, contrast=contrast, gamma=gamma)


def draw_strong(rng: Generator) -> Light:
    """Return the light that RAFT-Stereo (Lipson et al. 2021) trains with, and a gamma of 0.8-1.2."""
    return Light(
        brightness=rng.uniform(0.6, 1.4),
        contrast=rng.uniform(0.6, 1.4),
        saturation=rng.uniform(0.0, 1.4),
        gamma=rng.uniform(0.8, 1.2),
        hue=rng.uniform(-0.5, 0.5) / np.pi,
    )


def relight(image: Image, light: Light) -> Image:
    """Return the image under another light.

    Brightness, gamma and contrast (about the mean grey) are one table; saturation and hue one 3x3 matrix, the
    hue turned in YIQ, which keeps the luminance.
    """
    mean = float(_GREY @ cv2.mean(image)[:3])
    mean = 255 * min(mean * light.brightness / 255, 1) ** light.gamma
    table = 255 * np.minimum(_LEVELS * np.float32(light.brightness / 255), 1) ** np.float32(light.gamma)
    table = (table - mean) * light.contrast + mean
    image = cv2.LUT(image, np.clip(np.rint(table), 0, 255).astype(np.uint8))
    if light.saturation == 1 and light.hue == 0:
        return image
    turn = 2 * np.pi * light.hue
    cos, sin = light.saturation * np.cos(turn), light.saturation * np.sin(turn)
    matrix = _FROM_YIQ @ np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]]) @ _TO_YIQ
    return cv2.transform(image, matrix.astype(np.float32))


def occlude(image: Image, rng: Generator, kind: str) -> Image:
    """Return the image with rectangles of its mean colour, which a network must fill from the other view.

    `published`: with probability 0.2 one of half-height 35-100 and half-width 25-75. `strong`: with
    probability 0.5 one or two of 50-100 px. None is larger than half the image.
    """
    height, width = image.shape[:2]
    if rng.random() >= {"published": 0.2, "strong": 0.5}[kind]:
        return image
    image = image.copy()
    mean = np.rint(cv2.mean(image)[:3]).astype(np.uint8)
    for _ in range(1 if kind == "published" else int(rng.integers(1, 3))):
        if kind == "published":
            size = 2 * rng.uniform(35, 100), 2 * rng.uniform(25, 75)
        else:
            size = rng.uniform(50, 100), rng.uniform(50, 100)
        high, wide = min(int(size[0]), height // 2), min(int(size[1]), width // 2)
        top, left = int(rng.integers(0, height - high + 1)), int(rng.integers(0, width - wide + 1))
        image[top : top + high, left : left + wide] = mean
    return image


@lru_cache(maxsize=1)
def _noise_bank() -> NDArray[np.float32]:
    """Return 4 million standard normal values; drawing them for each image would outlast all else."""
    return np.random.default_rng(0).standard_normal(2**22, dtype=np.float32)


def add_noise(image: Image, rng: Generator, largest: float) -> Image:
    """Return the image with Gaussian noise of a standard deviation drawn from 0 to `largest` levels."""
    bank = _noise_bank()
    start = int(rng.integers(0, max(1, bank.size - image.size + 1)))
    noise = np.resize(bank[start : start + image.size], image.shape)
    return cv2.addWeighted(image, 1.0, noise, rng.uniform(0, largest), 0.0, dtype=cv2.CV_8U)


def blur(image: Image, rng: Generator, largest: float) -> Image:
    """Return the image out of focus, with a Gaussian of a standard deviation drawn from 0 to `largest` px."""
    sigma = rng.uniform(0, largest)
    return cv2.GaussianBlur(image, (0, 0), sigma) if sigma > 0.1 else image


def compress(image: Image, rng: Generator, lowest: int) -> Image:
    """Return the image after JPEG of a quality drawn from `lowest` to 95."""
    quality = int(rng.integers(lowest, 96))
    encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR))
