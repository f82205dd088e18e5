"""Sums of exponentials over fine levels of disparity, of logits that are known at coarse ones.

A block of fine levels at a time is made by a matrix, exponentiated and summed by another. Where there are
four fine levels to a coarse one, their sums have a closed form, and none is made.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

BLOCK_LEVELS = 48

# Below this, the exponential of every fine level of a pixel could vanish in float32.
_SMALLEST_LARGEST = -40.0

# Exponentials of less would be subnormal, with which processors are a hundred times slower.
_LOWEST = -70.0

# Of logits that are all smaller than this in magnitude, exponentials are summed as they are.
SMALL = 40.0


@functools.lru_cache(maxsize=256)
def interpolation_matrix(
    source: int, target: int, align_corners: bool, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Return the matrix (target, source) of linear interpolation along one axis."""
    # In NumPy, and in the type that is wanted, so that an exported graph holds the numbers, not their making.
    steps = np.arange(target)
    if align_corners:
        position = steps * ((source - 1) / max(target - 1, 1))
    else:
        position = np.maximum((steps + 0.5) * (source / target) - 0.5, 0)
    lower = np.minimum(position.astype(np.int64), source - 1)
    upper = np.minimum(lower + 1, source - 1)
    matrix = np.zeros((target, source))
    matrix[steps, lower] = 1 - (position - lower)
    matrix[steps, upper] += position - lower
    if dtype != torch.float64:
        matrix = matrix.astype(np.float32)
    return torch.from_numpy(matrix).to(device, dtype)


@functools.lru_cache(maxsize=256)
def support(source: int, target: int, align_corners: bool) -> tuple[list[int], list[int]]:
    """Return for each target index the first source index that it reads, and one past the last."""
    used = interpolation_matrix(source, target, align_corners, torch.float64, torch.device("cpu")) != 0
    first = used.int().argmax(1)
    last = source - used.flip(1).int().argmax(1)
    return first.tolist(), last.tolist()


@dataclass(frozen=True)
class _Block:
    """Consecutive fine levels, and the coarse levels `start` to `stop` between which they lie."""

    start: int
    stop: int
    up: Tensor  # (fine, coarse) interpolation
    moments: Tensor  # (2, fine): ones, and the level less the middle level
    down: Tensor  # (coarse, fine) transposed interpolation
    down_moments: Tensor  # (2 coarse, fine): the same, then times the level less the middle level


@dataclass(frozen=True)
class Levels:
    """The way from coarse to fine levels.

    `gap` is the largest distance of a coarse level from a fine one. `places` (D, 1), where there are four
    fine levels to a coarse one and corners are not aligned, is each coarse level's place among the fine
    ones, less the middle level.
    """

    coarse: int  # D
    blocks: list[_Block]
    gap: float
    places: Tensor | None


@functools.lru_cache(maxsize=64)
def make_levels(
    source: int, target: int, align_corners: bool, dtype: torch.dtype, device: torch.device
) -> Levels:
    """Return the way from `source` coarse levels to `target` fine ones."""
    matrix = interpolation_matrix(source, target, align_corners, dtype, device)
    first, last = support(source, target, align_corners)
    # Moments are taken about the middle level: half the magnitude, half the rounding error.
    levels = torch.arange(target, dtype=dtype, device=device) - (target - 1) / 2
    blocks = []
    count = max(1, round(target / BLOCK_LEVELS))
    for index in range(count):
        begin, end = index * target // count, (index + 1) * target // count
        start, stop = first[begin], last[end - 1]
        up = matrix[begin:end, start:stop].contiguous()
        inside = levels[begin:end]
        down = up.T.contiguous()
        moments = torch.stack((torch.ones_like(inside), inside))
        blocks.append(_Block(start, stop, up, moments, down, torch.cat((down, down * inside))))
    places = None
    if target == 4 * source and source > 1 and not align_corners:
        places = (4 * torch.arange(source, dtype=dtype, device=device) + (2 - 2 * source))[:, None]
    return Levels(source, blocks, 1 - matrix.amax(0).min().item(), places)


