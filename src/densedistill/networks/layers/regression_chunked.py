"""Softmax over upsampled disparity levels in chunks that stay in the processor's cache.

Trilinear upsampling is linear and separable. Columns are upsampled first, for the whole image, since that is
cheap at low height. Then, for a few output rows at a time, rows are upsampled by one small matrix product,
levels by another, and what is wanted of the exponentials is summed by a third: moments for the forward pass,
the transposed interpolation for the gradient. Only (rows, block of levels, W) numbers are ever fine.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
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
    """The way from coarse to fine levels; `gap`: largest distance of a coarse level from a fine one."""

    blocks: list[_Block]
    gap: float


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
    return _Levels(blocks, 1 - matrix.amax(0).min().item())


class _Plane:
    """The coarse levels of one image's logits (D, h, w) at (H, W), a few rows at a time, and the way back."""

    def __init__(self, logits: Tensor, height: int, width: int, align_corners: bool, backward: bool):
        self.levels, source_height, source_width = logits.shape
        self.width = width
        dtype, device = logits.dtype, logits.device
        self.columns = interpolation_matrix(source_width, width, align_corners, dtype, device)
        self.rows = interpolation_matrix(source_height, height, align_corners, dtype, device)
        self.first, self.last = _support(source_height, height, align_corners)
        self.wide = torch.matmul(logits.transpose(0, 1), self.columns.T).view(source_height, -1)
        self.wide_gradient = torch.zeros_like(self.wide) if backward else None

    def read(self, begin: int, end: int) -> Tensor:
        """Return the logits of output rows `begin` to `end`, (rows, D, W)."""
        start, stop = self.first[begin], self.last[end - 1]
        rows = torch.mm(self.rows[begin:end, start:stop], self.wide[start:stop])
        return rows.view(end - begin, self.levels, self.width)

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


class _Range(NamedTuple):
    """What `_subtract_maximum` found: what is still to be subtracted, and whether a logit is very low."""

    bound: Tensor | None
    deep: bool


def _exponentials(logits: Tensor, block: _Block, found: _Range) -> Tensor:
    """Return exp of the logits at the block's fine levels, (rows, fine, W)."""
    fine = torch.matmul(block.up, logits[:, block.start : block.stop])
    if found.bound is not None:
        fine.sub_(found.bound)
    return (fine.clamp_(min=_LOWEST) if found.deep else fine).exp_()


def _subtract_maximum(logits: Tensor, levels: _Levels) -> _Range:
    """Subtract from each pixel's `logits` (rows, D, W), in place, a bound of its fine logits.

    No fine logit is larger than the largest coarse one, which is cheap to find. But the largest fine logit
    may lie `gap` of the way to the coarse neighbour below it; where that may be too far, it is returned as
    `bound` (rows, 1, W), to be subtracted from the fine logits: from coarse ones, rounding could lose it.
    """
    logits.sub_(logits.amax(1, keepdim=True))
    smallest = logits.amin()
    deep = bool(smallest < _LOWEST)
    if smallest * levels.gap >= _SMALLEST_LARGEST:
        return _Range(None, deep)
    fine = (torch.matmul(b.up, logits[:, b.start : b.stop]).amax(1, keepdim=True) for b in levels.blocks)
    return _Range(functools.reduce(torch.maximum, fine), deep)


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
            found = _subtract_maximum(rows, fine)
            sums = rows.new_zeros(end - begin, 2, width)
            for block in fine.blocks:
                sums.baddbmm_(block.moments.expand(end - begin, -1, -1), _exponentials(rows, block, found))
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
    levels = logits.shape[1]
    fine = _levels(levels, max_disparity, align_corners, logits.dtype, logits.device)
    for image, incoming, result in zip(logits, gradient[:, 0], out, strict=True):
        plane = _Plane(image, height, width, align_corners, backward=True)
        for begin, end in _row_chunks(height, width, logits.device):
            rows = plane.read(begin, end)
            found = _subtract_maximum(rows, fine)
            # The transposed interpolation of the exponentials, and of the exponentials times their level. An
            # interpolation's weights add up to one, so sums over coarse levels are those over fine levels.
            coarse = rows.new_zeros(end - begin, 2, levels, width)
            for block in fine.blocks:
                part = torch.matmul(block.down_moments, _exponentials(rows, block, found))
                coarse[:, :, block.start : block.stop] += part.view(end - begin, 2, -1, width)
            total, moment = coarse.sum(2).unbind(1)
            scale = incoming[begin:end] / total
            coarse[:, 1].addcmul_(coarse[:, 0], (moment / total)[:, None], value=-1)
            plane.add_gradient(begin, end, (coarse[:, 1] * scale[:, None]).view(end - begin, -1))
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
    same_grid = student.shape[1] == teacher.shape[1] and align_corners == teacher_align_corners
    for index, (s_image, t_image) in enumerate(zip(student, teacher, strict=True)):
        s_plane = _Plane(s_image, height, width, align_corners, backward)
        t_plane = _Plane(t_image, height, width, teacher_align_corners, backward=False)
        for begin, end in _row_chunks(height, width, student.device):
            s_rows, t_rows = s_plane.read(begin, end), t_plane.read(begin, end)
            s_found, t_found = _subtract_maximum(s_rows, s_levels), _subtract_maximum(t_rows, t_levels)
            s_coarse, t_coarse = torch.zeros_like(s_rows), torch.zeros_like(t_rows)
            # The teacher's exponentials summed to the student's coarse levels; its own where the grids agree.
            crossed = t_coarse if same_grid else torch.zeros_like(s_rows)
            for s_block, t_block in zip(s_levels.blocks, t_levels.blocks, strict=True):
                t_fine = _exponentials(t_rows, t_block, t_found)
                s_fine = _exponentials(s_rows, s_block, s_found)
                s_coarse[:, s_block.start : s_block.stop] += torch.matmul(s_block.down, s_fine)
                t_coarse[:, t_block.start : t_block.stop] += torch.matmul(t_block.down, t_fine)
                if not same_grid:
                    crossed[:, s_block.start : s_block.stop] += torch.matmul(s_block.down, t_fine)
            for rows, found in ((s_rows, s_found), (t_rows, t_found)):
                if found.bound is not None:
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
