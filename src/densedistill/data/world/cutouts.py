"""Cut-outs: outlines with holes, as signed distance maps, that give flat and bent sheets their shape."""

from __future__ import annotations

import cv2
import numpy as np

CUTOUT_SIZE = 128
CUTOUTS = 96
_SCALE = 4
_N = CUTOUT_SIZE * _SCALE


def _polygon(rng: np.random.Generator) -> np.ndarray:
    corners = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 9))))
    radius = rng.uniform(0.45, 1.0, len(corners)) * 0.48
    return np.stack([0.5 + radius * np.cos(corners), 0.5 + radius * np.sin(corners)], 1)


def _star(rng: np.random.Generator) -> np.ndarray:
    spikes = int(rng.integers(4, 11))
    angle = np.arange(2 * spikes) * np.pi / spikes + rng.uniform(0, 1)
    radius = np.where(np.arange(2 * spikes) % 2 == 0, 0.48, rng.uniform(0.15, 0.35))
    return np.stack([0.5 + radius * np.cos(angle), 0.5 + radius * np.sin(angle)], 1)


def _blob(rng: np.random.Generator) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    radius = sum(
        rng.normal(0, 0.5 / k) * np.cos(k * angle + rng.uniform(0, 6.3))
        for k in range(2, int(rng.integers(4, 12)))
    )
    radius = 1 + 0.5 * radius / (np.abs(radius).max() + 1e-6)
    radius *= 0.48 / radius.max()
    return np.stack([0.5 + radius * np.cos(angle), 0.5 + radius * np.sin(angle)], 1)


def _leaf(rng: np.random.Generator) -> np.ndarray:
    along = np.linspace(0, 1, 60)
    half = rng.uniform(0.15, 0.45) * np.sin(np.pi * along ** rng.uniform(0.6, 1.4))
    half *= 1 + rng.uniform(0, 0.25) * np.abs(np.sin(along * np.pi * rng.integers(3, 9)))
    upper = np.stack([0.02 + 0.96 * along, 0.5 + half], 1)
    lower = np.stack([0.02 + 0.96 * along, 0.5 - half], 1)[::-1]
    return np.clip(np.concatenate([upper, lower]), 0.02, 0.98)


def _fill(image: np.ndarray, points: np.ndarray, value: int) -> None:
    cv2.fillPoly(image, [np.round(points * _N).astype(np.int32)], value)


def _clear_rim(image: np.ndarray) -> None:
    image[:6], image[-6:], image[:, :6], image[:, -6:] = 0, 0, 0, 0


def _solid(rng: np.random.Generator) -> np.ndarray:
    """An outline, with holes now and then."""
    image = np.zeros((_N, _N), np.uint8)
    outline = (_polygon, _star, _blob, _leaf)[int(rng.choice(4, p=[0.35, 0.1, 0.35, 0.2]))]
    _fill(image, outline(rng), 1)
    if rng.random() < 0.5:
        for _ in range(int(rng.integers(1, 6))):
            centre, size = rng.uniform(0.2, 0.8, 2), rng.uniform(0.06, 0.3)
            shape = (_polygon, _blob)[int(rng.integers(2))](rng)
            _fill(image, centre + (shape - 0.5) * size, 0)
    return image


