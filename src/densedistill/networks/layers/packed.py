"""Frozen 2D convolutions on a CPU, with weights and activation as oneDNN wants them.

oneDNN lays weights out anew at every call, which takes as long as the convolution itself where they are many
and the image is small, as at the end of an encoder.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .convolution import DepthwiseConv2d

PACKABLE = (nn.Conv2d, DepthwiseConv2d)
Activation = tuple[str, list[float]]  # as oneDNN names it, and its numbers
NONE: Activation = ("none", [])


class PackedConv2d(nn.Conv2d):
    """What `pack` makes of a convolution. `weight` is on the meta device: it has a shape, and no numbers.

    Where a gradient is wanted, or nothing is given, it computes as ever, by weights that it unpacks. A copy,
    and one for another device or number format, has them unpacked for good.
    """

    packed: Tensor
    activation: Activation

    def forward(self, image: Tensor) -> Tensor:
        """Return (B, out, H', W') for `image` (B, in, H, W), in the number format of the weights."""
        image = image.to(self.packed.dtype)
        learns = image.requires_grad and torch.is_grad_enabled()
        if learns or not image.numel() or not self.packed.is_mkldnn:
            result = self._conv_forward(image, self._unpacked(), self.bias)
            name, numbers = self.activation
            return result if name == "none" else getattr(F, name)(result, *numbers)
        padding = [int(n) for n in self.padding]
        return torch.ops.mkldnn._convolution_pointwise(  # what torch.compile makes of a convolution
            image,
            self.packed,
            self.bias,
            padding,
            self.stride,
            self.dilation,
            self.groups,
            *self.activation,
            "",
        )

    def _unpacked(self) -> Tensor:
        return self.packed.to_dense() if self.packed.is_mkldnn else self.packed

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "packed": self._unpacked()}  # packed ones cannot be copied

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PackedConv2d:
        before = self._unpacked()
        after = fn(before)
        if (after.device, after.dtype) != (before.device, before.dtype):
            self.packed = after
        if self.bias is not None:
            self.bias.data = fn(self.bias.data)
        return self


def can_pack(conv: nn.Module) -> bool:
    """Return whether `pack` takes `conv`."""
    if type(conv) not in PACKABLE or not torch.backends.mkldnn.is_available():
        return False
    assert isinstance(conv, nn.Conv2d)
    weight, bfloat16 = conv.weight, torch.ops.mkldnn._is_mkldnn_bf16_supported()
    fits = weight.dtype == torch.float32 or (weight.dtype == torch.bfloat16 and bfloat16)
    plain = conv.padding_mode == "zeros" and not isinstance(conv.padding, str)
    frozen = not any(parameter.requires_grad for parameter in conv.parameters())
    return fits and plain and frozen and weight.device.type == "cpu"


@torch.no_grad()
def pack(conv: Any, size: torch.Size) -> None:
    """Make `conv`, which `can_pack`, a `PackedConv2d` in place, best for images of `size` (B, C, H, W)."""
    weight, padding = conv.weight.contiguous(), [int(n) for n in conv.padding]
    conv.packed = torch.ops.mkldnn._reorder_convolution_weight(
        weight, padding, conv.stride, conv.dilation, conv.groups, list(size)
    )
    conv.weight = nn.Parameter(weight.to("meta"), requires_grad=False)
    conv.activation = NONE
    conv.__class__ = PackedConv2d


def activation_of(module: Any) -> Activation | None:
    """Return what `module` is, if it is an activation that oneDNN computes with a convolution."""
    if type(module) is nn.ReLU:
        return "relu", []
    if type(module) in (nn.ReLU6, nn.Hardtanh):
        return "hardtanh", [module.min_val, module.max_val]
    if type(module) is nn.LeakyReLU:
        return "leaky_relu", [module.negative_slope]
    return None
