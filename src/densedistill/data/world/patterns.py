"""Procedural patterns: images of noise, stripes, checks, bricks, wood, marble, text and dead leaves, by
generator.

Every pattern is `(rng, size) -> uint8 (size, size, 3)`. None of them needs to tile: textures repeat mirrored.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

Pattern = Callable[[np.random.Generator, int], np.ndarray]


def noise(
    rng: np.random.Generator, size: int, channels: int = 3, first: int = 2, roughness: float = 0.6
) -> np.ndarray:
    """Return smooth multi-octave noise in [0, 1], float32 (size, size, channels).

    Octaves are random grids of `first`, 2 `first`, … cells, each `roughness` times as strong as the last.
    """
    total = np.zeros((size, size, channels), np.float32)
    cells, weight = first, 1.0
    while cells <= size:
        grid = rng.random((cells + 1, cells + 1, channels), dtype=np.float32)
        octave = cv2.resize(
            grid, (size, size), interpolation=cv2.INTER_CUBIC if cells < size else cv2.INTER_NEAREST
        )
        total += weight * octave.reshape(size, size, channels)
        cells, weight = cells * 2, weight * roughness
    low, high = np.percentile(total[::4, ::4], [1, 99])
    return np.clip((total - low) / (high - low + 1e-6), 0, 1)


def _colour(rng: np.random.Generator) -> np.ndarray:
    """Return a colour in [0, 1]: often muted, sometimes saturated, as things are."""
    value, saturation = rng.uniform(0.1, 0.95), rng.beta(1.2, 2.0)
    hue = rng.random(3)
    hue = (hue - hue.min()) / (np.ptp(hue) + 1e-6)
    return (value * (1 - saturation * (1 - hue))).astype(np.float32)


def _palette(rng: np.random.Generator, count: int) -> np.ndarray:
    base, spread = _colour(rng), rng.uniform(0.15, 1.0)
    return np.stack([(1 - spread) * base + spread * _colour(rng) for _ in range(count)]).astype(np.float32)


def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size
    return np.meshgrid(axis, axis)


def _warped_axis(rng: np.random.Generator, size: int, strength: float) -> np.ndarray:
    """Return a coordinate along a random direction, bent by noise, float32 (size, size)."""
    x, y = _grid(size)
    angle = rng.choice([0.0, np.pi / 2, rng.uniform(0, np.pi)])
    bend = noise(rng, size, 1, int(rng.integers(2, 5)), 0.4)[..., 0]
    return np.cos(angle) * x + np.sin(angle) * y + strength * bend


def _mix(palette: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Look `position` in [0, 1] up in the palette, blending neighbours."""
    scaled = np.clip(position, 0, 1) * (len(palette) - 1)
    low = np.minimum(scaled.astype(np.int32), len(palette) - 2)
    part = (scaled - low)[..., None]
    return palette[low] * (1 - part) + palette[low + 1] * part


def _bytes(image: np.ndarray) -> np.ndarray:
    return np.clip(image * 255, 0, 255).astype(np.uint8)


def _grain(rng: np.random.Generator, image: np.ndarray, strength: float) -> np.ndarray:
    return image + strength * (rng.random((*image.shape[:2], 1), dtype=np.float32) - 0.5)


def cloudy(rng: np.random.Generator, size: int) -> np.ndarray:
    """Coloured noise of random roughness: from clouds to sand."""
    field = noise(rng, size, 3, int(2 ** rng.integers(1, 6)), rng.uniform(0.35, 1.1))
    shared = noise(rng, size, 1, int(2 ** rng.integers(1, 6)), rng.uniform(0.35, 1.1))
    part = rng.uniform(0, 0.6)
    low, high = _colour(rng), _colour(rng)
    return _bytes(low + (high - low) * ((1 - part) * shared + part * field))


def blotchy(rng: np.random.Generator, size: int) -> np.ndarray:
    """Flat patches of a few colours with sharp, irregular borders: camouflage, stains, maps."""
    palette = _palette(rng, int(rng.integers(2, 7)))
    field = noise(rng, size, 1, int(2 ** rng.integers(1, 5)), rng.uniform(0.3, 0.8))[..., 0]
    return _bytes(_grain(rng, palette[(field * 0.999 * len(palette)).astype(np.int32)], rng.uniform(0, 0.15)))


def striped(rng: np.random.Generator, size: int) -> np.ndarray:
    """Stripes, straight or wavy, of a few colours, soft or sharp."""
    axis = _warped_axis(rng, size, rng.choice([0.0, rng.uniform(0, 0.3)])) * rng.uniform(4, 40)
    palette = _palette(rng, int(rng.integers(2, 5)))
    if rng.random() < 0.6:
        image = palette[np.floor(axis).astype(np.int32) % len(palette)]
    else:
        image = _mix(palette, 0.5 + 0.5 * np.sin(axis * np.pi))
    return _bytes(_grain(rng, image, rng.uniform(0, 0.15)))


