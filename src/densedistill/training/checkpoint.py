"""Checkpoints: tensors and plain values, written whole or not at all; never the teacher."""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import UserError
from ..files import write_buffer, write_bytes
from .run import Run

if TYPE_CHECKING:
    from .module import TrainingModule

FORMAT = 1


@dataclass
class Counters:
    """Where training stands: steps, seconds of training, tenths of it validated, and the best validation."""

    step: int = 0
    seconds: float = 0.0
    validations: int = 0
    best: float | None = None
    best_step: int | None = None


def state_of(module: TrainingModule) -> dict[str, Any]:
    """Return everything that resuming needs; `student` is what would be handed over, so the average where
    one is kept."""
    module.counters.seconds = module.watch.seconds
    return {
        "format": FORMAT,
        "student": module.average.state if module.average else module.student.state_dict(),
        "trained": module.student.state_dict() if module.average else None,
        "terms": module.objective.state_dict(),
        "optimizer": module.optimizer_states(),
        "counters": asdict(module.counters),
    }


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state` to `path`, replacing what was there only when it is complete."""
    # By way of memory: torch reports a full disk as an error of its zip archive, not as what it is.
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_buffer(path, buffer)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Return the state in `path`, on the CPU, without unpickling anything but tensors and plain values.

    Raises:
        UserError: the file is missing, damaged or not a checkpoint of a run.
    """
    if not path.is_file():
        raise UserError(f"there is no checkpoint {path}; the run stopped before its first")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = " ".join(str(error).split())[:100]
        raise UserError(
            f"{path}: damaged or not a checkpoint ({reason}); without it the run begins again"
        ) from None
    if not isinstance(state, dict) or state.get("format") != FORMAT or "counters" not in state:
        raise UserError(f"{path}: not a checkpoint of a run")
    return state


def restore(module: TrainingModule, state: dict[str, Any]) -> None:
    """Bring `module` to where `state` was taken."""
    try:
        module.student.load_state_dict(state["trained"] or state["student"])
        module.objective.load_state_dict(state["terms"])
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        raise UserError(
            f"the checkpoint does not fit the recipe: {lines[1] if len(lines) > 1 else lines[0]}"
        ) from None
    if module.average:
        module.average.load(state["student"])
    module.optimizer_state = state["optimizer"]
    module.configure_optimizers()  # which says what does not fit
    module.optimizer_state = state["optimizer"]
    # Of a longer schedule fewer tenths are done.
    counters = module.counters
    done = module.course.tenths(counters.step, counters.seconds)
    counters.validations = min(counters.validations, done)


def save_batch(run: Run, batch: dict[str, Any], step: int, rank: int) -> Path:
    """Write the tensors of `batch` to the run as safetensors, with the samples' names; return the path."""
    from safetensors.torch import save

    path = run.path / f"batch-step{step}{f'-rank{rank}' if rank else ''}.safetensors"
    tensors = {k: v.detach().cpu().contiguous() for k, v in batch.items() if isinstance(v, Tensor)}
    names = ", ".join(str(meta.get("name", "")) for meta in batch.get("meta", []))
    write_bytes(path, save(tensors, metadata={"names": names}))
    return path