def _disc(rng: np.random.Generator) -> np.ndarray:
    image = np.zeros((_N, _N), np.uint8)
    cv2.circle(image, (_N // 2, _N // 2), int(0.48 * _N), 1, -1)
    return image


def _wheel(rng: np.random.Generator) -> np.ndarray:
    """A rim, a hub and spokes."""
    image = np.zeros((_N, _N), np.uint8)
    middle = (_N // 2, _N // 2)
    rim = int(_N * rng.uniform(0.03, 0.09))
    cv2.circle(image, middle, int(0.48 * _N) - rim // 2, 1, rim)
    cv2.circle(image, middle, int(_N * rng.uniform(0.03, 0.12)), 1, -1)
    spokes, turn = int(rng.integers(0, 16)), rng.uniform(0, 1)
    for k in range(spokes):
        angle = turn + 2 * np.pi * k / spokes
        end = (int(_N / 2 + 0.46 * _N * np.cos(angle)), int(_N / 2 + 0.46 * _N * np.sin(angle)))
        cv2.line(image, middle, end, 1, int(_N * rng.uniform(0.012, 0.03)))
    return image


def _lattice(rng: np.random.Generator) -> np.ndarray:
    """Bars one way or two ways: fences, grids, ladders, blinds."""
    image = np.zeros((_N, _N), np.uint8)
    across, down = int(rng.integers(2, 9)), int(rng.integers(0, 8))
    for count, vertical in ((across, True), (down, False)):
        thick = max(int(_N / max(count, 2) * rng.uniform(0.12, 0.45)), 10)
        for k in range(count):
            at = int(thick / 2 + 6 + k * (_N - thick - 12) / max(count - 1, 1))
            a, b = ((at, 6), (at, _N - 6)) if vertical else ((6, at), (_N - 6, at))
            cv2.line(image, a, b, 1, thick)
    if rng.random() < 0.3:
        turn = cv2.getRotationMatrix2D((_N / 2, _N / 2), 45, 0.95)
        image[:] = cv2.warpAffine(image, turn, (_N, _N), flags=cv2.INTER_NEAREST)
    _clear_rim(image)
    return image


def _frame(rng: np.random.Generator) -> np.ndarray:
    """A rectangle or ring with its middle out, and perhaps bars across: windows, picture frames, chairs."""
    image = np.zeros((_N, _N), np.uint8)
    edge, thick = 8, int(_N * rng.uniform(0.05, 0.16))
    if rng.random() < 0.7:
        cv2.rectangle(image, (edge, edge), (_N - edge, _N - edge), 1, -1)
        cv2.rectangle(image, (edge + thick, edge + thick), (_N - edge - thick, _N - edge - thick), 0, -1)
    else:
        cv2.circle(image, (_N // 2, _N // 2), _N // 2 - edge - thick // 2, 1, thick)
    for _ in range(int(rng.integers(0, 4))):
        at = int(rng.uniform(0.2, 0.8) * _N)
        ends = ((at, edge), (at, _N - edge)) if rng.random() < 0.5 else ((edge, at), (_N - edge, at))
        bar = np.zeros_like(image)
        cv2.line(bar, *ends, 1, int(_N * rng.uniform(0.03, 0.08)))
        outline = np.zeros_like(image)
        cv2.circle(outline, (_N // 2, _N // 2), _N // 2 - edge, 1, -1)
        image |= bar & outline if image[edge, edge] == 0 else bar
    return image


def _branches(rng: np.random.Generator) -> np.ndarray:
    """A twig: a stem that forks into thinner ones, with or without leaves."""
    image = np.zeros((_N, _N), np.uint8)
    leafy = rng.random() < 0.6

    def grow(x: float, y: float, angle: float, length: float, thick: float, depth: int) -> None:
        end = (x + length * np.cos(angle), y + length * np.sin(angle))
        cv2.line(image, (int(x), int(y)), (int(end[0]), int(end[1])), 1, max(int(thick), 5))
        if depth == 0:
            if leafy:
                axes = (int(_N * 0.07), int(_N * rng.uniform(0.02, 0.05)))
                cv2.ellipse(image, (int(end[0]), int(end[1])), axes, np.degrees(angle), 0, 360, 1, -1)
            return
        for _ in range(int(rng.integers(2, 4))):
            grow(*end, angle + rng.normal(0, 0.55), length * rng.uniform(0.55, 0.85), thick * 0.65, depth - 1)

    grow(_N / 2, _N * 0.97, -np.pi / 2, _N * 0.27, _N * 0.05, int(rng.integers(2, 5)))
    _clear_rim(image)
    return image


def _letters(rng: np.random.Generator) -> np.ndarray:
    image = np.zeros((_N, _N), np.uint8)
    text = "".join(chr(int(c)) for c in rng.integers(65, 91, int(rng.integers(1, 3))))
    scale = 15 / len(text)
    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_DUPLEX, scale, 50)
    cv2.putText(image, text, ((_N - width) // 2, (_N + height) // 2), cv2.FONT_HERSHEY_DUPLEX, scale, 1, 50)
    _clear_rim(image)
    return image


# Which cut-outs are of which kind; the order gives the numbers.
_KINDS = ((_disc, 1), (_solid, 43), (_lattice, 16), (_wheel, 8), (_frame, 10), (_branches, 12), (_letters, 6))
_MAKERS = tuple(maker for maker, count in _KINDS for _ in range(count))
DISC = 0
SOLID = (1, 44)  # from, and up to but without
THIN = (44, 96)


def draw_cutout(index: int) -> np.ndarray:
    """Return cut-out `index`: float32 (CUTOUT_SIZE, CUTOUT_SIZE), cells to its border, inside positive."""
    image = _MAKERS[index](np.random.default_rng([22, index]))
    inside = cv2.distanceTransform(image, cv2.DIST_L2, 5) - cv2.distanceTransform(1 - image, cv2.DIST_L2, 5)
    small = cv2.resize(inside, (CUTOUT_SIZE, CUTOUT_SIZE), interpolation=cv2.INTER_AREA) / _SCALE
    small[0], small[-1], small[:, 0], small[:, -1] = -1, -1, -1, -1
    return small.astype(np.float32)
