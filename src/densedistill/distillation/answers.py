"""Run a network on a batch: prepared as it wants, its outputs at the sample's size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..networks.input_spec import InputSpec, Placement
from ..networks.precision import weights_dtype
from ..networks.registry import name_of
from ..networks.restore import restore_output
from ..tasks import Task
from .taps import unwrap


def inputs_of(batch: Mapping[str, Any], task: Task) -> list[Tensor]:
    """Return the inputs of `task`; UserError where `batch` lacks one."""
    missing = [key for key in task.inputs if key not in batch]
    if missing:
        raise UserError(f"the batch has no '{missing[0]}', which task '{task.name}' needs")
    return [batch[key] for key in task.inputs]


def run_network(
    network: nn.Module, batch: Mapping[str, Any], task: Task, spec: InputSpec | None = None
) -> tuple[dict[str, Any], Placement]:
    """Return the outputs of `network` for a batch, and where the batch's images lay in its input.

    Args:
        network: with an `input_spec`, else the default one is meant. Outside autocast it sees images in the
            dtype of its weights.
        batch: images as the task names them, (B, 3, H, W), uint8 or float in [0, 1].
        task: whose inputs the network takes.
        spec: in place of the network's own.

    Returns:
        The task's outputs, those in pixels in the sample's pixels. `intermediate`, where the network gives
        it, is a list of mappings of outputs, whatever the network lists; maps that are coarser than its input
        are left as they are.

    Raises:
        UserError: an image that the batch lacks, or a network that does not answer with the task's outputs.
    """
    spec = spec or input_spec(network)
    inputs, placement = spec.prepare(*inputs_of(batch, task))
    dtype = weights_dtype(network)
    if dtype is not None and not torch.is_autocast_enabled(inputs[0].device.type):  # which casts by itself
        inputs = [image.to(dtype) for image in inputs]
    answer = network(*inputs)
    if not isinstance(answer, Mapping) or task.outputs[0] not in answer:
        gives = f"a mapping of {', '.join(answer)}" if isinstance(answer, Mapping) else type(answer).__name__
        raise UserError(
            f"network '{network_name(network)}' returns {gives}, not a mapping with '{task.outputs[0]}'; "
            "densedistill.wrap makes one of any network"
        )
    outputs: dict[str, Any] = {
        key: restore_output(task, key, answer[key], spec, placement) for key in task.outputs if key in answer
    }
    if "intermediate" in answer:
        levels = [
            level if isinstance(level, Mapping) else {task.outputs[0]: level}
            for level in answer["intermediate"]
        ]
        outputs["intermediate"] = [
            {
                key: value
                if key in task.maps and value.shape[-2:] != placement.input_size
                else restore_output(task, key, value, spec, placement)
                for key, value in level.items()
            }
            for level in levels
        ]
    return outputs, placement


@contextmanager
def all_heads(network: nn.Module, wanted: bool) -> Iterator[None]:
    """Within it, `network` runs all its heads if that is `wanted`, those too that evaluation leaves out; one
    that can has an attribute `all_heads`."""
    root = unwrap(network)
    wanted = wanted and hasattr(root, "all_heads")
    if wanted:
        setattr(root, "all_heads", True)  # noqa: B010
    try:
        yield
    finally:
        if wanted:
            setattr(root, "all_heads", False)  # noqa: B010


def input_spec(network: nn.Module) -> InputSpec:
    """Return the preparation that `network` declares, or the default one."""
    return getattr(unwrap(network), "input_spec", None) or InputSpec()


def network_name(network: nn.Module) -> str:
    """Return what `network` is called in messages."""
    return name_of(unwrap(network))
