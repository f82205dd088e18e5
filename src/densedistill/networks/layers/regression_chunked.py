"""Softmax over upsampled disparity levels in chunks that stay in the processor's cache.

Trilinear upsampling is linear and separable. Columns are upsampled first, for the whole image, since that is
cheap at low height. Then, for a few output rows at a time, rows are interpolated, levels are upsampled by one
small matrix product, and what is wanted of the exponentials is summed by another: moments for the forward
pass, the transposed interpolation for the gradient. Only (rows, block of levels, W) numbers are ever fine;
none are where there are four fine levels to a coarse one, whose sums have a closed form.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

# Levels in a block, and numbers in a block for each thread, which fill a fifth of a 2 MB cache.
_BLOCK_LEVELS = 48
_BLOCK_NUMBERS = 100_000

# Below this, the exponential of every fine level of a pixel could vanish in float32.
_SMALLEST_LARGEST = -40.0

# Exponentials of less would be subnormal, with which processors are a hundred times slower.
_LOWEST = -70.0

# Of logits that are all smaller than this in magnitude, exponentials are summed as they are.
_SMALL = 40.0


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
def _support(source: int, target: int, align_corners: bool) -> tuple[list[int], list[int]]:
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
class _Levels:
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
def _levels(
    source: int, target: int, align_corners: bool, dtype: torch.dtype, device: torch.device
) -> _Levels:
    matrix = interpolation_matrix(source, target, align_corners, dtype, device)
    first, last = _support(source, target, align_corners)
    # Moments are taken about the middle level: half the magnitude, half the rounding error.
    levels = torch.arange(target, dtype=dtype, device=device) - (target - 1) / 2
    blocks = []
    count = max(1, round(target / _BLOCK_LEVELS))
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
    return _Levels(source, blocks, 1 - matrix.amax(0).min().item(), places)


class _Scratch:
    """Memory that each chunk uses again, by name: new memory is not in the cache."""

    def __init__(self, like: Tensor):
        self.like = like
        self.blocks: dict[str, Tensor] = {}

    def __call__(self, name: str, shape: Sequence[int]) -> Tensor:
        """Return memory of `shape`, of which a chunk before has had no less."""
        if name not in self.blocks:
            self.blocks[name] = self.like.new_empty(shape)
        return self.blocks[name].flatten()[: math.prod(shape)].view(shape)


class _Plane:
    """The coarse levels of one image's logits (D, h, w) at (H, W), a few rows at a time, and the way back."""

    def __init__(self, logits: Tensor, height: int, width: int, align_corners: bool, backward: bool):
        self.levels, source_height, source_width = logits.shape
        self.width = width
        self.scratch = _Scratch(logits)
        dtype, device = logits.dtype, logits.device
        self.columns = interpolation_matrix(source_width, width, align_corners, dtype, device)
        self.rows = interpolation_matrix(source_height, height, align_corners, dtype, device)
        self.first, self.last = _support(source_height, height, align_corners)
        self.small = bool(logits.abs().amax() < _SMALL)
        self.wide = torch.matmul(logits.transpose(0, 1).contiguous(), self.columns.T).view(source_height, -1)
        self.wide_gradient = torch.zeros_like(self.wide) if backward else None

    def read(self, begin: int, end: int) -> Tensor:
        """Return the logits of output rows `begin` to `end`, (rows, D, W)."""
        rows = self.scratch("rows", (end - begin, self.levels, self.width))
        row = begin
        while row < end:
            lower, upper = self.first[row], self.last[row] - 1
            stop = row + 1
            while stop < end and (self.first[stop], self.last[stop] - 1) == (lower, upper):
                stop += 1
            out = rows[row - begin : stop - begin].view(stop - row, -1)
            torch.lerp(self.wide[lower], self.wide[upper], self.rows[row:stop, upper, None], out=out)
            row = stop
        return rows

    def add_gradient(self, begin: int, end: int, gradient: Tensor) -> None:
        """Take in the gradient of what `read` returned."""
        assert self.wide_gradient is not None
        start, stop = self.first[begin], self.last[end - 1]
        self.wide_gradient[start:stop].addmm_(
            self.rows[begin:end, start:stop].T, gradient.view(end - begin, -1)
        )

    def gradient(self) -> Tensor:
        """Return the gradient of the logits, (D, h, w)."""
        assert self.wide_gradient is not None
        wide = self.wide_gradient.view(-1, self.levels, self.width)
        return torch.matmul(wide, self.columns).transpose(0, 1)


