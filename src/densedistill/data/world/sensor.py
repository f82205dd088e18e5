"""What a camera makes of colours: blur, gain, white balance, gamma, vignetting, noise and eight bits."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

_NOISE_SIZE = 1 << 21


@dataclass
class Sensor:
    """One camera's settings.

    Attributes:
        gain: (3,) exposure and white balance.
        offset: black level.
        gamma: exponent after the gain.
        vignette: loss of light in the corners.
        blur: standard deviation of the lens, px.
        read_noise, shot_noise: standard deviations; the second times the root of the brightness.
        noise_start: where in the noise table this picture begins.
        quality: of JPEG; 0: none.
    """

    gain: np.ndarray
    offset: float
    gamma: float
    vignette: float
    blur: float
    read_noise: float
    shot_noise: float
    noise_start: int
    quality: int


def draw_sensors(seed: int, views: int, difference: float = 1.0, jpeg: float = 0.0) -> list[Sensor]:
    """Draw the cameras of a rig: alike, but for exposure, white balance, gamma, sharpness and noise.

    Args:
        difference: how unlike they may be; 0 makes them equal.
        jpeg: chance of JPEG.
    """
    rng = np.random.default_rng([24, seed])
    exposure, white = rng.uniform(0.85, 1.35), rng.uniform(0.9, 1.1, 3)
    gamma, vignette = rng.uniform(0.65, 1.1), max(0.0, rng.uniform(-0.3, 0.4))
    blur = rng.choice([0.0, rng.uniform(0.25, 0.75)], p=[0.5, 0.5])
    read, shot = rng.uniform(0, 0.012), rng.uniform(0, 0.02)
    spread = difference * rng.choice([0.02, rng.uniform(0, 0.2)], p=[0.6, 0.4])
    quality = int(rng.integers(50, 96)) if rng.random() < jpeg else 0
    return [
        Sensor(
            exposure * white * (1 + spread * rng.uniform(-1, 1)) * (1 + 0.3 * spread * rng.uniform(-1, 1, 3)),
            0.1 * spread * rng.uniform(-1, 1),
            gamma * (1 + 0.5 * spread * rng.uniform(-1, 1)),
            vignette,
            max(0.0, blur * (1 + 2 * spread * rng.uniform(-1, 1))),
            read * (1 + spread * rng.uniform(-1, 1)),
            shot * (1 + spread * rng.uniform(-1, 1)),
            int(rng.integers(_NOISE_SIZE // 2)),
            quality,
        )
        for _ in range(views)
    ]


@functools.lru_cache(maxsize=4)
def _noise_table(device: str) -> Tensor:
    table = np.random.default_rng(25).standard_normal(_NOISE_SIZE, dtype=np.float32)
    return torch.from_numpy(table).to(device)


def _noise(start: int, count: int, device: str) -> Tensor:
    """Return `count` standard normal numbers from the table on."""
    table = _noise_table(device)
    if start + count > _NOISE_SIZE:
        table = table.repeat(2 + count // _NOISE_SIZE)
    return table[start : start + count]


def expose(colours: Tensor, sensor: Sensor) -> Tensor:
    """Return the picture, uint8 (3, H, W), of colours (3, H, W)."""
    _, height, width = colours.shape
    device = colours.device
    if sensor.blur > 0.2:
        colours = _blur(colours, sensor.blur)
    falloff = None
    if sensor.vignette > 0:
        y = torch.linspace(-1, 1, height, device=device).view(-1, 1)
        x = torch.linspace(-1, 1, width, device=device)
        falloff = 1 - sensor.vignette / 2 * (x * x + y * y)
    image = torch.empty_like(colours)
    noise = _noise(sensor.noise_start, image.numel(), str(device)).view_as(image)
    # One channel at a time stays in a core's cache.
    for k, gain in enumerate(sensor.gain.tolist()):
        channel = colours[k] * gain
        if falloff is not None:
            channel.mul_(falloff)
        channel.add_(sensor.offset).clamp_(1e-4, 1).pow_(sensor.gamma)
        strength = (channel * sensor.shot_noise**2).add_(sensor.read_noise**2).sqrt_()
        torch.addcmul(channel, strength, noise[k], out=image[k])
    image = image.mul_(255).add_(0.5).clamp_(0, 255).to(torch.uint8)
    return _through_jpeg(image, sensor.quality) if sensor.quality else image


def _through_jpeg(image: Tensor, quality: int) -> Tensor:
    encoded = cv2.imencode(".jpg", image.permute(1, 2, 0).cpu().numpy(), [cv2.IMWRITE_JPEG_QUALITY, quality])[
        1
    ]
    decoded = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR))
    return torch.from_numpy(np.ascontiguousarray(decoded.transpose(2, 0, 1))).to(image.device)


def _blur(image: Tensor, sigma: float) -> Tensor:
    radius = 1 if sigma < 0.6 else 2
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    weights = (taps / taps.sum()).tolist()
    _, height, width = image.shape
    padded = F.pad(image[None], (radius,) * 4, mode="replicate")[0]
    across = padded[:, :, :width] * weights[0]
    for k, weight in enumerate(weights[1:], 1):
        across.add_(padded[:, :, k : k + width], alpha=weight)
    blurred = across[:, :height] * weights[0]
    for k, weight in enumerate(weights[1:], 1):
        blurred.add_(across[:, k : k + height], alpha=weight)
    return blurred
