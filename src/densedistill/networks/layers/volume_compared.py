"""A cost volume that learned 1x1 convolutions compute from both views' features at every disparity (TSNnet).

A 1x1 convolution over the joint channels of a pair of pixels is a sum of one over each view's: both are taken
once a view, and a pair costs an addition. Only pairs that exist are compared, all disparities at once.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .convolution import part_views, runs_eagerly_on_cpu
from .exporting import is_exporting


class PairConvolution(nn.Conv2d):
    """A 1x1 convolution over a left and a right map whose channels alternate: 2k left, 2k + 1 right.

    It is built without a bias; a folded normalisation gives it one.
    """

    def __init__(self, inputs: int, outputs: int):
        super().__init__(2 * inputs, outputs, 1, bias=False)

    def forward(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Return what each view (B, inputs, H, W) adds to the sum, (B, outputs, H, W) each."""
        return F.conv2d(left, self.weight[:, 0::2], self.bias), F.conv2d(right, self.weight[:, 1::2])

    def macs(self, inputs: tuple[Tensor, ...]) -> int:
        """Return the multiply-accumulates of a call."""
        return sum(view.numel() for view in inputs) * self.out_channels


class ComparedVolume(nn.Module):
    """Reduce each view's features, compare them at every disparity by 1x1 convolutions, give one channel.

    Args:
        reduce: from the features (2B, C, h, w) of both views to those that are compared.
        channels: compared of one view, then of each convolution's result; the last is 1.
        levels: number of disparities D, in pixels of the features.
    """

    def __init__(self, reduce: nn.Module, channels: Sequence[int], levels: int):
        super().__init__()
        self.reduce, self.levels = reduce, levels
        self.compare = nn.ModuleList()
        for i, (inputs, outputs) in enumerate(itertools.pairwise(channels)):
            conv = nn.Conv2d(inputs, outputs, 1, bias=False) if i else PairConvolution(inputs, outputs)
            self.compare.append(nn.Sequential(OrderedDict(conv=conv, norm=nn.BatchNorm2d(outputs))))

    def forward(self, features: Tensor, batch: int) -> Tensor:
        """Return (B, 1, D, h, w), at least 0, for the features of the left and then the right views.

        Columns `x < d`, which have no partner, are 0.
        """
        left, right = self._first.conv(*part_views(self.reduce(features), batch))
        width = left.shape[-1]
        if is_exporting():
            return self._all_columns(left, right, width)
        levels, columns = torch.triu_indices(self.levels, width, device=left.device)
        pairs = _pick(left, columns, from_left=False) + _pick(right, columns - levels, from_left=True)
        cost = self._compare(pairs)[:, 0]
        volume = cost.new_zeros(*cost.shape[:-1], self.levels * width)
        volume = volume.index_copy(-1, levels * width + columns, cost)
        return volume.unflatten(-1, (self.levels, width)).movedim(-2, 1)[:, None]

    def _all_columns(self, left: Tensor, right: Tensor, width: int) -> Tensor:
        """The same by standard operators, for a width that may be unknown: compare all columns, keep the
        paired."""
        columns = torch.arange(width, device=left.device)
        columns = columns - torch.arange(self.levels, device=left.device)[:, None]
        right = right.index_select(3, columns.clamp(min=0).flatten())
        pairs = left[:, :, :, None] + right.unflatten(3, (self.levels, width))
        cost = self._compare(pairs.flatten(2, 3)).unflatten(2, (-1, self.levels)).transpose(2, 3)
        return cost * (columns >= 0).to(cost.dtype)[:, None]

    @property
    def _first(self) -> Any:
        return self.compare[0]

    def _compare(self, pairs: Tensor) -> Tensor:
        pairs = F.relu(self._first.norm(pairs))
        for layer in list(self.compare)[1:]:
            pairs = F.relu(layer(pairs))
        return pairs


def _pick(features: Tensor, columns: Tensor, from_left: bool) -> Tensor:
    """Return `columns` of `features` (B, C, H, W), channels innermost in memory so that runs are long.

    These are the columns of every level, one less a level: the first ones if `from_left`, else the last ones.
    """
    last = features.permute(0, 2, 3, 1)
    eagerly = runs_eagerly_on_cpu(features)
    picked = _Pick.apply(last, columns, from_left) if eagerly else last.index_select(2, columns)
    return picked.permute(0, 3, 1, 2)


class _Pick(torch.autograd.Function):
    """`index_select` along the columns; its gradient adds level to level, ten times faster than torch's."""

    @staticmethod
    def forward(ctx: Any, last: Tensor, columns: Tensor, from_left: bool) -> Tensor:
        ctx.shape, ctx.from_left = last.shape, from_left
        return last.index_select(2, columns)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        total, width = gradient.new_zeros(ctx.shape, dtype=torch.float32), ctx.shape[2]
        start, length = 0, width
        while start < gradient.shape[2]:
            columns = slice(length) if ctx.from_left else slice(width - length, width)
            total[:, :, columns] += gradient[:, :, start : start + length]
            start, length = start + length, length - 1
        return total.to(gradient.dtype), None, None
