"""Where things are at another time: every object and the camera move rigidly, at constant speed."""

from __future__ import annotations

import numpy as np

from .raycast import View
from .scene import Scene


def draw_motion(scene: Scene, seed: int, scale: float) -> None:
    """Give the objects and the camera of a scene their motion a frame; `scale` 1: flow of some tens of
    pixels at most.

    Seven objects in ten move on their own. Motion along the line of sight stays small, so that
    disparities stay in their range.
    """
    rng = np.random.default_rng([26, seed])
    count = int(scene.objects.max(initial=0)) + 1
    pivot = np.zeros((count, 3))
    for number in range(1, count):
        members = scene.centre[scene.objects == number]
        pivot[number] = members.mean(0) if len(members) else 0
    pixel = pivot[:, 2:] / scene.focal
    # About 1.5 % of the picture's height a frame sideways, 1 % of the distance in depth.
    step = rng.normal(0, 0.015 * scene.height, (count, 3)) * pixel * [1, 1, 0]
    step[:, 2] = rng.normal(0, 0.01, count) * pivot[:, 2]
    turn = rng.normal(0, 0.03, (count, 3))
    still = rng.random(count) < 0.3
    still[0] = True
    step[still], turn[still] = 0, 0
    nearest = scene.centre[:, 2].min() if len(scene.centre) else 1.0
    scene.object_pivot, scene.object_step, scene.object_turn = pivot, scale * step, scale * turn
    scene.camera_step = scale * nearest * rng.normal(0, 0.015, 3)
    scene.camera_turn = scale * rng.normal(0, 0.006, 3)


def _turns(vectors: np.ndarray) -> np.ndarray:
    """Return the rotations (..., 3, 3) about axis-angle vectors (..., 3)."""
    angle = np.linalg.norm(vectors, axis=-1)[..., None, None]
    x, y, z = np.moveaxis(vectors / np.maximum(angle[..., 0], 1e-12), -1, 0)
    zero = np.zeros_like(x)
    cross = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(*vectors.shape[:-1], 3, 3)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def object_motion(scene: Scene, time: float) -> tuple[np.ndarray, np.ndarray]:
    """Return rotations (objects + 1, 3, 3) and translations (objects + 1, 3) from time 0 to `time`."""
    rotation = _turns(scene.object_turn * time)
    moved = scene.object_pivot + scene.object_step * time
    return rotation, moved - np.einsum("nij,nj->ni", rotation, scene.object_pivot)


def primitives_at(scene: Scene, time: float) -> tuple[np.ndarray, np.ndarray]:
    """Return (rotation, centre) of the primitives at `time`."""
    rotation, translation = object_motion(scene, time)
    turn, shift = rotation[scene.objects], translation[scene.objects]
    return turn @ scene.rotation, np.einsum("nij,nj->ni", turn, scene.centre) + shift


def camera_at(scene: Scene, time: float, right: bool = False) -> View:
    """Return the left or right camera at `time`."""
    rotation = _turns(scene.camera_turn * time)
    translation = -rotation @ (scene.camera_step * time)
    if right:
        translation = translation - [scene.baseline, 0, 0]
    return View(rotation, translation)
