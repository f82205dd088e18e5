"""What a surface looks like is fixed to it and to the world, whoever looks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from densedistill.data.world.bank import get_bank
from densedistill.data.world.compose import compose
from densedistill.data.world.motion import camera_at, draw_motion
from densedistill.data.world.raycast import Caster
from densedistill.data.world.shade import Shader


@pytest.mark.parametrize("seed", [4, 7])
def test_texture_and_light_of_a_point_are_the_same_from_both_cameras(seed):
    scene = compose(seed, 48, 80, 24)
    left, right = (Caster(scene, camera_at(scene, 0, right), get_bank("cpu")) for right in (False, True))
    depth, face = (values.view(-1) for values in left.cast())
    x, y = (axis.expand(48, 80).reshape(-1) for axis in left.axes())
    seen = []
    for caster, column in ((left, x), (right, x - scene.baseline / depth)):
        shader = Shader(caster)
        u, v, light, *_ = shader._attributes(column, y, depth, list(shader.rows.index_select(1, face)))
        seen.append((u, v, light.abs()))  # its sign is that of the side that is looked at
    for one, two in zip(*seen, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=2e-2)


@pytest.mark.parametrize("right", [False, True])
def test_shadows_are_fixed_in_the_world(right):
    scene = compose(4, 48, 80, 24)
    draw_motion(scene, 4, 5.0)
    view = camera_at(scene, 1, right)
    shader = Shader(Caster(scene, view, get_bank("cpu")))
    point = np.array([0.3, -0.2, 2.5])
    here = shader.mask_map @ (view.rotation @ point + view.translation) + shader.mask_start
    np.testing.assert_allclose(here, scene.light.mask_map @ point, atol=1e-9)
