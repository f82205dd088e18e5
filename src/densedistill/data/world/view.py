"""One view's picture: colours at the pixel centres, and four rays a pixel where surfaces meet."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .raycast import Caster
from .scene import FACES, Scene
from .shade import Shader

# A rotated grid: no two of the four share a row or a column of the pixel.
_OFFSETS = ((-0.375, -0.125), (0.125, -0.375), (0.375, 0.125), (-0.125, 0.375))


@dataclass
class Picture:
    """What a view sees, and in which colours.

    Attributes:
        depth: (H, W) metres at the pixel centres.
        face: int32 (H, W), which of the scene's faces is seen there.
        colours: (3, H, W) about [0, 1].
    """

    depth: Tensor
    face: Tensor
    colours: Tensor


def draw(caster: Caster, antialias: bool = True) -> Picture:
    """Cast and colour a view."""
    height, width = caster.scene.height, caster.scene.width
    depth, face = caster.cast()
    x, y = (axis.expand(height, width).reshape(-1) for axis in caster.axes())
    shader = Shader(caster)
    colours = shader.shade(x, y, depth.view(-1), face.view(-1))
    if antialias:
        edges, candidates = _edges(caster.scene, face)
        count = len(_OFFSETS)
        offsets = torch.tensor(_OFFSETS, device=caster.device) / caster.scene.focal
        fine_x = (x[edges][:, None] + offsets[:, 0]).view(-1)
        fine_y = (y[edges][:, None] + offsets[:, 1]).view(-1)
        which, column = (candidates >= 0).nonzero().unbind(1)
        rays = (which[:, None] * count + torch.arange(count, device=caster.device)).view(-1)
        pairs = candidates[which, column].long().repeat_interleave(count)
        fine_depth, fine_face = caster.cast_pairs(fine_x, fine_y, rays, pairs)
        fine = shader.shade(fine_x, fine_y, fine_depth, fine_face)
        colours[:, edges] = fine.view(3, -1, count).mean(2)
    return Picture(depth, face, colours.view(3, height, width))


def _edges(scene: Scene, face: Tensor) -> tuple[Tensor, Tensor]:
    """Return indices (E,) of pixels beside another surface; primitives (E, 5) there once each, or below 0."""
    height, width = face.shape
    # A box is one, the faces of the surroundings (of which the horizon is an edge) are several.
    owner = np.where(scene.face_owner < 0, np.arange(len(scene.face_owner)) - FACES, scene.face_owner)
    flat = torch.from_numpy(owner.astype(np.int32)).to(face.device).index_select(0, face.view(-1))
    surface = flat.view(height, width)
    across, down = surface[:, 1:] != surface[:, :-1], surface[1:] != surface[:-1]
    edge = torch.zeros((height, width), dtype=torch.bool, device=face.device)
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= down
    edge[:-1] |= down
    index = edge.view(-1).nonzero().view(-1)
    py, px = index // width, index % width
    around = [
        index,
        py * width + (px - 1).clamp(min=0),
        py * width + (px + 1).clamp(max=width - 1),
        (py - 1).clamp(min=0) * width + px,
        (py + 1).clamp(max=height - 1) * width + px,
    ]
    seen = torch.stack([flat.index_select(0, place) for place in around], 1).sort(1).values
    seen[:, 1:].masked_fill_(seen[:, 1:] == seen[:, :-1], -1)
    return index, seen
