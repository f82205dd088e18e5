"""A network's outputs brought back to the image that it was given."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import UserError
from ..tasks import Task
from .input_spec import InputSpec, Placement


def restore_output(task: Task, key: str, output: Tensor, spec: InputSpec, placement: Placement) -> Tensor:
    """Return output `key` at the place and size of the source, what is in pixels in the source's pixels.

    What is in pixels of an image that the network saw larger is picked, not averaged: a mean of the
    disparities on both sides of an edge is that of neither.

    Args:
        output: a map (B, C, H', W') of the network's input, boxes (B, N, 4) in its pixels, or anything else,
            which is left as it is.
        spec, placement: what `InputSpec.prepare` did to the source.

    Raises:
        UserError: a map of another size than the input's, of which no place is known in the source.
    """
    mode = task.restore.get(key)
    if mode is None or (not any(placement.padding) and placement.scaled_size == placement.size):
        return output
    factors = [size / scaled for size, scaled in zip(placement.size, placement.scaled_size, strict=True)]
    y, x = factors
    if mode == "boxes":
        left, _, top, _ = placement.padding
        moved = (output - output.new_tensor([left, top, left, top])) * output.new_tensor([x, y, x, y])
        height, width = placement.size
        return moved.clamp(min=0).minimum(output.new_tensor([width, height, width, height]))
    if output.shape[-2:] != placement.input_size:
        (rows, columns), (height, width) = output.shape[-2:], placement.input_size
        raise UserError(
            f"a network's '{key}' is of its input's size, {width}x{height} px, this one is {columns}x{rows}; "
            "let it, or what wraps it, bring it to that size"
        )
    if key in task.pixels and max(factors) < 1:
        left, _, top, _ = placement.padding
        for dim, size, factor, begin in zip((2, 3), placement.size, factors, (top, left), strict=True):
            nearest = [begin + int((index + 0.5) / factor) for index in range(size)]
            output = output.index_select(dim, torch.tensor(nearest, device=output.device))
    else:
        output = spec.restore(output, placement, mode)
    if key in task.pixels and placement.scaled_size != placement.size:
        output = output * output.new_tensor([x, y][: output.shape[1]]).view(1, -1, 1, 1)
    return output
