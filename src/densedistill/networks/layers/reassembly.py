"""Cost self-reassembling: the refinement of Lac-GwcNet (AAAI 2022, section 3.3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._layout import Rule
from .convolution import ConvNorm2d


class SlowConv2d(nn.Conv2d):
    """1x1 convolution with bias whose parameters get a hundredth of their gradient."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, outputs, H, W) for `x` (B, inputs, H, W)."""
        bias = None if self.bias is None else _slow(self.bias)
        return self._conv_forward(x, _slow(self.weight), bias)


class Guidance(nn.Module):
    """U-Net on the image (B, 3, H, W), whose sides are multiples of 16, to 64 channels at full size."""

    def __init__(self) -> None:
        super().__init__()
        widths = (32, 64, 128, 128, 128)
        self.encode = nn.ModuleList(_double(i, o) for i, o in zip((3, *widths), widths, strict=False))
        ups = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.up = nn.ModuleList(
            nn.Sequential(nn.Upsample(scale_factor=2), ConvNorm2d(i, o, bias=True)) for i, o in ups
        )
        self.decode = nn.ModuleList(_double(2 * o, o) for _, o in ups)
        self.pool = nn.MaxPool2d(2)
        self.project = nn.Conv2d(widths[0], 64, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Return (B, 64, H, W)."""
        skips: list[Tensor] = []
        x = image
        for i, encode in enumerate(self.encode):
            x = encode(self.pool(x) if i else x)
            skips.append(x)
        skips.pop()
        for up, decode in zip(self.up, self.decode, strict=True):
            x = decode(torch.cat((skips.pop(), up(x)), 1))
        return F.relu(self.project(x), inplace=True)


class CostReassembling(nn.Module):
    """Re-assemble the logits of every pixel from those at two places that the image suggests.

    The places are one pixel off and normalised differently from how they are sampled, as in the published
    network, whose weights have learned that: a zero offset does not sample the pixel itself.
    """

    def __init__(self, nodes: int = 2):
        super().__init__()
        self.guidance = Guidance()
        self.offset = SlowConv2d(64, 2 * nodes)
        self.modulation = SlowConv2d(64, nodes)

    def forward(self, logits: Tensor, image: Tensor) -> Tensor:
        """Return refined logits (B, M, H, W) for `logits` of that shape and the left image (B, 3, H, W)."""
        guidance = self.guidance(image)
        offsets = self.offset(guidance).to(logits.dtype)
        strength = self.modulation(guidance).to(logits.dtype).sigmoid()
        height, width = logits.shape[-2:]
        rows = torch.arange(1, height + 1, dtype=logits.dtype, device=logits.device).view(1, 1, -1, 1)
        columns = torch.arange(1, width + 1, dtype=logits.dtype, device=logits.device).view(1, 1, 1, -1)
        dy, dx = offsets.tensor_split(2, 1)
        y = 2 * (rows + dy).clamp(0, height - 1) / (height - 1) - 1
        x = 2 * (columns + dx).clamp(0, width - 1) / (width - 1) - 1
        refined = torch.zeros_like(logits)
        for node in range(strength.shape[1]):
            grid = torch.stack((x[:, node], y[:, node]), -1)
            sampled = F.grid_sample(logits, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
            refined = refined + strength[:, node : node + 1] * sampled
        return refined / (strength.sum(1, keepdim=True) + 1e-8)


def guidance_rules() -> tuple[Rule, ...]:
    """Return the names of the published refinement's entries and ours."""
    published, ours = "refine_module.feature_net", "refinement.guidance"
    rules: list[Rule] = [
        ("refine_module.offset_conv.p_conv", "refinement.offset"),
        ("refine_module.offset_conv.m_conv", "refinement.modulation"),
        (f"{published}.Conv_1x1", f"{ours}.project"),
    ]
    doubles = [(f"{published}.Conv{i + 1}", f"{ours}.encode.{i}") for i in range(5)]
    doubles += [(f"{published}.Up_conv{5 - i}", f"{ours}.decode.{i}") for i in range(4)]
    for there, here in doubles:
        for number, name in (("0", "0.conv"), ("1", "0.norm"), ("3", "1.conv"), ("4", "1.norm")):
            rules.append((f"{there}.conv.{number}", f"{here}.{name}"))
    for i in range(4):
        rules.append((f"{published}.Up{5 - i}.up.1", f"{ours}.up.{i}.1.conv"))
        rules.append((f"{published}.Up{5 - i}.up.2", f"{ours}.up.{i}.1.norm"))
    return tuple(rules)


def _double(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(ConvNorm2d(inputs, outputs), ConvNorm2d(outputs, outputs))


def _slow(parameter: Tensor) -> Tensor:
    """Return the value of `parameter`, with a hundredth of its gradient."""
    return parameter.detach() + 0.01 * (parameter - parameter.detach())
