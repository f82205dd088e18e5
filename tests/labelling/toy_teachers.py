"""Teachers that answer at once, answer nonsense, or die."""

import os
from pathlib import Path

import torch
from torch import nn

from densedistill.distillation.teachers import Teacher
from densedistill.networks import InputSpec
from densedistill.tasks import get_task


class Grey(Teacher):
    """Disparity is the red channel times 20 px."""

    def __init__(self, flaw=None, marker=None, after=2):
        super().__init__()
        self.name, self.flaw, self.marker, self.after = "grey", flaw, marker, after
        self.task = get_task("stereo")
        self.max_disparity, self.calls = 32, 0

    def forward(self, batch):
        self.calls += 1
        if self.flaw == "dies" and self.calls > self.after and not Path(self.marker).exists():
            Path(self.marker).touch()
            os._exit(9)
        left = batch["left"]
        disparity = left[:, :1].float() * (20 / 255 if left.dtype == torch.uint8 else 20)
        if self.flaw == "nan":
            disparity = torch.full_like(disparity, torch.nan)
        if self.flaw == "wild":
            disparity[..., 0, 0] = 1e6
        if self.flaw == "size":
            disparity = disparity[..., :-8]
        if self.flaw == "other":
            return {"depth": disparity}
        return {"disparity": disparity}


class TinyNetwork(nn.Module):
    """A stereo network with one tap of stride 4."""

    task = "stereo"
    input_spec = InputSpec(multiple=4, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    max_disparity = 32

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.taps = {"features": ("features",)}
        self.features = nn.Conv2d(3, 6, 4, stride=4)
        self.head = nn.Conv2d(6, 16, 1)

    def forward(self, left, right):
        both = self.features(torch.cat((left, right)))
        disparity = nn.functional.pixel_shuffle(self.head(both[: len(left)]), 4).abs() * 10
        return {"disparity": disparity}


class TopRight(TinyNetwork):
    """The same, but published with padding above the image."""

    input_spec = InputSpec(multiple=32, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), pad="top-right")


class Frames:
    """Two frames whose images are floats in [0, 1], of a data set of one's own."""

    task = "stereo"
    names = ("a", "b")

    def __len__(self):
        return len(self.names)

    def __getitem__(self, index):
        left, right = torch.rand(2, 3, 32, 64, generator=torch.Generator().manual_seed(index))
        return {"left": left, "right": right, "meta": {"name": self.names[index]}}
