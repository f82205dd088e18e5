"""Softmax over upsampled disparity levels as Triton kernels: nothing fine is ever in memory.

A program owns a piece of one output row. It walks along the fine levels, interpolates their logits from the
eight coarse ones around, which the caches hold, and keeps running sums that are rescaled whenever a larger
logit comes (online softmax). Gradients walk a second time and are added atomically, so that their last bits
depend on the order in which programs run, as those of torch's own upsampling on CUDA do.

The functions have the arguments and results of their namesakes in `regression_chunked`, for float32.
"""

from __future__ import annotations

import functools
import warnings

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import regression_chunked

_BLOCK = 128


@functools.cache
def runs_here() -> bool:
    """Return whether Triton can launch kernels here: it builds a part of itself first, for which it wants a C
    compiler and Python's headers."""
    try:
        triton.runtime.driver.active.get_current_target()
    except Exception as error:  # a missing compiler, header or driver: each is an error of another kind
        reason = str(error).partition("\n")[0]
        warnings.warn(f"Triton does not run here, a slower way is taken: {reason}", stacklevel=2)
        return False
    return True


@functools.lru_cache(maxsize=256)
def _axis(source: int, target: int, align_corners: bool, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return for each target index the lower source index (int32) and the upper one's weight (float32)."""
    index = torch.arange(target, dtype=torch.float64)
    if align_corners:
        position = index * (source - 1) / max(target - 1, 1)
    else:
        position = ((index + 0.5) * source / target - 0.5).clamp(0, source - 1)
    lower = position.floor()
    return lower.to(device, torch.int32), (position - lower).to(device, torch.float32)


@triton.jit
def _coarse(base, level, plane, top_left, top_right, low_left, low_right, wx, wy, inside):
    """Return coarse `level` at the program's pixels, interpolated in the image."""
    row = base + level * plane
    a = tl.load(row + top_left, mask=inside, other=0.0)
    b = tl.load(row + top_right, mask=inside, other=0.0)
    c = tl.load(row + low_left, mask=inside, other=0.0)
    d = tl.load(row + low_right, mask=inside, other=0.0)
    top = a + wx * (b - a)
    low = c + wx * (d - c)
    return top + wy * (low - top)


@triton.jit
def _fine(base, m, kz, tz, depth, plane, top_left, top_right, low_left, low_right, wx, wy, inside):
    """Return fine level `m` at the program's pixels."""
    lower = tl.load(kz + m)
    weight = tl.load(tz + m)
    upper = tl.minimum(lower + 1, depth - 1)
    a = _coarse(base, lower, plane, top_left, top_right, low_left, low_right, wx, wy, inside)
    b = _coarse(base, upper, plane, top_left, top_right, low_left, low_right, wx, wy, inside)
    return a + weight * (b - a)


@triton.jit
def _corners(y, x, inside, ky, ty, kx, tx, h, w):
    """Return the offsets of the four coarse pixels around each of the program's, and the two weights."""
    y0 = tl.load(ky + y)
    y1 = tl.minimum(y0 + 1, h - 1)
    x0 = tl.load(kx + x, mask=inside, other=0)
    x1 = tl.minimum(x0 + 1, w - 1)
    wx = tl.load(tx + x, mask=inside, other=0.0)
    wy = tl.load(ty + y)
    return y0 * w + x0, y0 * w + x1, y1 * w + x0, y1 * w + x1, wx, wy


@triton.jit
def _scatter(base, level, plane, value, top_left, top_right, low_left, low_right, wx, wy, inside):
    """Add the gradient of coarse `level` at the program's pixels to the coarse pixels it came from."""
    row = base + level * plane
    tl.atomic_add(row + top_left, value * (1 - wx) * (1 - wy), mask=inside)
    tl.atomic_add(row + top_right, value * wx * (1 - wy), mask=inside)
    tl.atomic_add(row + low_left, value * (1 - wx) * wy, mask=inside)
    tl.atomic_add(row + low_right, value * wx * wy, mask=inside)


@triton.jit
def _regress_kernel(
    logits, gradient, out, kz, tz, ky, ty, kx, tx, depth, h, w, levels, height, width,
    BACKWARD: tl.constexpr, WINDOW: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    image = (tl.program_id(0) // height).to(tl.int64)  # a batch may have more than 2^31 numbers
    y = tl.program_id(0) % height
    x = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = x < width
    plane = h * w
    base = logits + image * depth * plane
    tl_, tr, ll, lr, wx, wy = _corners(y, x, inside, ky, ty, kx, tx, h, w)

    largest = tl.full([BLOCK], float("-inf"), tl.float32)
    likeliest = tl.zeros([BLOCK], tl.int32)
    total = tl.zeros([BLOCK], tl.float32)
    moment = tl.zeros([BLOCK], tl.float32)
    for m in range(levels):
        value = _fine(base, m, kz, tz, depth, plane, tl_, tr, ll, lr, wx, wy, inside)
        likeliest = tl.where(value > largest, m, likeliest)
        larger = tl.maximum(largest, value)
        rescale = tl.exp(largest - larger)
        weight = tl.exp(value - larger)
        total = total * rescale + weight
        moment = moment * rescale + weight * m
        largest = larger
    if WINDOW >= 0:
        total = tl.zeros([BLOCK], tl.float32)
        moment = tl.zeros([BLOCK], tl.float32)
        for offset in range(-WINDOW, WINDOW + 1):
            wanted = likeliest + offset
            counts = (wanted >= 0) & (wanted < levels)
            near = tl.minimum(tl.maximum(wanted, 0), levels - 1)
            value = _fine(base, near, kz, tz, depth, plane, tl_, tr, ll, lr, wx, wy, inside)
            part = tl.where(counts, tl.exp(value - largest), 0.0)
            total += part
            moment += part * near
    disparity = moment / total
    pixel = (image * height + y) * width + x
    if not BACKWARD:
        tl.store(out + pixel, disparity, mask=inside)
    else:
        scale = tl.load(gradient + pixel, mask=inside, other=0.0) / total
        target = out + image * depth * plane
        level = 0
        here = tl.zeros([BLOCK], tl.float32)
        above = tl.zeros([BLOCK], tl.float32)
        for m in range(levels):
            lower = tl.load(kz + m)
            # A level's gradient is complete, and written, once the fine levels have passed it.
            while level < lower:
                _scatter(target, level, plane, here, tl_, tr, ll, lr, wx, wy, inside)
                here = above
                above = tl.zeros([BLOCK], tl.float32)
                level += 1
            value = _fine(base, m, kz, tz, depth, plane, tl_, tr, ll, lr, wx, wy, inside)
            part = scale * tl.exp(value - largest) * (m - disparity)
            t = tl.load(tz + m)
            here += (1 - t) * part
            above += t * part
        _scatter(target, level, plane, here, tl_, tr, ll, lr, wx, wy, inside)
        _scatter(target, tl.minimum(level + 1, depth - 1), plane, above, tl_, tr, ll, lr, wx, wy, inside)


@triton.jit
def _divergence_kernel(
    student, teacher, mask, loss, out,
    skz, stz, sky, sty, skx, stx, sdepth, sh, sw,
    tkz, ttz, tky, tty, tkx, ttx, tdepth, th, tw,
    levels, height, width,
    MASKED: tl.constexpr, ENTROPY: tl.constexpr, BACKWARD: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    image = (tl.program_id(0) // height).to(tl.int64)  # a batch may have more than 2^31 numbers
    y = tl.program_id(0) % height
    x = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = x < width
    pixel = (image * height + y) * width + x
    splane, tplane = sh * sw, th * tw
    sbase = student + image * sdepth * splane
    tbase = teacher + image * tdepth * tplane
    stl, strr, sll, slr, swx, swy = _corners(y, x, inside, sky, sty, skx, stx, sh, sw)
    ttl, ttrr, tll, tlr, twx, twy = _corners(y, x, inside, tky, tty, tkx, ttx, th, tw)

    s_largest = tl.full([BLOCK], float("-inf"), tl.float32)
    t_largest = tl.full([BLOCK], float("-inf"), tl.float32)
    s_total = tl.zeros([BLOCK], tl.float32)
    t_total = tl.zeros([BLOCK], tl.float32)
    # The teacher's weights times (its own logit less) the student's.
    cross = tl.zeros([BLOCK], tl.float32)
    for m in range(levels):
        s = _fine(sbase, m, skz, stz, sdepth, splane, stl, strr, sll, slr, swx, swy, inside)
        t = _fine(tbase, m, tkz, ttz, tdepth, tplane, ttl, ttrr, tll, tlr, twx, twy, inside)
        s_larger = tl.maximum(s_largest, s)
        s_total = s_total * tl.exp(s_largest - s_larger) + tl.exp(s - s_larger)
        s_largest = s_larger
        t_larger = tl.maximum(t_largest, t)
        rescale = tl.exp(t_largest - t_larger)
        weight = tl.exp(t - t_larger)
        t_total = t_total * rescale + weight
        own = t if ENTROPY else 0.0
        cross = cross * rescale + weight * (own - s)
        t_largest = t_larger
    value = cross / t_total + s_largest + tl.log(s_total)
    if ENTROPY:
        value -= t_largest + tl.log(t_total)
    counts = inside
    if MASKED:
        counts = inside & (tl.load(mask + pixel, mask=inside, other=0) != 0)
    tl.store(loss + pixel, tl.where(counts, value, 0.0), mask=inside)
    if BACKWARD:
        target = out + image * sdepth * splane
        level = 0
        here = tl.zeros([BLOCK], tl.float32)
        above = tl.zeros([BLOCK], tl.float32)
        for m in range(levels):
            lower = tl.load(skz + m)
            while level < lower:
                _scatter(target, level, splane, here, stl, strr, sll, slr, swx, swy, counts)
                here = above
                above = tl.zeros([BLOCK], tl.float32)
                level += 1
            s = _fine(sbase, m, skz, stz, sdepth, splane, stl, strr, sll, slr, swx, swy, inside)
            t = _fine(tbase, m, tkz, ttz, tdepth, tplane, ttl, ttrr, tll, tlr, twx, twy, inside)
            part = tl.exp(s - s_largest) / s_total - tl.exp(t - t_largest) / t_total
            weight_above = tl.load(stz + m)
            here += (1 - weight_above) * part
            above += weight_above * part
        _scatter(target, level, splane, here, stl, strr, sll, slr, swx, swy, counts)
        last = tl.minimum(level + 1, sdepth - 1)
        _scatter(target, last, splane, above, stl, strr, sll, slr, swx, swy, counts)


def _tables(logits: Tensor, size: tuple[int, int, int], align_corners: bool) -> tuple[Tensor, ...]:
    axes = zip(logits.shape[1:], size, strict=True)
    return tuple(table for a, b in axes for table in _axis(a, b, align_corners, logits.device))


def expected_disparity(
    logits: Tensor,
    max_disparity: int,
    height: int,
    width: int,
    align_corners: bool,
    window: int | None = None,
) -> Tensor:
    """Return (B, 1, H, W), the expectation under the softmax of upsampled `logits` (B, D, h, w)."""
    out = logits.new_empty(len(logits), 1, height, width)
    size = (max_disparity, height, width)
    _launch_regression(logits, out, out, size, align_corners, backward=False, window=window)
    return out


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
    if window is not None:  # which no training asks for
        return regression_chunked.expected_disparity_backward(
            gradient, logits, max_disparity, height, width, align_corners, window
        )
    out = torch.zeros_like(logits, memory_format=torch.contiguous_format)
    size = (max_disparity, height, width)
    _launch_regression(logits, gradient.contiguous(), out, size, align_corners, backward=True)
    return out


def _launch_regression(
    logits: Tensor,
    gradient: Tensor,
    out: Tensor,
    size: tuple[int, int, int],
    align_corners: bool,
    backward: bool,
    window: int | None = None,
) -> None:
    grid = (len(logits) * size[1], triton.cdiv(size[2], _BLOCK))
    tables = _tables(logits, size, align_corners)
    with torch.cuda.device_of(logits):  # Triton launches on the current device
        _regress_kernel[grid](
            logits.contiguous(),
            gradient,
            out,
            *tables,
            *logits.shape[1:],
            *size,
            BACKWARD=backward,
            WINDOW=-1 if window is None else window,
            BLOCK=_BLOCK,
        )


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
    """Return KL(teacher || student) summed over the pixels of `mask`, and the student's gradient."""
    size = (max_disparity, height, width)
    loss = student.new_empty(len(student), 1, height, width)
    shape = student.shape if backward else (0,)
    out = student.new_zeros(shape)
    grid = (len(student) * height, triton.cdiv(width, _BLOCK))
    with torch.cuda.device_of(student):
        _divergence_kernel[grid](
            student.contiguous(),
            teacher.contiguous(),
            loss if mask is None else mask.contiguous().view(torch.uint8),
            loss,
            out,
            *_tables(student, size, align_corners),
            *student.shape[1:],
            *_tables(teacher, size, teacher_align_corners),
            *teacher.shape[1:],
            *size,
            MASKED=mask is not None,
            ENTROPY=entropy,
            BACKWARD=backward,
            BLOCK=_BLOCK,
        )
    return loss.sum(dtype=torch.float64), out
