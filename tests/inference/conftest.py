"""Small stereo pairs with known disparity, on disk and as samples."""

import numpy as np
import pytest
import torch

SHIFT = 8


@pytest.fixture
def plane():
    """`plane(shift, size, seed)`: left and right (H, W, 3) uint8 of a textured plane at `shift` px."""

    def make(shift=SHIFT, size=(48, 120), seed=0):
        height, width = size
        coarse = np.random.default_rng(seed).integers(0, 256, (height, width + shift, 3))
        return coarse[:, :width].astype(np.uint8), coarse[:, shift:].astype(np.uint8)

    return make


class Shift:
    """Predicts one disparity everywhere; counts its calls."""

    precision = "float32"

    def __init__(self, disparity=SHIFT, name="shift"):
        self.disparity, self.name, self.calls = disparity, name, 0

    def __call__(self, left, right):
        self.calls += 1
        size = left.shape[-2:] if isinstance(left, torch.Tensor) else left.shape[:2]
        return {"disparity": torch.full((1, 1, *size), float(self.disparity))}


@pytest.fixture
def constant():
    return Shift
