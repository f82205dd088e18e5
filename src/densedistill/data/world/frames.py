"""Rotations and random numbers that composing needs, in plain numpy."""

from __future__ import annotations

import math

import numpy as np


def rotation_between(angles: np.ndarray) -> np.ndarray:
    """Return the rotation about y (yaw), then x (pitch), then z (roll), angles in radians."""
    (cy, cx, cz), (sy, sx, sz) = np.cos(angles), np.sin(angles)
    yaw = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    pitch = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    roll = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return yaw @ pitch @ roll


def any_rotation(rng: np.random.Generator) -> np.ndarray:
    """Draw a rotation (3, 3), all equally likely."""
    q = rng.standard_normal(4)
    w, x, y, z = q / np.linalg.norm(q)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def facing(rng: np.random.Generator, tilt: float, spin: float) -> np.ndarray:
    """Return a frame whose z axis points back at the camera, tilted by `tilt`, turned by `spin`."""
    way = rng.uniform(0, 2 * math.pi)
    axis = np.array([math.cos(way), math.sin(way), 0.0])
    return turn(axis, tilt) @ np.diag([1.0, -1.0, -1.0]) @ rotation_between(np.array([0, 0, spin]))


def turn(axis: np.ndarray, angle: float) -> np.ndarray:
    """Return the rotation (3, 3) about `axis`, of any length, by `angle` radians."""
    x, y, z = (axis / math.sqrt(axis @ axis)).tolist()
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross


def along(direction: np.ndarray) -> np.ndarray:
    """Return a frame whose z axis is `direction`."""
    zx, zy, zz = (direction / math.sqrt(direction @ direction)).tolist()
    # Across z and the camera's z axis, or its x axis where those two are nearly one.
    x = (zy, -zx, 0.0) if abs(zz) < 0.9 else (0.0, zz, -zy)
    length = math.hypot(*x)
    xx, xy, xz = (value / length for value in x)
    y = (zy * xz - zz * xy, zz * xx - zx * xz, zx * xy - zy * xx)
    return np.array([[xx, y[0], zx], [xy, y[1], zy], [xz, y[2], zz]])


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """Draw a number between `low` and `high`, every factor equally likely."""
    return float(low * (high / low) ** rng.random())
