"""Exact ground truth of a view: what is visible from elsewhere, flow, classes, objects and boxes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .motion import camera_at, object_motion
from .raycast import Caster
from .scene import FACES, Scene

# Two depths along one ray are the same point's when they differ by less than this part.
_SAME = 1e-3
_MIN_BOX_PIXELS = 12


def visible(caster: Caster, x: Tensor, y: Tensor, depth: Tensor) -> Tensor:
    """Return whether points at pixel (x, y), px, and `depth` are what another view sees there; bool, all
    one shape.

    A ray is cast through each point, so this holds between pixel centres too. Outside the picture nothing
    is seen.
    """
    scene = caster.scene
    inside = (x > -0.5) & (x < scene.width - 0.5) & (y > -0.5) & (y < scene.height - 0.5) & (depth > 0)
    at = inside.reshape(-1).nonzero().view(-1)
    rays = [
        (value.reshape(-1)[at] - (size - 1) / 2) / scene.focal
        for value, size in ((x, scene.width), (y, scene.height))
    ]
    nearest, _ = caster.cast_rays(*rays)
    seen = torch.zeros_like(inside).view(-1)
    seen[at] = nearest >= depth.reshape(-1)[at] * (1 - _SAME)
    return seen.view(inside.shape)


def motion_of(scene: Scene, start: float, end: float, depth: Tensor, face: Tensor) -> tuple[Tensor, Tensor]:
    """Return flow (2, H, W), px, and the depth (H, W) at `end` of what the left camera sees at `start`.

    Args:
        depth, face: (H, W) as cast at `start`.
    """
    # Camera at start -> world at start -> world at end -> camera at end, one rigid motion an object.
    first, last = camera_at(scene, start), camera_at(scene, end)
    turn0, shift0 = object_motion(scene, start)
    turn1, shift1 = object_motion(scene, end)
    turn = turn1 @ turn0.transpose(0, 2, 1)
    shift = shift1 - np.einsum("nij,nj->ni", turn, shift0)
    rotation = last.rotation @ turn @ first.rotation.T
    offset = (shift - turn @ (first.rotation.T @ first.translation)) @ last.rotation.T + last.translation
    owner = scene.face_objects
    # The difference to no motion at all, in float64 on this side, keeps small flows exact in float32.
    table = np.concatenate([(rotation - np.eye(3)).reshape(-1, 9), offset], 1)[owner].T
    rows = torch.from_numpy(table.astype(np.float32)).to(depth.device)
    m = rows.index_select(1, face.reshape(-1)).view(12, *face.shape)
    height, width = depth.shape
    x = ((torch.arange(width, device=depth.device) - (width - 1) / 2) / scene.focal).view(1, -1)
    y = ((torch.arange(height, device=depth.device) - (height - 1) / 2) / scene.focal).view(-1, 1)
    inverse = 1 / depth
    dx, dy, dz = (m[3 * k] * x + m[3 * k + 1] * y + m[3 * k + 2] + m[9 + k] * inverse for k in range(3))
    ahead = 1 + dz
    flow = torch.stack([(dx - x * dz) / ahead, (dy - y * dz) / ahead]) * scene.focal
    return flow, depth * ahead


def labels_of(scene: Scene, face: Tensor) -> Tensor:
    """Return the classes (H, W), int64, numbers of `scene.LABELS`."""
    owner = scene.face_owner[FACES:]
    table = np.concatenate([scene.surroundings.labels, scene.labels[owner]])
    return torch.from_numpy(table.astype(np.int64)).to(face.device)[face.long()]


def objects_of(scene: Scene, face: Tensor) -> Tensor:
    """Return the objects' numbers (H, W), int64; 0 the surroundings."""
    return torch.from_numpy(scene.face_objects.astype(np.int64)).to(face.device)[face.long()]


def boxes_of(scene: Scene, objects: Tensor) -> tuple[Tensor, Tensor]:
    """Return the boxes (N, 4), px (left, top, right, bottom, the last two exclusive), and classes (N,) of
    what is seen.

    Objects of which fewer than a dozen pixels are seen have none.
    """
    height, width = objects.shape
    count = int(scene.objects.max(initial=0)) + 1
    flat = objects.reshape(-1)
    at = torch.arange(height * width, device=objects.device)
    x, y = at % width, torch.div(at, width, rounding_mode="floor")
    low = torch.full((2, count), max(height, width), device=objects.device)
    high = torch.zeros((2, count), dtype=torch.int64, device=objects.device)
    for k, value in enumerate((x, y)):
        low[k].scatter_reduce_(0, flat, value, "amin")
        high[k].scatter_reduce_(0, flat, value + 1, "amax")
    pixels = torch.bincount(flat, minlength=count)
    pixels[0] = 0
    kept = (pixels >= _MIN_BOX_PIXELS).nonzero().view(-1)
    boxes = torch.stack([low[0], low[1], high[0], high[1]], 1)[kept].float()
    first = np.zeros(count, np.int64)
    first[scene.objects[::-1]] = scene.labels[::-1]
    return boxes, torch.from_numpy(first).to(objects.device)[kept]
