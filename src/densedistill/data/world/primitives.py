"""Ray/primitive intersection: flat and bent sheets, quadrics, boxes.

All formulas broadcast: the numbers of a primitive are floats and the rays a block of the picture, or both
are one flat list of pairs. A ray is (x, y, 1), so that its parameter is depth. Depth is counted from the
primitive's centre, which keeps float32 exact to about 1e-6 of the distance.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .bank import Bank
from .scene import BOX, ELLIPSOID, PLANE, QUADRIC

# A primitive's numbers in a camera's frame: r[j][k] camera axis j of its axis k, (x, y, z) its centre (x
# and y on the plane z = 1), square, linear, constant of its equation, low and high of its bounds, cutout.
Primitive = SimpleNamespace

# Depth along the rays, above `FAR` where they miss, and which face of a box (-x, +x, -y, … as 0 to 5, or
# None).
Hit = tuple[Tensor, Tensor | None]
FAR = 1e9

# Added where a division might be by zero, so that no ray gives inf or nan.
_TINY = 1e-20

FIELDS = (
    *(f"r{j}{k}" for j in range(3) for k in range(3)),
    *("x", "y", "z"),
    *(f"square{k}" for k in range(3)),
    *("linear", "constant"),
    *(f"low{k}" for k in range(3)),
    *(f"high{k}" for k in range(3)),
    "cutout",
)


def numbers(
    rotation: np.ndarray,
    centre: np.ndarray,
    square: np.ndarray,
    linear: np.ndarray,
    constant: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    cutout: np.ndarray,
) -> np.ndarray:
    """Return the rows of `FIELDS`, float64 (len(FIELDS), N), of N primitives in a camera's frame."""
    return np.concatenate(
        [
            rotation.reshape(-1, 9).T,
            (centre[:, :2] / centre[:, 2:]).T,
            centre[:, 2:].T,
            square.T,
            linear[None],
            constant[None],
            low.T,
            high.T,
            cutout[None],
        ]
    )


# Which of `FIELDS` a kind's formula reads.
_READ = {
    PLANE: (*range(12), 17, 18, 20, 21, 23),
    QUADRIC: tuple(range(len(FIELDS))),
    ELLIPSOID: tuple(range(17)),
    BOX: (*range(12), *range(17, 23)),
}


def primitive(values: list[float]) -> Primitive:
    """Return the primitive of one column of `numbers`."""
    return _named(dict(enumerate(values)))


def primitives(table: Tensor, kind: int, which: Tensor) -> Primitive:
    """Return the primitives `which` (M,) of one kind from a table (len(FIELDS), N); its numbers are (M,)."""
    return _named({k: table[k].index_select(0, which) for k in _READ[kind]})


def _named(v: dict[int, Any]) -> Primitive:
    pick = lambda *places: [v.get(k) for k in places]
    return Primitive(
        r=[pick(0, 1, 2), pick(3, 4, 5), pick(6, 7, 8)],
        x=v[9],
        y=v[10],
        z=v[11],
        square=pick(12, 13, 14),
        linear=v.get(15),
        constant=v.get(16),
        low=pick(17, 18, 19),
        high=pick(20, 21, 22),
        cutout=v.get(23),
    )


