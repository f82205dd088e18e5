"""Which process this is, among those of a training that torchrun, SLURM or Lightning started."""

from __future__ import annotations

import os
from typing import NamedTuple

from ..errors import UserError

INTERACTIVE = ("bash", "interactive")  # names of SLURM's jobs that Lightning takes for a shell


class Launch(NamedTuple):
    """Processes that something else started: by what, on how many machines, and how many on each."""

    by: str
    machines: int
    each: int


def launched() -> Launch | None:
    """Return how this process was started together with others, None where it was started alone."""
    if "LOCAL_WORLD_SIZE" in os.environ:
        each = _number("LOCAL_WORLD_SIZE", 1)
        return Launch("torchrun", _number("WORLD_SIZE", each) // each, each)
    if "SLURM_NTASKS" in os.environ and os.environ.get("SLURM_JOB_NAME") not in INTERACTIVE:
        machines = _number("SLURM_NNODES", 1)
        return Launch("srun", machines, _number("SLURM_NTASKS", 1) // machines)
    return None


def is_first_process() -> bool:
    """Return whether this process is the one that writes (rank 0), also before processes know each other."""
    start = launched()
    rank = "SLURM_PROCID" if start and start.by == "srun" else "RANK"
    # Those that Lightning starts itself know only their number on this machine.
    return _number(rank, 0, least=0) == 0 and _number("LOCAL_RANK", 0, least=0) == 0


def check_launch(machines: int, each: int) -> None:
    """Raise UserError where others started fewer or more processes than a training wants: it would wait."""
    start = launched()
    if start and (start.machines, start.each) != (machines, each):
        raise UserError(
            f"trainer: {start.by} started {start.each} processes on each of {start.machines} machines, and "
            f"{each} on each of {machines} were wanted: leave out --devices and --nodes, or start them by "
            + _STARTS[start.by].format(each=each, machines=machines)
        )


_STARTS = {
    "torchrun": "torchrun --nnodes {machines} --nproc-per-node {each}",
    "srun": "srun --nodes {machines} --ntasks-per-node {each}",
}


def _number(name: str, default: int, least: int = 1) -> int:
    try:
        return max(int(os.environ.get(name) or default), least)
    except ValueError:
        return default