def checked(rng: np.random.Generator, size: int) -> np.ndarray:
    """Tiles: a chess board, or every tile its own shade, with or without joints."""
    x, y = _grid(size)
    across, down = rng.uniform(4, 20, 2) if rng.random() < 0.3 else [rng.uniform(4, 20)] * 2
    column, row = np.floor(x * across).astype(np.int32), np.floor(y * down).astype(np.int32)
    palette = _palette(rng, 2 if rng.random() < 0.4 else 24)
    if len(palette) == 2:
        image = palette[(column + row) % 2]
    else:
        image = palette[rng.integers(0, len(palette), (32, 32))[row, column]]
    if rng.random() < 0.6:
        joint = np.minimum((x * across) % 1, (y * down) % 1) < rng.uniform(0.03, 0.15)
        image = np.where(joint[..., None], _colour(rng), image)
    return _bytes(_grain(rng, image * (0.8 + 0.2 * noise(rng, size, 1, 8, 0.8)), rng.uniform(0, 0.1)))


def bricked(rng: np.random.Generator, size: int) -> np.ndarray:
    """Courses of bricks or planks, shifted by half a length, with mortar and stains."""
    x, y = _grid(size)
    down, ratio = rng.uniform(5, 16), rng.uniform(1.5, 5)
    row = np.floor(y * down).astype(np.int32)
    across = x * down / ratio + (row % 2) * rng.choice([0.5, rng.random()])
    column = np.floor(across).astype(np.int32)
    image = _palette(rng, 16)[rng.integers(0, 16, (32, 64))[row % 32, column % 64]] * 0.5 + 0.5 * _colour(rng)
    width = rng.uniform(0.04, 0.15)
    mortar = np.minimum((across % 1) * ratio, (y * down) % 1) < width
    image = np.where(mortar[..., None], _colour(rng), image)
    return _bytes(image * (0.6 + 0.4 * noise(rng, size, 1, 8, 0.9)))


def wooden(rng: np.random.Generator, size: int) -> np.ndarray:
    """Growth rings cut lengthwise, with fine fibres along them."""
    rings = _warped_axis(rng, size, rng.uniform(0.15, 0.6)) * rng.uniform(4, 20)
    saw = rings % 1
    fibres = cv2.resize(rng.random((size, max(size // 32, 2)), dtype=np.float32), (size, size))
    if rng.random() < 0.5:
        fibres = fibres.T
    light, dark = _colour(rng), _colour(rng) * 0.6
    return _bytes((light + (dark - light) * saw[..., None]) * (0.75 + 0.25 * fibres[..., None]))


def marbled(rng: np.random.Generator, size: int) -> np.ndarray:
    """Thin veins, where noise crosses its middle, over a clouded ground."""
    field = noise(rng, size, 1, int(rng.integers(2, 6)), rng.uniform(0.5, 0.8))
    veins = np.exp(-np.abs(field - 0.5) * rng.uniform(15, 60))
    ground = _colour(rng) * (0.7 + 0.3 * noise(rng, size, 1, 4, 0.7))
    return _bytes(ground + (_colour(rng) - ground) * veins)


def leaves(rng: np.random.Generator, size: int) -> np.ndarray:
    """Dead leaves: shapes of power-law size, one over another; their statistics are those of photographs."""
    image = np.empty((size, size, 3), np.uint8)
    image[:] = _bytes(_colour(rng))
    count = int(rng.integers(60, 700))
    radii = size * 0.012 * rng.random(count) ** (-1 / rng.uniform(1.2, 2.2))
    palette = _bytes(_palette(rng, int(rng.integers(4, 40))))
    shape = rng.integers(0, 4)
    for radius in np.clip(np.sort(radii)[::-1], 1, size / 3):
        colour = tuple(int(c) for c in palette[rng.integers(len(palette))])
        x, y = (int(v) for v in rng.integers(0, size, 2))
        kind = shape if shape < 3 else rng.integers(0, 3)
        if kind == 0:
            cv2.circle(image, (x, y), int(radius), colour, -1, cv2.LINE_AA)
        elif kind == 1:
            axes = (int(radius) + 1, int(radius * rng.uniform(0.2, 1)) + 1)
            cv2.ellipse(image, (x, y), axes, float(rng.uniform(0, 180)), 0, 360, colour, -1, cv2.LINE_AA)
        else:
            corners = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 7))))
            points = np.stack([x + radius * np.cos(corners), y + radius * np.sin(corners)], 1)
            cv2.fillPoly(image, [points.astype(np.int32)], colour, cv2.LINE_AA)
    shade = 0.75 + 0.25 * noise(rng, size, 1, 4, 0.8)
    return _bytes(image / 255.0 * shade)


