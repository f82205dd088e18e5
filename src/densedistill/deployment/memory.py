"""Peak memory of one network in one runtime; `benchmark` runs this in a process of its own.

python -m densedistill.deployment.memory '{"network": "dsnet_slim", "size": [384, 1248]}'
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch


def peak_memory(
    network: str,
    size: tuple[int, int],
    runtime: str | None = None,
    precision: str = "float32",
    max_disparity: int | None = None,
    batch: int = 1,
    threads: int | None = None,
    device: str = "cpu",
) -> int:
    """Return the bytes that loading `network` and predicting twice takes at most, of `device`'s memory."""
    from ..tasks import task_of
    from .check import real_images
    from .measure import MemoryMeter
    from .resolve import resolve

    if threads:
        torch.set_num_threads(threads)
    real_images(task_of(None), size)  # what reading photographs needs is no part of it
    meter = MemoryMeter(device)
    predict, _ = resolve(network, runtime, precision, max_disparity, device)
    images = [i.mul(255).byte().repeat(batch, 1, 1, 1) for i in real_images(task_of(predict), size)]
    for _ in range(2):
        predict(*images)
    return meter.peak()


def main() -> None:
    """Print the bytes for the arguments in JSON."""
    wanted: dict[str, Any] = json.loads(sys.argv[1])
    print(peak_memory(**{**wanted, "size": tuple(wanted["size"])}))


if __name__ == "__main__":
    main()