class Scratch:
    """Memory that each chunk uses again, by name: new memory is not in the cache."""

    def __init__(self, like: Tensor):
        self.like = like
        self.blocks: dict[str, Tensor] = {}

    def __call__(self, name: str, shape: Sequence[int]) -> Tensor:
        """Return memory of `shape`, of which a chunk before has had no less."""
        if name not in self.blocks:
            self.blocks[name] = self.like.new_empty(shape)
        return self.blocks[name].flatten()[: math.prod(shape)].view(shape)


class ByMatrices(NamedTuple):
    """Sums over the fine levels of any grid, a block of exponentials at a time.

    `bound` (rows, 1, W) is still to be subtracted from fine logits, None for nothing; `deep` says that logits
    are so low that their exponentials want a limit.
    """

    levels: Levels
    bound: Tensor | None
    deep: bool

    def sums(self, logits: Tensor) -> Tensor:
        """Return the exponentials' sum and that of their level less the middle one, (rows, 2, W)."""
        sums = logits.new_zeros(len(logits), 2, logits.shape[-1])
        for block in self.levels.blocks:
            sums.baddbmm_(block.moments.expand(len(logits), -1, -1), self.exponentials(logits, block))
        return sums

    def coarse(self, logits: Tensor) -> Tensor:
        """Return the transposed interpolation of the exponentials, (rows, D, W)."""
        return self.to_levels_of(self.levels, logits)

    def coarse_moments(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Return that, and the same of the exponentials times their level less the middle one."""
        coarse = logits.new_zeros(len(logits), 2, *logits.shape[1:])
        for block in self.levels.blocks:
            part = torch.matmul(block.down_moments, self.exponentials(logits, block))
            coarse[:, :, block.start : block.stop] += part.view(len(logits), 2, -1, logits.shape[-1])
        return coarse[:, 0], coarse[:, 1]

    def to_levels_of(self, other: Levels, logits: Tensor) -> Tensor:
        """Return the transposed interpolation to the coarse levels of `other`, with as many fine ones."""
        coarse = logits.new_zeros(len(logits), other.coarse, logits.shape[-1])
        for block, target in zip(self.levels.blocks, other.blocks, strict=True):
            part = torch.matmul(target.down, self.exponentials(logits, block))
            coarse[:, target.start : target.stop] += part
        return coarse

    def exponentials(self, logits: Tensor, block: _Block) -> Tensor:
        """Return exp of the logits at the block's fine levels, (rows, fine, W)."""
        fine = torch.matmul(block.up, logits[:, block.start : block.stop])
        if self.bound is not None:
            fine.sub_(self.bound)
        return (fine.clamp_(min=_LOWEST) if self.deep else fine).exp_()


class Fourfold(NamedTuple):
    """The same for four fine levels to a coarse one, corners not aligned, in closed form.

    Between neighbours whose exponentials' eighth roots are u and v lie the four fine levels u^7 v, u^5 v^3,
    u^3 v^5 and u v^7, and beyond the first and the last level two each that equal it. So their sums are
    polynomials, and one exponential serves four fine levels. Results lie in `scratch`.
    """

    places: Tensor
    scratch: Scratch

    def sums(self, logits: Tensor) -> Tensor:
        coarse, ends = self._coarse(logits)
        sums = torch.stack((coarse.sum(1), coarse.mul_(self.places).sum(1)), 1)
        sums[:, 1] += ends[:, 1] - ends[:, 0]
        return sums

    def coarse(self, logits: Tensor) -> Tensor:
        return self._coarse(logits)[0]

    def coarse_moments(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        coarse, ends = self._coarse(logits)
        products, squares, weights = self._intervals(logits)
        # About a coarse level's own place: what lies above it, less what lies below.
        beside = products.add_(squares, alpha=1.75).mul_(weights)
        moments = torch.mul(coarse, self.places, out=self.scratch("first", logits.shape))
        moments[:, :-1].add_(beside, alpha=0.5)
        moments[:, 1:].sub_(beside, alpha=0.5)
        moments[:, 0] -= ends[:, 0]
        moments[:, -1] += ends[:, 1]
        return coarse, moments

    def _intervals(self, logits: Tensor) -> list[Tensor]:
        """Return memory for what `_coarse` finds between levels, (rows, D - 1, W) each.

        With u and v as above: u^2 v^2, the mean of u^4 and v^4, and u v (u^2 + v^2).
        """
        rows, levels, width = logits.shape
        names = ("products", "squares", "weights")
        return [self.scratch(name, (rows, levels - 1, width)) for name in names]

    def _coarse(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Return `coarse`, and the exponentials beyond the first and the last level, (rows, 2, W)."""
        first, second, coarse = (self.scratch(name, logits.shape) for name in ("first", "second", "coarse"))
        products, squares, weights = self._intervals(logits)
        lower, upper, ends = slice(None, -1), slice(1, None), slice(None, None, logits.shape[1] - 1)
        # Powers of two are twice as fast as those of e.
        roots = torch.mul(logits, math.log2(math.e) / 8, out=first).exp2_()
        second_powers = torch.mul(roots, roots, out=second)
        both = torch.mul(roots[:, lower], roots[:, upper], out=products)
        fourth_powers = torch.mul(second_powers, second_powers, out=first)
        beyond = fourth_powers[:, ends].square().mul_(2)
        torch.lerp(fourth_powers[:, lower], fourth_powers[:, upper], 0.5, out=squares)
        torch.add(second_powers[:, lower], second_powers[:, upper], out=weights).mul_(both)
        moment = torch.sub(second_powers[:, upper], second_powers[:, lower], out=first[:, lower]).mul_(both)
        torch.mul(both, both, out=products)
        moment.mul_(torch.add(squares, products, alpha=2 / 3, out=second[:, lower]))
        # Half of an interval's sum belongs to either end, but for a quarter of its moment.
        half = torch.mul(squares, weights, out=coarse[:, lower])
        coarse[:, -1] = 0
        more = torch.add(half, moment, alpha=0.75, out=second[:, lower])
        half.sub_(moment, alpha=0.75)
        coarse[:, upper] += more
        coarse[:, ends] += beyond
        return coarse, beyond


def summation(
    logits: Tensor, levels: Levels, scratch: Scratch, small: bool, closed: bool = True
) -> ByMatrices | Fourfold:
    """Subtract from each pixel's `logits` (rows, D, W), in place, a bound of its fine logits where that is
    needed, and return how to sum the exponentials of what is left, in closed form if that may be and is
    `closed`.

    No fine logit is larger than the largest coarse one, which is cheap to find. But the largest fine logit
    may lie `gap` of the way to the coarse neighbour below it; where that may be too far, the largest fine
    one is left as `bound` to be subtracted from the fine logits: from coarse ones, rounding could lose it.
    """
    fourfold = Fourfold(levels.places, scratch) if closed and levels.places is not None else None
    if fourfold is not None and small:
        return fourfold
    largest = logits.amax(1, keepdim=True)
    smallest = (logits.amin(1, keepdim=True) - largest).amin().item()
    closed_form = fourfold is not None and smallest >= _LOWEST
    if not closed_form and smallest * levels.gap < _SMALLEST_LARGEST:
        fine = (torch.matmul(b.up, logits[:, b.start : b.stop]).amax(1, keepdim=True) for b in levels.blocks)
        return ByMatrices(levels, functools.reduce(torch.maximum, fine), deep=smallest < _LOWEST)
    logits.sub_(largest)
    if fourfold is not None and closed_form:
        return fourfold
    return ByMatrices(levels, None, deep=smallest < _LOWEST)
