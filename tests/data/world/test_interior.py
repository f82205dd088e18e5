"""Furnished rooms: natural sizes, and nothing that floats."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from densedistill.data.world import render
from densedistill.data.world.compose import compose


def corners(scene, thing):
    """Return the corners (N, 3) of a thing's primitives in the room's own frame, metres from its middle."""
    around = scene.surroundings
    found = [
        scene.rotation[i] @ corner + scene.centre[i] - around.centre
        for i in np.flatnonzero(scene.objects == thing)
        for corner in itertools.product(*zip(scene.low[i], scene.high[i], strict=True))
    ]
    return np.array(found) @ around.rotation


@pytest.mark.parametrize("seed", range(8))
def test_rooms_have_natural_sizes_and_things_stand_or_hang(seed):
    # So high a maximum disparity that nothing is pushed back.
    scene = compose(seed, 120, 160, 200, "interior", focal=130)
    around = scene.surroundings
    wide, high, deep = 2 * around.half
    assert 2.3 <= high <= 3.2
    assert all(2.8 <= side <= 9 for side in (wide, deep))
    eye = around.half[1] - (around.rotation.T @ -around.centre)[1]
    assert 0.8 <= eye <= 1.8
    for thing in range(1, scene.objects.max() + 1):
        places = corners(scene, thing)
        above_floor = around.half[1] - places[:, 1].max()
        from_wall = (around.half - abs(places))[:, [0, 2]].min()
        assert abs(above_floor) < 1e-6 or (from_wall < 0.05 and above_floor > 0.3), thing
        assert np.ptp(places[:, 1]) < 2.6


def test_nothing_comes_nearer_than_the_largest_disparity_allows():
    for seed in range(5):
        sample = render(
            seed, 48, 64, ("disparity", "depth"), style="interior", max_disparity=12, antialias=False
        )
        assert sample["disparity"].min() > 0
        assert sample["disparity"].max() <= 12


def test_an_empty_room_has_no_objects_and_a_full_one_more_than_a_usual_one():
    counts = [
        sum(
            len(torch.unique(render(seed, 60, 80, ("objects",), style="interior", clutter=c)["objects"]))
            for seed in range(4)
        )
        for c in (0.0, 1.0, 3.0)
    ]
    assert counts[0] == 4  # the room alone
    assert counts[0] < counts[1] < counts[2]
