"""Frozen 2D convolutions on a CPU, with weights and activation as oneDNN wants them.

oneDNN lays weights out anew at every call, which takes as long as the convolution itself where they are many
and the image is small, as at the end of an encoder.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .convolution import DepthwiseConv2d, autocast_dtype
from .exporting import is_recording

Activation = tuple[str, list[float]]  # as oneDNN names it, and its numbers
_ONE_AT_A_TIME = threading.Lock()


class PackedConv2d(nn.Conv2d):
    """What `PackedConv2d.take` makes of a convolution, in place: at its first call its weights are packed.

    They are for the size of that call, and in the number format in which it computes; `weight` unpacks them
    whenever it is read, and cannot be changed or saved. Where that is not to be, on a GPU, in a compiled
    network or where an image wants its gradient, it computes as ever. A copy, and one for another device or
    number format, has its weights unpacked for good.
    """

    packed: Tensor | None
    activation: Activation

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The weight, (out, in / groups, height, width)."""
        if self.packed is None:
            weight = self._parameters["weight"]
            assert weight is not None
            return weight
        return self.packed.to_dense() if self.packed.is_mkldnn else self.packed

    @staticmethod
    def take(conv: nn.Module) -> bool:
        """Make `conv` a packed one, if it is a frozen one of torch's or ours; return whether it is."""
        if type(conv) not in (nn.Conv2d, DepthwiseConv2d) or not torch.backends.mkldnn.is_available():
            return False
        assert isinstance(conv, nn.Conv2d)
        learns = any(parameter.requires_grad for parameter in conv.parameters())
        if learns or conv.padding_mode != "zeros" or isinstance(conv.padding, str):
            return False
        conv.__dict__.update(packed=None, activation=("none", []))
        conv.__class__ = PackedConv2d
        return True

    def forward(self, image: Tensor) -> Tensor:
        """Return (B, out, H', W') for `image` (B, in, H, W)."""
        dtype = autocast_dtype(image)
        as_ever = (image.requires_grad and torch.is_grad_enabled()) or not image.numel()
        if self.packed is None and not as_ever and _packs(image, dtype):
            self._pack(image.shape, dtype)
        packed = self.packed
        if as_ever or packed is None or not packed.is_mkldnn or packed.dtype != dtype:
            bias = None if self.bias is None else self.bias.to(dtype)
            result = self._conv_forward(image.to(dtype), self.weight.to(dtype), bias)
            name, numbers = self.activation
            return result if name == "none" else getattr(F, name)(result, *numbers)
        padding = [int(n) for n in self.padding]
        options = (padding, self.stride, self.dilation, self.groups, *self.activation, "")
        # What torch.compile makes of a convolution.
        return torch.ops.mkldnn._convolution_pointwise(image.to(dtype), packed, self.bias, *options)

    @torch.no_grad()
    def _pack(self, size: torch.Size, dtype: torch.dtype) -> None:
        with _ONE_AT_A_TIME:
            if self.packed is not None:
                return
            weight, padding = self.weight.to(dtype).contiguous(), [int(n) for n in self.padding]
            if self.bias is not None:
                self.bias.data = self.bias.to(dtype)
            self.packed = torch.ops.mkldnn._reorder_convolution_weight(
                weight, padding, self.stride, self.dilation, self.groups, list(size)
            )
            # What counts parameters still finds it.
            self._parameters["weight"] = nn.Parameter(weight.to("meta"), requires_grad=False)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ if self.packed is None else {**self.__dict__, "packed": self.weight}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        if self.packed is None:
            return super()._apply(fn, recurse)
        before = self.weight
        after = fn(before)
        if (after.device, after.dtype) != (before.device, before.dtype):
            self.packed = after
        if self.bias is not None:
            self.bias.data = fn(self.bias.data)
        return self


def activation_of(module: Any) -> Activation | None:
    """Return what `module` is, if it is an activation that oneDNN computes with a convolution, to the bit."""
    if type(module) is nn.ReLU:
        return "relu", []
    if type(module) in (nn.ReLU6, nn.Hardtanh):
        return "hardtanh", [module.min_val, module.max_val]
    return None


def _packs(image: Tensor, dtype: torch.dtype) -> bool:
    if image.device.type != "cpu" or is_recording():
        return False
    bfloat16 = dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return dtype == torch.float32 or bfloat16