def local_ray(p: Primitive, x: Tensor, y: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Return origin (where the ray passes the centre's depth) and direction, in the primitive's frame."""
    dx, dy = (x - p.x) * p.z, (y - p.y) * p.z
    origin = [dx * p.r[0][k] + dy * p.r[1][k] for k in range(3)]
    direction = [x * p.r[0][k] + (y * p.r[1][k] + p.r[2][k]) for k in range(3)]
    return origin, direction


def _beyond(value: Tensor, low: Tensor | float, high: Tensor | float) -> Tensor:
    """Return how far a value lies outside [low, high]; at most 0 inside."""
    return (value - (low + high) * 0.5).abs_().sub_((high - low) * 0.5)


def _unless(depth: Tensor, outside: Tensor) -> Tensor:
    """Return the depth, or more than `FAR` where `outside` or the depth says that there is no hit.

    Arithmetic instead of masks: comparisons and selections are several times slower on a CPU.
    """
    outside = torch.maximum(outside, -depth)
    return outside.clamp_(min=0).mul_(1e30).add_(depth)


def _zero(value: Tensor | float) -> bool:
    return isinstance(value, float) and value == 0.0


def _outside_cutout(p: Primitive, bank: Bank, x: Tensor, y: Tensor) -> Tensor:
    u = (x - p.low[0]) * (1 / (p.high[0] - p.low[0]))
    v = (y - p.low[1]) * (1 / (p.high[1] - p.low[1]))
    return bank.inside(p.cutout.int() if isinstance(p.cutout, Tensor) else int(p.cutout), u, v).neg_()


def _plane(p: Primitive, x: Tensor, y: Tensor, bank: Bank, cut: bool) -> Hit:
    origin, direction = local_ray(p, x, y)
    step = -origin[2] / (direction[2] + _TINY)
    qx, qy = torch.addcmul(origin[0], step, direction[0]), torch.addcmul(origin[1], step, direction[1])
    outside = torch.maximum(_beyond(qx, p.low[0], p.high[0]), _beyond(qy, p.low[1], p.high[1]))
    if cut:
        outside = torch.maximum(outside, _outside_cutout(p, bank, qx, qy))
    return _unless(step + p.z, outside), None


def _solve(p: Primitive, origin: list[Tensor], direction: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Return the negative discriminant and both roots; stable where the squared term vanishes."""
    a = b = c = torch.zeros((), device=origin[0].device)
    for k in range(3):
        if not _zero(p.square[k]):
            od, oo = direction[k] * p.square[k], origin[k] * p.square[k]
            a = torch.addcmul(a, od, direction[k])
            b = torch.addcmul(b, od, origin[k])
            c = torch.addcmul(c, oo, origin[k])
    if not _zero(p.linear):
        b = b + direction[2] * (p.linear * 0.5)
        c = c + origin[2] * p.linear
    c = c + p.constant
    missed = a * c - b * b
    root = missed.clamp(max=0).neg_().sqrt_()
    q = torch.copysign(root, b).add_(b).neg_()
    return missed, c / (q + _TINY), q / (a + _TINY)


def _ellipsoid(p: Primitive, x: Tensor, y: Tensor, bank: Bank, cut: bool) -> Hit:
    missed, one, two = _solve(p, *local_ray(p, x, y))
    return _unless(torch.minimum(one, two).add_(p.z), missed), None


def _quadric(p: Primitive, x: Tensor, y: Tensor, bank: Bank, cut: bool) -> Hit:
    origin, direction = local_ray(p, x, y)
    missed, one, two = _solve(p, origin, direction)

    def at(step: Tensor) -> Tensor:
        point = [torch.addcmul(o, step, d) for o, d in zip(origin, direction, strict=True)]
        outside = torch.maximum(missed, _beyond(point[0], p.low[0], p.high[0]))
        outside = torch.maximum(outside, _beyond(point[1], p.low[1], p.high[1]))
        outside = torch.maximum(outside, _beyond(point[2], p.low[2], p.high[2]))
        if cut:
            outside = torch.maximum(outside, _outside_cutout(p, bank, point[0], point[1]))
        return _unless(step + p.z, outside)

    return torch.minimum(at(one), at(two)), None


def _box(p: Primitive, x: Tensor, y: Tensor, bank: Bank, cut: bool) -> Hit:
    entries, exits, numbers = [], [], []
    for k, (origin, direction) in enumerate(zip(*local_ray(p, x, y), strict=True)):
        inverse = 1 / (direction + 1e-12)
        towards = ((p.low[k] + p.high[k]) * 0.5 - origin) * inverse
        reach = inverse.abs() * ((p.high[k] - p.low[k]) * 0.5)
        entries.append(towards - reach)
        exits.append(towards.add_(reach))
        numbers.append((inverse < 0).int().add_(2 * k))
    near = torch.maximum(entries[0], entries[1])
    face = torch.where(entries[1] > entries[0], numbers[1], numbers[0])
    face = torch.where(entries[2] > near, numbers[2], face)
    near = torch.maximum(near, entries[2])
    far = torch.minimum(torch.minimum(exits[0], exits[1]), exits[2])
    return _unless(near + p.z, near - far), face


# (primitive, x, y, bank, whether a cut-out shapes it) to a hit.
Intersect = Callable[[Primitive, Tensor, Tensor, Bank, bool], Hit]
INTERSECT: dict[int, Intersect] = {PLANE: _plane, QUADRIC: _quadric, ELLIPSOID: _ellipsoid, BOX: _box}