def _row_chunks(
    height: int, width: int, device: torch.device, levels: int = _BLOCK_LEVELS
) -> Iterator[tuple[int, int]]:
    threads = torch.get_num_threads() if device.type == "cpu" else 64
    rows = max(1, max(2, threads) * _BLOCK_NUMBERS // (levels * width))
    for begin in range(0, height, rows):
        yield begin, min(begin + rows, height)


class _ByMatrices(NamedTuple):
    """Sums over the fine levels of any grid, a block of exponentials at a time.

    `bound` (rows, 1, W) is still to be subtracted from fine logits, None for nothing; `deep` says that logits
    are so low that their exponentials want a limit.
    """

    levels: _Levels
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

    def to_levels_of(self, other: _Levels, logits: Tensor) -> Tensor:
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


class _Fourfold(NamedTuple):
    """The same for four fine levels to a coarse one, corners not aligned, in closed form.

    Between neighbours whose exponentials' eighth roots are u and v lie the four fine levels u^7 v, u^5 v^3,
    u^3 v^5 and u v^7, and beyond the first and the last level two each that equal it. So their sums are
    polynomials, and one exponential serves four fine levels. Results lie in `scratch`.
    """

    places: Tensor
    scratch: _Scratch

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


def _summation(
    logits: Tensor, levels: _Levels, plane: _Plane, closed: bool = True
) -> _ByMatrices | _Fourfold:
    """Subtract from each pixel's `logits` (rows, D, W), in place, a bound of its fine logits where that is
    needed, and return how to sum the exponentials of what is left, in closed form if that may be and is
    `closed`.

    No fine logit is larger than the largest coarse one, which is cheap to find. But the largest fine logit
    may lie `gap` of the way to the coarse neighbour below it; where that may be too far, it is left as
    `bound` to be subtracted from the fine logits: from coarse ones, rounding could lose it.
    """
    fourfold = _Fourfold(levels.places, plane.scratch) if closed and levels.places is not None else None
    if fourfold is not None and plane.small:
        return fourfold
    logits.sub_(logits.amax(1, keepdim=True))
    smallest = logits.amin().item()
    if fourfold is not None and smallest >= _LOWEST:
        return fourfold
    bound = None
    if smallest * levels.gap < _SMALLEST_LARGEST:
        fine = (torch.matmul(b.up, logits[:, b.start : b.stop]).amax(1, keepdim=True) for b in levels.blocks)
        bound = functools.reduce(torch.maximum, fine)
    return _ByMatrices(levels, bound, deep=smallest < _LOWEST)


def expected_disparity(
    logits: Tensor,
    max_disparity: int,
    height: int,
    width: int,
    align_corners: bool,
    window: int | None = None,
) -> Tensor:
    """Return (B, 1, H, W), the expectation under the softmax of upsampled `logits` (B, D, h, w; float)."""
    if window is not None:
        return _expected_in_window(logits, max_disparity, height, width, align_corners, window)
    out = logits.new_empty(len(logits), 1, height, width)
    fine = _levels(logits.shape[1], max_disparity, align_corners, logits.dtype, logits.device)
    for image, result in zip(logits, out, strict=True):
        plane = _Plane(image, height, width, align_corners, backward=False)
        for begin, end in _row_chunks(height, width, logits.device):
            rows = plane.read(begin, end)
            sums = _summation(rows, fine, plane).sums(rows)
            torch.div(sums[:, 1], sums[:, 0], out=result[0, begin:end])
    return out.add_((max_disparity - 1) / 2)


def expected_disparity_backward(
    gradient: Tensor,
    logits: Tensor,
    max_disparity: int,
    height: int,
    width: int,
    align_corners: bool,
    window: int | None = None,
) -> Tensor:
    """Return the gradient of `logits` (B, D, h, w), given that of the expected disparity (B, 1, H, W)."""
    if window is not None:
        options = (max_disparity, height, width, align_corners, window)
        return _expected_in_window_backward(gradient, logits, *options)
    out = torch.empty_like(logits)
    fine = _levels(logits.shape[1], max_disparity, align_corners, logits.dtype, logits.device)
    for image, incoming, result in zip(logits, gradient[:, 0], out, strict=True):
        plane = _Plane(image, height, width, align_corners, backward=True)
        for begin, end in _row_chunks(height, width, logits.device):
            rows = plane.read(begin, end)
            coarse, moments = _summation(rows, fine, plane).coarse_moments(rows)
            # An interpolation's weights add up to one, so sums over coarse levels are those over fine levels.
            total = coarse.sum(1, keepdim=True)
            moments.addcmul_(coarse, moments.sum(1, keepdim=True) / total, value=-1)
            plane.add_gradient(begin, end, moments.mul_(incoming[begin:end, None] / total))
        result.copy_(plane.gradient())
    return out


class _Window(NamedTuple):
    """The fine levels around the likeliest of each pixel: which, and their probabilities among themselves."""

    levels: Tensor  # (rows, 2 window + 1, W) int64, inside the range
    probability: Tensor  # likewise, float; 0 for what stands for a level outside the range

    @property
    def mean(self) -> Tensor:
        """The expected level, (rows, 1, W)."""
        return (self.probability * self.levels).sum(1, keepdim=True)


def _around_likeliest(fine: Tensor, window: int) -> _Window:
    """Return the levels at most `window` from the likeliest one of `fine` logits (rows, M, W)."""
    likeliest = fine.max(1, keepdim=True).indices  # twice as fast as argmax
    wanted = likeliest + torch.arange(-window, window + 1, device=fine.device)[:, None]
    levels = wanted.clamp(0, fine.shape[1] - 1)
    logits = fine.gather(1, levels).where(levels == wanted, float("-inf"))
    return _Window(levels, logits.softmax(1))


def _expected_in_window(
    logits: Tensor, max_disparity: int, height: int, width: int, align_corners: bool, window: int
) -> Tensor:
    out = logits.new_empty(len(logits), 1, height, width)
    up = interpolation_matrix(logits.shape[1], max_disparity, align_corners, logits.dtype, logits.device)
    for image, result in zip(logits, out, strict=True):
        plane = _Plane(image, height, width, align_corners, backward=False)
        for begin, end in _row_chunks(height, width, logits.device, max_disparity):
            near = _around_likeliest(torch.matmul(up, plane.read(begin, end)), window)
            result[0, begin:end] = near.mean[:, 0]
    return out


def _expected_in_window_backward(
    gradient: Tensor,
    logits: Tensor,
    max_disparity: int,
    height: int,
    width: int,
    align_corners: bool,
    window: int,
) -> Tensor:
    out = torch.empty_like(logits)
    up = interpolation_matrix(logits.shape[1], max_disparity, align_corners, logits.dtype, logits.device)
    for image, incoming, result in zip(logits, gradient[:, 0], out, strict=True):
        plane = _Plane(image, height, width, align_corners, backward=True)
        for begin, end in _row_chunks(height, width, logits.device, max_disparity):
            fine = torch.matmul(up, plane.read(begin, end))
            near = _around_likeliest(fine, window)
            part = near.probability * (near.levels - near.mean) * incoming[begin:end, None]
            spread = torch.zeros_like(fine).scatter_add_(1, near.levels, part)
            plane.add_gradient(begin, end, torch.matmul(up.T, spread))
        result.copy_(plane.gradient())
    return out


def divergence(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None,
    max_disparity: int,
    height: int,
    width: int,
    align_corners: bool,
    teacher_align_corners: bool,
    entropy: bool,
    backward: bool,
) -> tuple[Tensor, Tensor]:
    """Return KL(teacher || student) summed over the pixels of `mask`, and the student's gradient of that sum.

    Args:
        student, teacher: logits (B, D, h, w; float), already divided by the temperature.
        mask: (B, 1, H, W) bool, or None for all pixels.
        entropy: take in the teacher's entropy; without it the sum is the cross entropy.
        backward: whether the gradient is wanted; else an empty tensor stands for it.

    The sum is float64, since tens of millions of float32 terms may go into it.
    """
    total = student.new_zeros((), dtype=torch.float64)
    out = torch.empty_like(student) if backward else student.new_empty(0)
    s_levels = _levels(student.shape[1], max_disparity, align_corners, student.dtype, student.device)
    t_levels = _levels(teacher.shape[1], max_disparity, teacher_align_corners, teacher.dtype, teacher.device)
    same_grid = s_levels is t_levels
    for index, (s_image, t_image) in enumerate(zip(student, teacher, strict=True)):
        s_plane = _Plane(s_image, height, width, align_corners, backward)
        t_plane = _Plane(t_image, height, width, teacher_align_corners, backward=False)
        for begin, end in _row_chunks(height, width, student.device):
            s_rows, t_rows = s_plane.read(begin, end), t_plane.read(begin, end)
            s_found = _summation(s_rows, s_levels, s_plane)
            t_found = _summation(t_rows, t_levels, t_plane, closed=same_grid)
            s_coarse, t_coarse = s_found.coarse(s_rows), t_found.coarse(t_rows)
            # The teacher's exponentials summed to the student's coarse levels; its own where the grids agree.
            crossed = t_coarse
            if isinstance(t_found, _ByMatrices) and not same_grid:
                crossed = t_found.to_levels_of(s_levels, t_rows)
            for rows, found in ((s_rows, s_found), (t_rows, t_found)):
                if isinstance(found, _ByMatrices) and found.bound is not None:
                    rows.sub_(found.bound)
            s_total, t_total = s_coarse.sum(1), t_coarse.sum(1)
            # Logits are linear between coarse levels: a sum of (exponential x logit) over fine levels is one
            # of (transposed interpolation of the exponentials x logit) over coarse ones.
            loss = s_total.log() - (crossed * s_rows).sum(1) / t_total
            if entropy:
                loss += (t_coarse * t_rows).sum(1) / t_total - t_total.log()
            chosen = None if mask is None else mask[index, 0, begin:end]
            total += (loss if chosen is None else loss.where(chosen, 0)).sum(dtype=torch.float64)
            if backward:
                s_scale, t_scale = s_total.reciprocal(), -t_total.reciprocal()
                if chosen is not None:
                    s_scale, t_scale = s_scale.where(chosen, 0), t_scale.where(chosen, 0)
                s_coarse.mul_(s_scale[:, None]).addcmul_(crossed, t_scale[:, None])
                s_plane.add_gradient(begin, end, s_coarse)
        if backward:
            out[index] = s_plane.gradient()
    return total, out
