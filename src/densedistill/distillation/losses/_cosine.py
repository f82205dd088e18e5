"""Cosine similarity over channels without copies of its operands.

`F.cosine_similarity` keeps both operands divided by their norms, and their product, for the gradient: three
more volumes. Here slabs of positions that stay in the cache are reduced one after the other, forward and
backward, and only maps without channels are kept. Operands in half precision are cast slab by slab.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ...networks.layers.image import at_least_float32

_EPSILON = 1e-8
_SLAB_NUMBERS = 250_000


def cosine_similarity(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the cosine over dimension 1 of two tensors (B, C, …), (B, …), at least float32; the gradient is
    the student's."""
    return _Cosine.apply(student, teacher)


class _Cosine(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor) -> Tensor:
        shape = (student.shape[0], *student.shape[2:])
        dtype = at_least_float32(student[:0]).dtype
        cosine, length, weight = (student.new_empty(shape, dtype=dtype) for _ in range(3))
        for slab, part in _slabs(student):
            s, t = at_least_float32(student[slab]), at_least_float32(teacher[slab])
            s_length = (s * s).sum(1).sqrt_().clamp_(min=_EPSILON)
            t_length = (t * t).sum(1).sqrt_().clamp_(min=_EPSILON)
            length[part] = s_length
            weight[part] = (s_length * t_length).reciprocal_()
            torch.mul((s * t).sum(1), weight[part], out=cosine[part])
        ctx.save_for_backward(student, teacher, cosine, length, weight)
        return cosine

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        student, teacher, cosine, length, weight = ctx.saved_tensors
        out = torch.empty_like(student)
        for slab, part in _slabs(student):
            towards = gradient[part] * weight[part]
            along = -gradient[part] * cosine[part] / length[part].square()
            slope = at_least_float32(teacher[slab]) * towards[:, None]
            out[slab] = slope.addcmul_(at_least_float32(student[slab]), along[:, None])
        return out, None


def _slabs(tensor: Tensor) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    """Yield indices of slabs of `tensor` (B, C, …), and of their positions in one without channels."""
    if tensor.ndim == 2 or tensor.device.type != "cpu":
        yield (slice(None),), (slice(None),)
        return
    thickness = max(1, _SLAB_NUMBERS * tensor.shape[2] // max(1, tensor[:1].numel()))
    for image in range(tensor.shape[0]):
        for begin in range(0, tensor.shape[2], thickness):
            positions = slice(begin, begin + thickness)
            here = slice(image, image + 1)
            yield (here, slice(None), positions), (here, positions)
