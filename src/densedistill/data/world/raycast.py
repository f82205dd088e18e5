"""What each ray sees first: the depth buffer of a view, and single rays near edges or anywhere else."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .bank import Bank
from .primitives import INTERSECT, numbers, primitive, primitives
from .scene import ELLIPSOID, Scene

# On the CPU, blocks of more pixels are cast one by one with plain numbers, the others together in a list.
_SMALL = 2000
# So many rays at a time stay in a core's cache.
_CHUNK = 1 << 15


@dataclass
class View:
    """A pinhole camera: `camera = rotation @ world + translation`."""

    rotation: np.ndarray  # (3, 3)
    translation: np.ndarray  # (3,)


class Caster:
    """Casts rays of one view. What a ray hits is a face: one of the scene's `faces`.

    Args:
        moved: (rotation, centre) of the primitives in the world, where they are not where the scene says.
    """

    def __init__(
        self, scene: Scene, view: View, bank: Bank, moved: tuple[np.ndarray, np.ndarray] | None = None
    ):
        self.scene, self.view, self.bank = scene, view, bank
        self.device = bank.texels.device
        rotation, centre = moved or (scene.rotation, scene.centre)
        self.rotation = view.rotation @ rotation
        self.centre = centre @ view.rotation.T + view.translation
        # A primitive behind the camera keeps a harmless place on the plane z = 1; its bounds leave it out.
        self.centre[:, 2] = np.where(np.abs(self.centre[:, 2]) < 1e-6, 1e-6, self.centre[:, 2])
        self.numbers = numbers(
            self.rotation,
            self.centre,
            scene.square,
            scene.linear,
            scene.constant,
            scene.low,
            scene.high,
            scene.cutout,
        )
        self.table = torch.from_numpy(self.numbers.astype(np.float32)).to(self.device)
        around = scene.surroundings
        self.around_rotation = view.rotation @ around.rotation
        self.around_origin = -self.around_rotation.T @ (view.rotation @ around.centre + view.translation)

    def axes(self) -> tuple[Tensor, Tensor]:
        """Return x (1, W) and y (H, 1) of the pixel centres on the plane z = 1."""
        scene = self.scene
        x = (torch.arange(scene.width, device=self.device) - (scene.width - 1) / 2) / scene.focal
        y = (torch.arange(scene.height, device=self.device) - (scene.height - 1) / 2) / scene.focal
        return x.view(1, -1), y.view(-1, 1)

    def cast(self) -> tuple[Tensor, Tensor]:
        """Return depth (H, W) and face int32 (H, W) of what is seen at the pixel centres."""
        x, y = self.axes()
        first, last, nearest = self.blocks()
        area = np.maximum(last - first, 0).prod(1)
        large = np.flatnonzero(area > (_SMALL if self.device.type == "cpu" else area.max(initial=0)))
        flat_last = last.copy()
        flat_last[large] = first[large]
        depth, seen = self.cast_blocks(first, flat_last)
        columns, scene = self.numbers.T.tolist(), self.scene
        for index in large[np.argsort(nearest[large])].tolist():
            (x0, y0), (x1, y1) = first[index].tolist(), last[index].tolist()
            block = depth[y0:y1, x0:x1]
            if float(block.amax()) < nearest[index]:
                continue
            p = primitive(columns[index])
            found, face = INTERSECT[int(scene.kind[index])](
                p, x[:, x0:x1], y[y0:y1], self.bank, bool(scene.cutout[index] >= 0)
            )
            nearer, faces = found < block, seen[y0:y1, x0:x1]
            torch.minimum(block, found, out=block)
            number = int(scene.first_face[index])
            if face is None:
                faces.masked_fill_(nearer, number)
            else:
                torch.where(nearer, face.add_(number), faces, out=faces)
        return depth, seen

    def cast_blocks(self, first: np.ndarray, last: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return what `cast` does, all blocks of pixels in one flat list: few large steps, as a GPU likes
        them.

        Args:
            first, last: (N, 2) integer bounds of each primitive, x then y.
        """
        scene = self.scene
        span = np.maximum(last - first, 0)
        counts = torch.from_numpy(span.prod(1)).to(self.device)
        bounds = torch.from_numpy(np.stack([first[:, 0], first[:, 1], np.maximum(span[:, 0], 1)])).to(
            self.device
        )
        candidate = torch.arange(len(counts), device=self.device).repeat_interleave(counts)
        place = torch.arange(len(candidate), device=self.device) - (counts.cumsum(0) - counts)[candidate]
        x0, y0, wide = bounds[:, candidate]
        ray = (y0 + torch.div(place, wide, rounding_mode="floor")) * scene.width + x0 + place % wide
        x, y = (axis.expand(scene.height, scene.width).reshape(-1) for axis in self.axes())
        depth, face = self.cast_pairs(x, y, ray, candidate)
        return depth.view(scene.height, scene.width), face.view(scene.height, scene.width)

    def cast_pairs(self, x: Tensor, y: Tensor, ray: Tensor, candidate: Tensor) -> tuple[Tensor, Tensor]:
        """Return depth and face of what single rays see among given candidates and the surroundings.

        Args:
            x, y: (M,) the rays, on the plane z = 1.
            ray, candidate: int64 (P,), pairs of a ray and a primitive that it might hit.
        """
        depth, seen = self.cast_surroundings(x, y)
        # Depth and face in one integer: the least is the nearest, and ties do not depend on order.
        best = depth.view(torch.int32).long() << 32 | seen
        kinds = self.scene.kind * 2 + (self.scene.cutout >= 0)
        group = torch.from_numpy(kinds).to(self.device).index_select(0, candidate)
        first_face = torch.from_numpy(self.scene.first_face).to(self.device)
        for kind in np.unique(kinds).tolist():
            members = (group == kind).nonzero().view(-1)
            for part in members.split(_CHUNK if self.device.type == "cpu" else 1 << 24):
                rays, rows = ray.index_select(0, part), candidate.index_select(0, part)
                p = primitives(self.table, kind // 2, rows)
                found, face = INTERSECT[kind // 2](
                    p, x.index_select(0, rays), y.index_select(0, rays), self.bank, kind % 2 == 1
                )
                number = first_face.index_select(0, rows)
                key = found.view(torch.int32).long() << 32 | (number if face is None else number + face)
                best.scatter_reduce_(0, rays, key, "amin")
        return (best >> 32).int().view(torch.float32), (best & 0xFFFFFFFF).int()

    def cast_rays(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return depth and face of what rays (x, y, 1) anywhere see; x and y (M,)."""
        first, last, _ = self.blocks()
        scene = self.scene
        corners = np.concatenate([first - 1, last], 1).T
        left, top, right, bottom = torch.from_numpy(corners.astype(np.float32)).to(self.device)[:, :, None]
        there = (right > left + 1) & (bottom > top + 1)
        depths, faces = [], []
        for px, py in zip(x.split(_CHUNK), y.split(_CHUNK), strict=True):
            u = px * scene.focal + (scene.width - 1) / 2
            v = py * scene.focal + (scene.height - 1) / 2
            near = there & (u > left) & (u < right) & (v > top) & (v < bottom)
            candidate, ray = near.nonzero().unbind(1)
            depth, face = self.cast_pairs(px, py, ray, candidate)
            depths.append(depth)
            faces.append(face)
        return torch.cat(depths), torch.cat(faces)

    def cast_surroundings(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return depth and face (0 to 5) at which rays leave the box around everything."""
        steps, faces = [], []
        for k in range(3):
            r = self.around_rotation[:, k].tolist()
            direction = x * r[0] + (y * r[1] + r[2])
            sign = direction.sign()
            ahead = (sign * -float(self.around_origin[k])).add_(float(self.scene.surroundings.half[k]))
            steps.append(ahead.div_(direction.abs_().clamp_(min=1e-9)))
            faces.append((sign > 0).int() + 2 * k)
        depth, face = steps[0], faces[0]
        for step, number in zip(steps[1:], faces[1:], strict=True):
            face = torch.where(step < depth, number, face)
            depth = torch.minimum(depth, step)
        return depth, face

    def blocks(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return each primitive's first and last + 1 pixel (N, 2), x then y, and least depth (N,)."""
        scene = self.scene
        corner = np.stack(np.meshgrid([0, 1], [0, 1], [0, 1], indexing="ij"), -1).reshape(8, 3)
        corners = np.where(corner, scene.high[:, None], scene.low[:, None])
        points = np.einsum("nij,nkj->nki", self.rotation, corners) + self.centre[:, None]
        nearest = points[..., 2].min(1)
        flat = points[..., :2] / np.maximum(points[..., 2:], 1e-6)
        low, high = flat.min(1), flat.max(1)
        ball = (scene.kind == ELLIPSOID) & (nearest > 0)
        if ball.any():
            # Lines that touch the outline: l^T (p p^T - R S^2 R^T) l = 0 with l = (1, 0, -x) or (0, 1, -y).
            axes = self.rotation[ball] * scene.high[ball][:, None]
            centre = self.centre[ball]
            dual = centre[:, :, None] * centre[:, None] - axes @ axes.transpose(0, 2, 1)
            middle = dual[:, :2, 2]
            squares = np.stack([dual[:, 0, 0], dual[:, 1, 1]], 1)
            spread = np.sqrt(np.maximum(middle**2 - squares * dual[:, 2, 2:], 0))
            low[ball], high[ball] = (middle - spread) / dual[:, 2, 2:], (middle + spread) / dual[:, 2, 2:]
        size = np.array([scene.width, scene.height])
        # Reaching behind the camera, the outline is unbounded: take the whole picture; wholly behind,
        # none of it.
        behind = points[..., 2].max(1) <= 0
        across = (nearest <= 1e-3) & ~behind
        low[across], high[across] = -1e6, 1e6
        first = np.clip(np.ceil(low * scene.focal + (size - 1) / 2 - 1e-3), 0, size).astype(int)
        last = np.clip(np.floor(high * scene.focal + (size - 1) / 2 + 1e-3) + 1, 0, size).astype(int)
        last[behind] = first[behind]
        return first, last, nearest
