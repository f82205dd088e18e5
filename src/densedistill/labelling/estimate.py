"""What labelling would take, from a few frames that were really labelled."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import counted
from .engine import Job, Settings


@dataclass(frozen=True)
class Estimate:
    """Time and bytes of a labelling.

    Args:
        sample: frames that were measured.
        seconds_per_frame: of one worker, once it is warm.
        bytes_per_frame: written.
        frames: to be labelled.
        workers: at once, such as GPUs.
        kept: share of pixels that the filters keep, of the task's first output.
    """

    sample: int
    seconds_per_frame: float
    bytes_per_frame: float
    frames: int
    workers: int
    kept: float

    @property
    def hours(self) -> float:
        """From start to end, with all workers busy."""
        return self.seconds_per_frame * self.frames / self.workers / 3600

    @property
    def gigabytes(self) -> float:
        """Written in all."""
        return self.bytes_per_frame * self.frames / 1e9

    def __str__(self) -> str:
        return (
            f"{self.sample} frames measured: {self.seconds_per_frame:.3f} s and "
            f"{self.bytes_per_frame / 1e3:.0f} kB a frame, {100 * self.kept:.1f} % of pixels kept\n"
            f"{self.frames} frames on {counted(self.workers, 'worker')}: {self.hours:.2f} h, "
            f"{self.gigabytes:.3f} GB"
        )


def estimate(settings: Settings, frames: int | None = None, workers: int = 1, sample: int = 3) -> Estimate:
    """Return what labelling as `settings` say would take; nothing is left on disk.

    Args:
        settings: of the labelling.
        frames: how many there will be; None for those that are there.
        workers: GPUs or processes like this one.
        sample: frames to measure, evenly spread; one more goes before them as a warm-up.
    """
    with tempfile.TemporaryDirectory() as folder:
        job = Job(replace(settings, out=folder, shard_size=1))
        count = len(job.names)
        chosen = [i * count // min(sample, count) for i in range(min(sample, count))]
        job.make(chosen[0])
        start = time.perf_counter()
        receipts = [job.make(number) for number in chosen]
        seconds = (time.perf_counter() - start) / len(chosen)
        size = sum(receipt["bytes"] for receipt in receipts)
        if settings.write == "files":
            size += sum(file.stat().st_size for file in Path(folder).glob("shards/*.json"))
        outputs = [next(iter(receipt["counts"]["outputs"].values())) for receipt in receipts]
        kept = sum(o["kept"] for o in outputs) / sum(o["pixels"] for o in outputs)
        return Estimate(len(chosen), seconds, size / len(chosen), frames or count, max(1, workers), kept)
