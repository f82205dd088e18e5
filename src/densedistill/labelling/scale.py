"""Shards on one process, on several, or on a cluster: the same shards, whoever makes them.

A shard depends on its number alone and is written whole or not at all, so one that a dying worker left undone
is simply made again, and one that two workers make is made the same.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any, cast

import torch

from ..errors import UserError, counted
from ..processes import WHY_DEAD, WorkerPool
from .engine import Job, Settings

RESTARTS = 3

_job: Job | None = None


def run_shards(
    job: Job, numbers: Sequence[int], processes: int = 1, cluster: str | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield each of `numbers` with its receipt, once it is made.

    Raises:
        UserError: what a worker's teacher or frames had against it; workers that die again and again.
    """
    if not numbers:
        return
    if cluster is not None:
        yield from _on_ray(job.settings, numbers, processes, cluster)
    elif processes <= 1:
        for number in numbers:
            yield number, job.make(number)
    else:
        yield from _on_processes(job.settings, numbers, processes)


def _on_processes(
    settings: Settings, numbers: Sequence[int], processes: int
) -> Iterator[tuple[int, dict[str, Any]]]:
    left = list(numbers)
    begun = multiprocessing.get_context("spawn").Value("i", 0)
    for _ in range(RESTARTS):
        pool = WorkerPool(processes, _begin, settings, processes, begun)
        try:
            futures = {pool.submit(_make, number): number for number in left}
            for future in concurrent.futures.as_completed(futures):
                number = futures[future]
                yield number, _result(future.result())
                left.remove(number)
            return
        except BrokenProcessPool:
            continue
        finally:
            pool.shutdown(cancel_futures=True)
    raise UserError(
        f"{RESTARTS} times a labelling process died ({WHY_DEAD}); {counted(len(left), 'shard')} left to do"
    )


def _begin(settings: Settings, processes: int, begun: Any) -> None:
    """Make this process a worker; `begun`, which all share, counts those before it, so that they take the
    GPUs in turn where none is named."""
    global _job
    torch.set_num_threads(max(1, torch.get_num_threads() // processes))
    with begun.get_lock():
        turn, begun.value = begun.value, begun.value + 1
    if settings.device == "cuda":
        settings = dataclasses.replace(settings, device=f"cuda:{turn % torch.cuda.device_count()}")
    _job = Job(settings)


def _make(number: int) -> dict[str, Any]:
    assert _job is not None
    return _attempt(_job, number)


def _attempt(job: Job, number: int) -> dict[str, Any]:
    """Return the receipt of shard `number`, or what was wrong in words that pass from process to process."""
    try:
        return job.make(number)
    except UserError as error:
        return {"error": str(error)}


def _result(receipt: dict[str, Any]) -> dict[str, Any]:
    if "error" in receipt:
        raise UserError(receipt["error"])
    return receipt


class RayWorker:
    """One worker of Ray Data: makes shards by number."""

    def __init__(self, settings: Settings):
        self.job = Job(settings)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return the row with the receipt of its shard, as JSON."""
        number = int(row["shard"])
        return {"shard": number, "receipt": json.dumps(_attempt(self.job, number))}


def _on_ray(
    settings: Settings, numbers: Sequence[int], workers: int, cluster: str
) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        import ray
        import ray.data
    except ImportError:
        raise UserError("a cluster needs Ray: pip install 'densedistill[cluster]'") from None
    started = not ray.is_initialized()
    if started:
        address = None if cluster == "local" else cluster
        try:
            ray.init(
                address=address,
                log_to_driver=False,
                include_dashboard=False,
                num_cpus=None if address else workers,
            )
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise UserError(
                f"cannot reach the Ray cluster '{cluster}': {str(error).splitlines()[0]}"
            ) from None
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        gpus = 1 if settings.device.startswith("cuda") else 0
        rows = ray.data.from_items(
            [{"shard": number} for number in numbers], override_num_blocks=len(numbers)
        )
        made = rows.map(
            cast(Any, RayWorker),
            fn_constructor_args=(settings,),
            concurrency=max(1, workers),
            num_cpus=1,
            num_gpus=gpus,
        )
        for row in made.iter_rows():
            yield int(row["shard"]), _result(json.loads(row["receipt"]))
    finally:
        if started:
            ray.shutdown()
