"""Rays meet primitives where geometry says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from densedistill.data.world.bank import get_bank
from densedistill.data.world.compose import compose
from densedistill.data.world.frames import along, any_rotation
from densedistill.data.world.motion import camera_at
from densedistill.data.world.primitives import FAR, INTERSECT, numbers, primitive
from densedistill.data.world.raycast import Caster
from densedistill.data.world.scene import BOX, ELLIPSOID, PLANE, QUADRIC

X, Y = torch.meshgrid(torch.linspace(-0.4, 0.4, 41), torch.linspace(-0.3, 0.3, 31), indexing="xy")


def _meet(kind, rotation, centre, low, high, square=(0, 0, 0), linear=0.0, constant=0.0):
    rows = (rotation[None], np.array([centre], float), np.array([square], float), np.array([linear]))
    bounds = (np.array([low], float), np.array([high], float), np.array([-1]))
    column = numbers(*rows, np.array([constant]), *bounds)[:, 0].tolist()
    depth, face = INTERSECT[kind](primitive(column), X, Y, get_bank("cpu"), False)
    return depth, depth < FAR, face


def test_a_ball_is_met_at_the_near_root_of_its_equation():
    depth, hit, _ = _meet(ELLIPSOID, np.eye(3), (0.2, -0.1, 5), [-1] * 3, [1] * 3, (1, 1, 1), 0.0, -1.0)
    rays = torch.stack([X, Y, torch.ones_like(X)]).double()
    centre = torch.tensor([0.2, -0.1, 5.0]).double()
    a, b = (rays**2).sum(0), (rays * centre[:, None, None]).sum(0)
    discriminant = b**2 - a * ((centre**2).sum() - 1)
    assert torch.equal(hit, discriminant > 0)
    expected = (b - discriminant.clamp(min=0).sqrt()) / a
    torch.testing.assert_close(depth[hit].double(), expected[hit], rtol=2e-6, atol=0)


def test_a_tilted_plane_is_met_where_its_normal_says():
    rotation = any_rotation(np.random.default_rng(1))
    depth, hit, _ = _meet(PLANE, rotation, (0.1, 0.2, 3), [-50, -50, 0], [50, 50, 0])
    normal = torch.from_numpy(rotation[:, 2])
    point = torch.stack([X, Y, torch.ones_like(X)]).double() * depth
    away = ((point - torch.tensor([0.1, 0.2, 3.0]).double()[:, None, None]) * normal[:, None, None]).sum(0)
    assert hit.any()
    assert away[hit].abs().max() < 1e-4


@pytest.mark.parametrize(
    ("square", "linear", "constant", "low", "high"),
    [
        ((4.0, 4.0, 0.0), 0.0, -1.0, [-0.5, -0.5, -1], [0.5, 0.5, 1]),
        ((4.0, 4.0, -1.0), 0.0, 0.0, [-0.5, -0.5, -1], [0.5, 0.5, 0]),
        ((0.7, -0.4, 0.0), -1.0, 0.0, [-1, -1, -1], [1, 1, 1]),
    ],
    ids=["cylinder", "cone", "saddle"],
)
def test_hits_fulfil_the_equation_and_lie_within_the_bounds(square, linear, constant, low, high):
    rotation = along(np.array([0.3, -1.0, 0.2]))
    centre = np.array([0.1, 0.0, 4.0])
    depth, hit, _ = _meet(QUADRIC, rotation, centre, low, high, square, linear, constant)
    point = torch.stack([X, Y, torch.ones_like(X)], -1).double() * depth[..., None]
    q = ((point - torch.from_numpy(centre)) @ torch.from_numpy(rotation))[hit]
    value = (q**2 * torch.tensor(square).double()).sum(-1) + linear * q[:, 2] + constant
    assert hit.sum() > 50
    assert value.abs().max() < 1e-4
    assert (q > torch.tensor(low) - 1e-4).all()
    assert (q < torch.tensor(high) + 1e-4).all()


def test_a_box_is_met_on_the_face_that_is_named():
    half = np.array([0.5, 0.3, 0.4])
    rotation = any_rotation(np.random.default_rng(3))
    depth, hit, face = _meet(BOX, rotation, (0, 0, 3), -half, half)
    point = torch.stack([X, Y, torch.ones_like(X)], -1).double() * depth[..., None]
    q = ((point - torch.tensor([0, 0, 3.0]).double()) @ torch.from_numpy(rotation))[hit]
    axis, side = torch.div(face[hit], 2, rounding_mode="floor").long(), (face[hit] % 2) * 2 - 1
    on_face = q.gather(1, axis[:, None])[:, 0] - side * torch.from_numpy(half)[axis]
    assert len(face[hit].unique()) >= 2
    assert on_face.abs().max() < 1e-5
    assert (q.abs() <= torch.from_numpy(half) + 1e-5).all()


@pytest.mark.parametrize("seed", range(4))
def test_blocks_flat_lists_and_single_rays_see_the_same(seed):
    scene = compose(seed, 64, 128, 48)
    caster = Caster(scene, camera_at(scene, 0), get_bank("cpu"))
    depth, face = caster.cast()
    first, last, _ = caster.blocks()
    x, y = (axis.expand(64, 128).reshape(-1) for axis in caster.axes())
    for other, other_face in (caster.cast_blocks(first, last), caster.cast_rays(x, y)):
        torch.testing.assert_close(other.view_as(depth), depth, rtol=1e-6, atol=0)
        assert (other_face.view_as(face) == face).float().mean() > 0.995  # but where two coincide


@pytest.mark.parametrize("beside", [False, True])
def test_the_blocks_bound_their_primitives(beside):
    """Casting without blocks, every primitive against every ray, finds nothing that they cut away."""
    scene = compose(11, 48, 96, 40)
    if beside:  # a box that reaches from behind the camera to before it
        at = np.flatnonzero(scene.kind == BOX)[0]
        scene.rotation[at], scene.centre[at] = np.eye(3), (0.6, 0.1, 0.5)
        scene.low[at], scene.high[at] = (-0.3, -0.3, -2), (0.3, 0.3, 2)
    caster = Caster(scene, camera_at(scene, 0), get_bank("cpu"))
    assert (caster.blocks()[2] < 0).any() == beside
    depth, _ = caster.cast()
    count, rays = len(scene.kind), 48 * 96
    x, y = (axis.expand(48, 96).reshape(-1) for axis in caster.axes())
    pairs = torch.arange(rays).repeat(count), torch.arange(count).repeat_interleave(rays)
    everything, _ = caster.cast_pairs(x, y, *pairs)
    torch.testing.assert_close(everything.view_as(depth), depth, rtol=1e-6, atol=0)