def written(rng: np.random.Generator, size: int) -> np.ndarray:
    """Lines of letters in a few sizes, as on labels, posters and pages."""
    paper, ink = _colour(rng), _colour(rng)
    if np.abs(paper - ink).mean() < 0.25:
        ink = 1 - paper
    image = np.empty((size, size, 3), np.uint8)
    image[:] = _bytes(paper)
    y = float(rng.uniform(0, 10))
    fixed = rng.random() < 0.5
    scale = rng.uniform(0.3, 1.5)
    while y < size + 20:
        scale = scale if fixed else rng.uniform(0.3, 2.0)
        word = "".join(chr(int(c)) for c in rng.integers(48, 123, 40))
        font = int(rng.integers(0, 8))
        colour = tuple(int(c) for c in _bytes(ink if rng.random() < 0.8 else _colour(rng)))
        y += 30 * scale
        x = int(rng.integers(-20, 10))
        cv2.putText(image, word, (x, int(y)), font, scale, colour, int(rng.integers(1, 3)), cv2.LINE_AA)
    return _bytes(image / 255.0 * (0.9 + 0.1 * noise(rng, size, 1, 4, 0.7)))


def plain(rng: np.random.Generator, size: int) -> np.ndarray:
    """Almost nothing: a colour, a slow gradient and a trace of grain."""
    slow = noise(rng, size, 1, 2, rng.uniform(0.0, 0.3))
    image = _colour(rng) * (1 + rng.uniform(0, 0.3) * (slow - 0.5))
    return _bytes(_grain(rng, image, rng.choice([0.0, 0.02, 0.06])))


def speckled(rng: np.random.Generator, size: int) -> np.ndarray:
    """Grains or dots on a ground: terrazzo, gravel, starry sky, halftone."""
    ground = _colour(rng)
    field = noise(rng, size, 1, int(2 ** rng.integers(4, 8)), rng.uniform(0.0, 0.5))[..., 0]
    palette = _palette(rng, 3)
    image = np.where((field > rng.uniform(0.5, 0.8))[..., None], palette[0], ground)
    image = np.where((field < rng.uniform(0.05, 0.3))[..., None], palette[1], image)
    return _bytes(_grain(rng, image, rng.uniform(0, 0.2)))


def cellular(rng: np.random.Generator, size: int) -> np.ndarray:
    """Voronoi cells with dark borders: pebbles, crackle, leather."""
    count = int(rng.integers(20, 300))
    seeds = np.full((size, size), 255, np.uint8)
    seeds[tuple(rng.integers(0, size, (2, count)))] = 0
    distance, cell = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    shade = np.clip(distance / (distance.max() * rng.uniform(0.3, 1)), 0, 1)[..., None]
    palette = _palette(rng, 32)[rng.integers(0, 32, count + 1)]
    return _bytes(palette[np.minimum(cell, count)] * (1 - rng.uniform(0.2, 0.9) * shade))


def woven(rng: np.random.Generator, size: int) -> np.ndarray:
    """Cloth: two crossing sets of threads, with coloured bands as in tartan."""
    x, y = _grid(size)
    threads = rng.uniform(15, 60)
    over = np.sin(x * threads * np.pi) * np.sin(y * threads * np.pi)
    bands = _palette(rng, 8)
    order = rng.integers(0, 8, 64)
    count = rng.uniform(3, 24)
    warp, weft = bands[order[(x * count).astype(np.int32)]], bands[order[(y * count).astype(np.int32)]]
    part = (0.5 + 0.5 * np.tanh(3 * over))[..., None]
    return _bytes((part * warp + (1 - part) * weft) * (0.85 + 0.15 * over[..., None]))


def scratched(rng: np.random.Generator, size: int) -> np.ndarray:
    """Many thin strokes in few directions: brushed metal, straw, hair, grass."""
    image = np.empty((size, size, 3), np.uint8)
    image[:] = _bytes(_colour(rng))
    palette = _bytes(_palette(rng, 12))
    direction, spread = rng.uniform(0, np.pi), rng.choice([0.05, 0.4, np.pi])
    count = int(rng.integers(150, 900))
    starts, angles = rng.uniform(0, size, (count, 2)), direction + spread * rng.standard_normal(count)
    lengths, picks = rng.uniform(4, size * 0.3, count), rng.integers(0, 12, count)
    for (x, y), angle, length, pick in zip(starts, angles, lengths, picks, strict=True):
        end = (int(x + length * np.cos(angle)), int(y + length * np.sin(angle)))
        cv2.line(image, (int(x), int(y)), end, tuple(int(c) for c in palette[pick]), 1, cv2.LINE_AA)
    return image


PATTERNS: tuple[tuple[Pattern, int], ...] = (
    (cloudy, 5),
    (blotchy, 3),
    (striped, 2),
    (checked, 2),
    (bricked, 2),
    (wooden, 2),
    (marbled, 2),
    (leaves, 6),
    (written, 2),
    (plain, 3),
    (speckled, 3),
    (cellular, 2),
    (woven, 1),
    (scratched, 2),
)


def draw_pattern(index: int, size: int) -> np.ndarray:
    """Return the pattern number `index`, uint8 (size, size, 3); the same for the same number everywhere."""
    rng = np.random.default_rng([20, index])
    kinds = [pattern for pattern, weight in PATTERNS for _ in range(weight)]
    return kinds[index % len(kinds)](rng, size)
