"""Discriminators of structured distillation's holistic term, which tell a teacher's score maps from a
student's.

Structured Knowledge Distillation for Dense Prediction (https://arxiv.org/abs/1903.04197), section 3.3:
spectral normalisation (ICLR 2018), self-attention (SAGAN, ICML 2019) on two levels.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError
from .registry import MODELS

LEAST = 64  # px that four strided convolutions and the last, valid one need
PUBLISHED_SIZE = 65  # score maps of a 512x512 crop


class Judgement(NamedTuple):
    """What a discriminator says.

    Attributes:
        score: (B, 1, h, w), high for the teacher's; one value a sample for maps of 65x65.
        attention: the two maps (B, positions, positions), rows sum to 1.
    """

    score: Tensor
    attention: tuple[Tensor, Tensor]


class SpectralNorm(nn.Module):
    """A convolution whose kernel is divided by its largest singular value.

    One step of the power iteration runs in every forward pass, as published in evaluation mode, too. The
    singular vectors are buffers here, which data-parallel training keeps equal.
    """

    def __init__(self, module: nn.Conv2d):
        super().__init__()
        weight = module.weight.data
        del module._parameters["weight"]
        self.module = module
        module.register_parameter("weight_bar", nn.Parameter(weight))
        flat = weight.flatten(1)
        module.register_buffer("weight_u", _normalised(torch.randn(flat.shape[0])))
        module.register_buffer("weight_v", _normalised(torch.randn(flat.shape[1])))

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution of `x` with the normalised kernel."""
        conv: Any = self.module
        flat = conv.weight_bar.flatten(1)
        with torch.no_grad():
            # Clones, because a second pass must not change what the first one's gradient reads.
            v = _normalised(flat.t() @ conv.weight_u)
            u = _normalised(flat @ v)
            conv.weight_u.copy_(u)
            conv.weight_v.copy_(v)
        sigma = u @ (flat @ v)
        return F.conv2d(x, conv.weight_bar / sigma, conv.bias, conv.stride, conv.padding)


class SelfAttention(nn.Module):
    """Add to each position what all positions hold, weighed by likeness; starts as the identity."""

    def __init__(self, channels: int):
        super().__init__()
        self.query_conv = nn.Conv2d(channels, channels // 8, 1)
        self.key_conv = nn.Conv2d(channels, channels // 8, 1)
        self.value_conv = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mixed `x` (B, C, H, W) and the attention (B, H W, H W)."""
        query, key, value = (conv(x).flatten(2) for conv in (self.query_conv, self.key_conv, self.value_conv))
        attention = (query.transpose(1, 2) @ key).softmax(-1)
        mixed = (value @ attention.transpose(1, 2)).view_as(x)
        return self.gamma * mixed + x, attention


class Discriminator(nn.Module):
    """Judge score maps, alone or beside the image.

    Args:
        classes: channels of the score map.
        prepare: what happens to the scores first: `norm`, batch normalisation (published default); `tanh`;
            `scale`, 2 (x / 255 - 1/2); `softmax`, over classes.
        image: take the image, resized to the scores, as three channels before the scores (the CVPR version,
            which goes with `softmax`).
        width: channels of the first convolution; 64 published.
    """

    def __init__(
        self,
        classes: int,
        prepare: Literal["norm", "tanh", "scale", "softmax"] = "norm",
        image: bool = False,
        width: int = 64,
    ):
        super().__init__()
        if prepare not in ("norm", "tanh", "scale", "softmax"):
            raise UserError(f"prepare is norm, tanh, scale or softmax, got '{prepare}'")
        self.classes, self.prepare, self.image = classes, prepare, image
        widths = [classes + 3 * image, width, 2 * width, 4 * width, 8 * width]
        for i in range(1, 5):
            conv = nn.Conv2d(widths[i - 1], widths[i], 4, 2, 1)
            setattr(self, f"l{i}", nn.Sequential(SpectralNorm(conv), nn.LeakyReLU(0.1)))
        self.last = nn.Sequential(nn.Conv2d(widths[4], 1, 4))
        self.attn1 = SelfAttention(widths[3])
        self.attn2 = SelfAttention(widths[4])
        self.preprocess_additional = nn.BatchNorm2d(classes) if prepare == "norm" else nn.Identity()

    def forward(self, scores: Tensor, image: Tensor | None = None) -> Judgement:
        """Return what is thought of `scores` (B, classes, h, w); `image` (B, 3, H, W) where one is wanted.

        A map with a side below 64 is enlarged to 65 there, since the convolutions need it.

        Raises:
            UserError: another number of classes, or no image where one is wanted.
        """
        if scores.ndim != 4 or scores.shape[1] != self.classes:
            raise UserError(f"this discriminator takes (B, {self.classes}, h, w), got {tuple(scores.shape)}")
        x = self._prepared(scores)
        if self.image:
            if image is None:
                raise UserError("this discriminator is conditioned on the image and was given none")
            image = F.interpolate(image, scores.shape[-2:], mode="bilinear", align_corners=True)
            x = torch.cat((image.to(x), x), 1)
        size = [side if side >= LEAST else PUBLISHED_SIZE for side in x.shape[-2:]]
        if list(x.shape[-2:]) != size:
            x = F.interpolate(x, size, mode="bilinear", align_corners=True)
        for i in (1, 2, 3):
            x = self.get_submodule(f"l{i}")(x)
        x, first = self.attn1(x)
        x, second = self.attn2(self.get_submodule("l4")(x))
        return Judgement(self.last(x), (first, second))

    def _prepared(self, scores: Tensor) -> Tensor:
        if self.prepare == "norm":
            return self.preprocess_additional(scores)
        if self.prepare == "tanh":
            return scores.tanh()
        if self.prepare == "scale":
            return 2 * (scores / 255 - 0.5)
        return scores.softmax(1)


def _normalised(vector: Tensor) -> Tensor:
    return vector / (vector.norm() + 1e-12)


@MODELS.register()
def discriminator(classes: int = 19) -> Discriminator:
    """The discriminator of the journal version, which normalises the scores."""
    return Discriminator(classes)


@MODELS.register()
def discriminator_tanh(classes: int = 19) -> Discriminator:
    """The same with the hyperbolic tangent in place of the normalisation."""
    return Discriminator(classes, prepare="tanh")


@MODELS.register()
def discriminator_cvpr19(classes: int = 19) -> Discriminator:
    """The discriminator of the CVPR version, which sees the image beside the probabilities."""
    return Discriminator(classes, prepare="softmax", image=True)
