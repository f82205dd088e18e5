"""Stereo networks small enough to run in milliseconds, and a batch for them."""

import torch
from torch import nn

from densedistill.networks import InputSpec
from densedistill.networks.layers.regression import regress_disparity
from densedistill.networks.layers.volume import GroupwiseCorrelation


class TinyStereo(nn.Module):
    """A GwcNet in miniature: features at half size, a volume, two heads."""

    all_heads = False

    def __init__(self, channels=4, max_disparity=16, multiple=4, scale=1.0, pad="bottom-right"):
        super().__init__()
        self.input_spec = InputSpec(multiple=multiple, scale=scale, pad=pad)
        self.taps = {"features": ("features",), "volume": ("volume",), "aggregation": ("heads.0", "heads.1")}
        self.max_disparity = max_disparity
        self.features = nn.Sequential(nn.Conv2d(3, channels, 3, 2, 1), nn.BatchNorm2d(channels))
        self.volume = GroupwiseCorrelation(max_disparity // 2, channels // 2)
        self.aggregation = nn.Conv3d(channels // 2, 2, 3, padding=1)
        self.heads = nn.ModuleList(nn.Conv3d(2, 1, 3, padding=1) for _ in range(2))

    def forward(self, left, right):
        batch, size = len(left), tuple(left.shape[-2:])
        features = self.features(torch.cat((left, right)))
        state = self.aggregation(self.volume(features[:batch], features[batch:]))
        heads = self.heads if self.training or self.all_heads else self.heads[-1:]
        logits = [head(state) for head in heads]
        if not self.training:
            return {"disparity": regress_disparity(logits[-1], self.max_disparity, size)}
        levels = [regress_disparity(one, self.max_disparity, size) for one in logits]
        return {"disparity": levels[-1], "intermediate": levels}


class Replay(nn.Module):
    """A network that answers with given disparities, and whose tap `features` gives given tensors."""

    taps = {"features": ("features",)}  # noqa: RUF012
    max_disparity = 192
    input_spec = InputSpec(multiple=1)

    def __init__(self, disparities, features=()):
        super().__init__()
        self.disparities, self.features = disparities, _Give(features)

    def forward(self, left, right):
        self.features(left)
        return {"disparity": self.disparities[-1], "intermediate": self.disparities}


class _Give(nn.Module):
    def __init__(self, tensors):
        super().__init__()
        self.tensors = tensors

    def forward(self, _):
        return list(self.tensors) or torch.zeros(1)


def stereo_batch(batch=2, height=16, width=32, seed=0):
    """Images, ground truth up to 20 px with a fifth missing, in the samples' form."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (2, batch, 3, height, width), generator=generator, dtype=torch.uint8)
    disparity = 20 * torch.rand(batch, 1, height, width, generator=generator)
    valid = torch.rand(batch, 1, height, width, generator=generator) > 0.2
    return {"left": images[0], "right": images[1], "disparity": disparity * valid, "disparity_valid": valid}
