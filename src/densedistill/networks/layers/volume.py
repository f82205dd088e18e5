"""Cost volumes: what two feature maps have in common at every disparity.

Volumes come out in the memory format that three-dimensional convolutions want (channels_last_3d). Only the
gradient of a correlation loops over disparities, past features that stay in the cache. Each computation is
an operator of torch's dispatcher, so that `torch.compile` keeps it whole; exports, which must consist of
standard operators, trace plain torch.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from . import volume_chunked as chunked
from .exporting import is_exporting


def groupwise_correlation_volume(left: Tensor, right: Tensor, levels: int, groups: int) -> Tensor:
    """Return the mean product of `left` and the shifted `right` per channel group (GwcNet, CVPR 2019, eq. 4).

    `V[g, d, y, x] = mean over the group's channels of left[x] * right[x - d]`, 0 where `x < d`.

    Args:
        left, right: features (B, C, H, W).
        levels: number of disparities D, in pixels of the features.
        groups: number of contiguous channel groups G; divides C.

    Returns:
        (B, G, D, H, W) in the features' type; sums are float32 at least.

    Raises:
        ValueError: the features differ in shape, or cannot be split into so many groups.
    """
    left, right = _same_type(left, right)
    if left.shape[1] % groups:
        raise ValueError(f"{left.shape[1]} channels cannot be split into {groups} groups")
    if is_exporting():
        return _correlate_by_standard_operators(left, right, levels, groups)
    return torch.ops.densedistill.groupwise_correlation(left, right, levels, groups)


def concatenation_volume(left: Tensor, right: Tensor, levels: int, mask_left: bool = True) -> Tensor:
    """Return `left` and the shifted `right` side by side at every disparity (GC-Net, ICCV 2017).

    Args:
        left, right: features (B, C, H, W).
        levels: number of disparities D, in pixels of the features.
        mask_left: zero the left half, too, where `x < d` (GwcNet, Lac-GwcNet); ACVNet keeps it.

    Returns:
        (B, 2C, D, H, W), left half first, in the features' type.

    Raises:
        ValueError: the features differ in shape.
    """
    left, right = _same_type(left, right)
    if is_exporting():
        return _concatenate_by_standard_operators(left, right, levels, mask_left)
    return torch.ops.densedistill.concatenation(left, right, levels, mask_left)


class GroupwiseCorrelation(nn.Module):
    """`groupwise_correlation_volume` as a module, so that a tap can name it."""

    def __init__(self, levels: int, groups: int):
        super().__init__()
        self.levels, self.groups = levels, groups

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return groupwise_correlation_volume(left, right, self.levels, self.groups)


class Concatenation(nn.Module):
    """`concatenation_volume` as a module, so that a tap can name it."""

    def __init__(self, levels: int, mask_left: bool = True):
        super().__init__()
        self.levels, self.mask_left = levels, mask_left

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return concatenation_volume(left, right, self.levels, self.mask_left)


def _same_type(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    if left.ndim != 4 or left.shape != right.shape:
        raise ValueError(
            f"features are two (B, C, H, W) of one shape, got {tuple(left.shape)} and {tuple(right.shape)}"
        )
    dtype = torch.promote_types(left.dtype, right.dtype)
    return left.to(dtype), right.to(dtype)


def _correlate_by_standard_operators(left: Tensor, right: Tensor, levels: int, groups: int) -> Tensor:
    """Correlate blocks of D columns with the 2D columns that they can match, and cut out the band.

    In a block, row i holds column i of the left view, and column j is counted from the right end of the right
    view's 2D columns, so that disparity d stands at j = D - 1 - i + d. Cutting D - 1 numbers off the front of
    the flattened block and folding it to rows one number shorter moves it to column d.
    """
    batch, channels, height, width = left.shape
    blocks = width // levels + 1
    left, right = (
        _widened(x, blocks * levels)
        .reshape(batch, groups, channels // groups, height, blocks, levels)
        .permute(0, 1, 3, 4, 5, 2)
        for x in (left, right)
    )
    before = F.pad(right, (0, 0, 0, 0, 1, 0))[:, :, :, :-1]
    pairs = torch.cat((before, right), 4).flip(4)
    products = torch.matmul(left, pairs.transpose(4, 5)).flatten(4)
    band = products[..., levels - 1 : levels - 1 + levels * (2 * levels - 1)]
    band = band.reshape(batch, groups, height, blocks * levels, 2 * levels - 1)[..., :levels]
    if isinstance(width, int):
        band = band[:, :, :, :width]
    else:
        band = band.index_select(3, torch.arange(width, device=left.device))
    return band.permute(0, 1, 4, 2, 3) * (groups / channels)


def _widened(features: Tensor, width: int) -> Tensor:
    """Return features with columns of zeros up to `width`.

    Where the exporter does not know their own width, these are gathered, not padded: a slice after padding
    would hold for widths with the traced one's remainder alone.
    """
    own = features.shape[3]
    if isinstance(own, int):
        return F.pad(features, (0, width - own))
    columns = torch.arange(width, device=features.device)
    return features.index_select(3, columns.clamp(max=own - 1)) * (columns < own).to(features.dtype)


def _concatenate_by_standard_operators(left: Tensor, right: Tensor, levels: int, mask_left: bool) -> Tensor:
    width = left.shape[-1]
    columns = torch.arange(width, device=left.device) - torch.arange(levels, device=left.device)[:, None]
    shown = (columns >= 0).to(left.dtype)[:, None]
    shifted = right[..., columns.clamp(min=0)].transpose(2, 3) * shown
    kept = left[:, :, None] * (shown if mask_left else torch.ones_like(shown))
    return torch.cat((kept, shifted), 1)


_LIBRARY = torch.library.Library("densedistill", "FRAGMENT")
_LIBRARY.define("groupwise_correlation(Tensor left, Tensor right, int levels, int groups) -> Tensor")
_LIBRARY.define(
    "groupwise_correlation_backward(Tensor gradient, Tensor left, Tensor right, int levels, int groups)"
    " -> (Tensor, Tensor)"
)
_LIBRARY.define("concatenation(Tensor left, Tensor right, int levels, bool mask_left) -> Tensor")
_LIBRARY.define("concatenation_backward(Tensor gradient, int levels, bool mask_left) -> (Tensor, Tensor)")
_LIBRARY.impl("groupwise_correlation", chunked.correlation, "CompositeExplicitAutograd")
_LIBRARY.impl("groupwise_correlation_backward", chunked.correlation_backward, "CompositeExplicitAutograd")
_LIBRARY.impl("concatenation", chunked.concatenation, "CompositeExplicitAutograd")
_LIBRARY.impl("concatenation_backward", chunked.concatenation_backward, "CompositeExplicitAutograd")


def _channels_last(like: Tensor, batch: Any, channels: Any, *sizes: Any) -> Tensor:
    return like.new_empty(batch, *sizes, channels).movedim(-1, 1)


@torch.library.register_fake("densedistill::groupwise_correlation", lib=_LIBRARY)
def _(left: Tensor, right: Tensor, levels: int, groups: int) -> Tensor:
    batch, _, height, width = left.shape
    return _channels_last(left, batch, groups, levels, height, width)


@torch.library.register_fake("densedistill::groupwise_correlation_backward", lib=_LIBRARY)
def _(gradient: Tensor, left: Tensor, right: Tensor, levels: int, groups: int) -> tuple[Tensor, Tensor]:
    return _channels_last(left, *left.shape), _channels_last(right, *right.shape)


@torch.library.register_fake("densedistill::concatenation", lib=_LIBRARY)
def _(left: Tensor, right: Tensor, levels: int, mask_left: bool) -> Tensor:
    batch, channels, height, width = left.shape
    return _channels_last(left, batch, 2 * channels, levels, height, width)


@torch.library.register_fake("densedistill::concatenation_backward", lib=_LIBRARY)
def _(gradient: Tensor, levels: int, mask_left: bool) -> tuple[Tensor, Tensor]:
    batch, channels, _, height, width = gradient.shape
    shape = (batch, channels // 2, height, width)
    return _channels_last(gradient, *shape), _channels_last(gradient, *shape)


def _save_features(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    left, right, *ctx.options = inputs
    ctx.save_for_backward(left, right)


@once_differentiable
def _differentiate_correlation(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
    backward = torch.ops.densedistill.groupwise_correlation_backward
    return *backward(gradient, *ctx.saved_tensors, *ctx.options), None, None


def _save_options(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, _, *ctx.options = inputs


@once_differentiable
def _differentiate_concatenation(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
    return *torch.ops.densedistill.concatenation_backward(gradient, *ctx.options), None, None


torch.library.register_autograd(
    "densedistill::groupwise_correlation",
    _differentiate_correlation,
    setup_context=_save_features,
    lib=_LIBRARY,
)
torch.library.register_autograd(
    "densedistill::concatenation", _differentiate_concatenation, setup_context=_save_options, lib=_LIBRARY
)
