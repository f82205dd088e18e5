"""A rehearsal before training: a tiny batch, and everything left as it was."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..data.sample import KINDS
from ..networks.input_spec import InputSpec
from ..tasks import Task

SAMPLES = 2  # relations between samples need more than one
LEAST_SIZE = (64, 96)  # which networks take that halve their images five times


def tiny_batch(
    task: Task, specs: list[InputSpec], device: torch.device, batch: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return two samples of `batch`, or two noise images that networks of `specs` take, with ground truth."""
    if batch is not None:
        return {k: v[:SAMPLES] if isinstance(v, Tensor | list) else v for k, v in batch.items()}
    # In px of the image, which a network may see scaled.
    multiple = math.lcm(*(round(spec.multiple / spec.scale) for spec in specs))
    height, width = (
        math.ceil(max(least, *(spec.min_size[axis] / spec.scale for spec in specs)) / multiple) * multiple
        for axis, least in enumerate(LEAST_SIZE)
    )
    noise = torch.Generator().manual_seed(0)
    made = {
        key: torch.randint(0, 256, (SAMPLES, 3, height, width), generator=noise, dtype=torch.uint8)
        for key in task.inputs
    }
    made |= example_truth(task, SAMPLES, height, width)
    return {key: value.to(device) for key, value in made.items()}


def example_truth(task: Task, samples: int, height: int, width: int) -> dict[str, Tensor]:
    """Return ground truth of every kind that `task` has, all ones; boxes are of class 0, which all have."""
    made: dict[str, Tensor] = {}
    for target in task.targets.values():
        kind = KINDS.get(target, "nearest")
        if kind == "boxes":
            made[target] = torch.tensor([0.0, 0.0, width / 2, height / 2]).expand(samples, 1, 4).clone()
        elif kind == "classes":
            made[target] = torch.zeros(samples, 1, dtype=torch.int64)
        elif kind == "nearest":
            made[target] = torch.ones(samples, height, width, dtype=torch.int64)
        else:
            made[target] = torch.ones(samples, 2 if kind == "flow" else 1, height, width)
    return made


@contextmanager
def unchanged(*modules: nn.Module) -> Iterator[None]:
    """Restore buffers, training modes and random generators at the end of the block."""
    buffers = {buffer: buffer.clone() for module in modules for buffer in module.buffers()}
    modes = {child: child.training for module in modules for child in module.modules()}
    devices = {b.device for m in modules for b in (*m.parameters(), *m.buffers()) if b.is_cuda}
    with torch.random.fork_rng(list(devices)):
        try:
            yield
        finally:
            with torch.no_grad():
                for buffer, value in buffers.items():
                    buffer.copy_(value)
            for child, mode in modes.items():
                child.training = mode
