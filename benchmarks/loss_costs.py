"""What does a step of each distillation loss for class maps and features cost, forward and backward?

    python benchmarks/loss_costs.py --json benchmarks/results/loss_costs.json

Logits of 19 classes and features of 128 channels at an eighth of 512x512 px, a batch of 2, one core:
seconds of
the processor, median of five, and the largest tensor that a loss keeps for its gradient.
"""

from __future__ import annotations

import argparse
import statistics
import time
from datetime import date
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from study import write_study

from densedistill.distillation import losses
from densedistill.machine import cpu_model

LOGITS, FEATURES = (2, 19, 64, 64), (2, 128, 64, 64)
REPEATS = 5
MGD = losses.MGD(channels=128)
HOLISTIC = losses.Holistic(classes=19)
CASES: dict[str, tuple[tuple[int, ...], Any]] = {
    "pixel_wise": (LOGITS, losses.pixel_wise),
    "pixel_wise_published": (LOGITS, losses.pixel_wise_published),
    "standardised_kl": (LOGITS, losses.standardised_kl),
    "dist": (LOGITS, losses.dist),
    "channel_wise, logits": (LOGITS, losses.channel_wise),
    "channel_wise, features": (FEATURES, losses.channel_wise),
    "pairwise, scale 0.5 (9 nodes)": (FEATURES, lambda s, t: losses.pairwise(s, t, scale=0.5)),
    "pairwise, 4096 nodes": (FEATURES, lambda s, t: losses.pairwise(s, t, scale=0.016)),
    "pairwise, 4096 nodes, block 512": (
        FEATURES,
        lambda s, t: losses.pairwise(s, t, scale=0.016, block=512),
    ),
    "cross_image, 32x32 positions": (FEATURES, lambda s, t: losses.cross_image(s, t, positions=32)),
    "mgd": (FEATURES, MGD),
    "mse": (FEATURES, losses.mse),
    "holistic, student's part": (LOGITS, HOLISTIC),
}


def measure(shape: tuple[int, ...], loss: Any) -> tuple[float, float]:
    """Return seconds of a forward and backward pass, and MB of the largest tensor kept between them."""
    student, teacher = torch.randn(shape, requires_grad=True), torch.randn(shape)
    seconds, largest = [], 0

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal largest
        largest = max(largest, tensor.numel() * tensor.element_size())
        return tensor

    for _ in range(REPEATS):
        start = time.process_time()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss(student, teacher).backward()
        seconds.append(time.process_time() - start)
    return statistics.median(seconds), largest / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="where to write the figures")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    rows = []
    table = Table(title=f"{cpu_model()}, one core, torch {torch.__version__}, {date.today()}")
    for heading in ("loss", "ms", "largest kept tensor, MB"):
        table.add_column(heading, justify="left" if heading == "loss" else "right")
    for name, (shape, loss) in CASES.items():
        seconds, largest = measure(shape, loss)
        rows.append({"loss": name, "seconds": seconds, "largest_mb": largest})
        table.add_row(name, f"{1000 * seconds:.1f}", f"{largest:.1f}")
    Console(width=100).print(table)
    write_study({"rows": rows}, arguments.json)


if __name__ == "__main__":
    main()
