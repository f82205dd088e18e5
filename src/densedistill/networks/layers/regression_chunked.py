"""Softmax over upsampled disparity levels in chunks that stay in the processor's cache.

Trilinear upsampling is linear and separable. Columns are upsampled first, for the whole image, since that is
cheap at low height. Then, for a few output rows at a time, rows are interpolated, levels are upsampled by one
small matrix product, and what is wanted of the exponentials is summed by another: moments for the forward
pass, the transposed interpolation for the gradient. Only (rows, block of levels, W) numbers are ever fine;
none are where there are four fine levels to a coarse one, whose sums have a closed form.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from .level_sums import (
    BLOCK_LEVELS,
    SMALL,
    ByMatrices,
    Scratch,
    interpolation_matrix,
    make_levels,
    summation,
    support,
)

# Numbers in a block for each thread, which fill a fifth of a 2 MB cache.
_BLOCK_NUMBERS = 100_000


class _Plane:
    """The coarse levels of one image's logits (D, h, w) at (H, W), a few rows at a time, and the way back."""

    def __init__(self, logits: Tensor, height: int, width: int, align_corners: bool, backward: bool):
        self.levels, source_height, source_width = logits.shape
        self.width = width
        self.scratch = Scratch(logits)
        dtype, device = logits.dtype, logits.device
        self.columns = interpolation_matrix(source_width, width, align_corners, dtype, device)
        self.rows = interpolation_matrix(source_height, height, align_corners, dtype, device)
        self.first, self.last = support(source_height, height, align_corners)
        self.small = bool(logits.abs().amax() < SMALL)
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
    height: int, width: int, device: torch.device, levels: int = BLOCK_LEVELS
) -> Iterator[tuple[int, int]]:
    threads = torch.get_num_threads() if device.type == "cpu" else 64
    rows = max(1, max(2, threads) * _BLOCK_NUMBERS // (levels * width))
    for begin in range(0, height, rows):
        yield begin, min(begin + rows, height)


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
    fine = make_levels(logits.shape[1], max_disparity, align_corners, logits.dtype, logits.device)
    for image, result in zip(logits, out, strict=True):
        plane = _Plane(image, height, width, align_corners, backward=False)
        for begin, end in _row_chunks(height, width, logits.device):
            rows = plane.read(begin, end)
            sums = summation(rows, fine, plane.scratch, plane.small).sums(rows)
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
    fine = make_levels(logits.shape[1], max_disparity, align_corners, logits.dtype, logits.device)
    for image, incoming, result in zip(logits, gradient[:, 0], out, strict=True):
        plane = _Plane(image, height, width, align_corners, backward=True)
        for begin, end in _row_chunks(height, width, logits.device):
            rows = plane.read(begin, end)
            coarse, moments = summation(rows, fine, plane.scratch, plane.small).coarse_moments(rows)
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
    s_levels, t_levels = (
        make_levels(one.shape[1], max_disparity, aligned, one.dtype, one.device)
        for one, aligned in ((student, align_corners), (teacher, teacher_align_corners))
    )
    same_grid = s_levels is t_levels
    for index, (s_image, t_image) in enumerate(zip(student, teacher, strict=True)):
        s_plane = _Plane(s_image, height, width, align_corners, backward)
        t_plane = _Plane(t_image, height, width, teacher_align_corners, backward=False)
        for begin, end in _row_chunks(height, width, student.device):
            s_rows, t_rows = s_plane.read(begin, end), t_plane.read(begin, end)
            s_found = summation(s_rows, s_levels, s_plane.scratch, s_plane.small)
            t_found = summation(t_rows, t_levels, t_plane.scratch, t_plane.small, closed=same_grid)
            s_coarse, t_coarse = s_found.coarse(s_rows), t_found.coarse(t_rows)
            # The teacher's exponentials summed to the student's coarse levels; its own where the grids agree.
            crossed = t_coarse
            if isinstance(t_found, ByMatrices) and not same_grid:
                crossed = t_found.to_levels_of(s_levels, t_rows)
            for rows, found in ((s_rows, s_found), (t_rows, t_found)):
                if isinstance(found, ByMatrices) and found.bound is not None:
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
