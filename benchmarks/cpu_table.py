"""What a user with a small computer wants to know: milliseconds a pair, and errors on photographed pairs.

    python benchmarks/cpu_table.py --threads 1 --json benchmarks/results/cpu_table.json

Every network and OpenCV's SGBM at one size, search range and number of threads: the median and the 90th
percentile of repeated calls of the whole predictor, preparation included, in turn so that a busy moment hits
all alike. Networks run with batch normalisation folded, in float32 and, where this processor has it, in
bfloat16, in torch and, exported for this size, in OpenVINO. Accuracy is of those whose weights ship, by
`evaluate --data samples`; that of the others is not known here.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import cv2
import torch
from rich.console import Console
from rich.table import Table

from densedistill.data.datasets import create_dataset
from densedistill.deployment.export import export
from densedistill.files import write_text
from densedistill.inference.classical import SGBM
from densedistill.inference.evaluate import evaluate
from densedistill.inference.predictor import Predictor
from densedistill.machine import cpu_model
from densedistill.networks.counting import count_model
from densedistill.networks.folding import fold_batch_norm
from densedistill.networks.precision import channels_last, fastest_dtype
from densedistill.networks.published import shipped_weights
from densedistill.networks.registry import create_model
from densedistill.runtimes import load_runtime

NETWORKS = (
    "coex_slim",
    "tsnnet_naive",
    "tsnnet_student_compact",
    "tsnnet_student",
    "tsnnet_teacher",
    "dsnet_slim",
    "dsnet_bb21_ed2_n16",
)
FIGURES = ("bad2", "epe", "d1")


def pair(size: tuple[int, int]) -> list[torch.Tensor]:
    """Return the Motorcycle pair, which ships, at `size` (H, W), uint8 (1, 3, H, W)."""
    sample = create_dataset("middlebury2014")[0]
    views = (sample["left"], sample["right"])
    resized = (torch.nn.functional.interpolate(v[None].float(), size, mode="bilinear") for v in views)
    return [view.round().byte() for view in resized]


def matchers(
    reach: int, names: list[str], size: tuple[int, int], threads: int
) -> dict[tuple[str, str], Callable[..., Any]]:
    """Return what is timed, by name and arithmetic; weights do not matter to time."""
    made: dict[tuple[str, str], Callable[..., Any]] = {("sgbm", SGBM.precision): SGBM(reach)}
    precisions = ["float32"] + ["bfloat16"] * (fastest_dtype("cpu") is torch.bfloat16)
    for name in names:
        network = channels_last(fold_batch_norm(create_model(name, max_disparity=reach).eval()))
        for precision in precisions:
            made[name, precision] = Predictor(network, precision=precision)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"{name}.xml"
            # Random weights: how far the file is from torch says nothing here.
            export(network, file, size, limit=float("inf"))
            for precision in precisions:
                loaded = load_runtime(file, precision=precision, threads=threads)
                made[name, f"{precision}, OpenVINO"] = Predictor(loaded)
    return made


def measure(
    made: dict[tuple[str, str], Callable[..., Any]], size: tuple[int, int], repeats: int
) -> list[dict[str, Any]]:
    """Return the seconds of each matcher, all of them once a round after one round to warm up."""
    views = pair(size)
    seconds: dict[tuple[str, str], list[float]] = {key: [] for key in made}
    for round_number in range(repeats + 1):
        for key, predict in made.items():
            start = time.perf_counter()
            predict(*views)
            if round_number:
                seconds[key].append(time.perf_counter() - start)
    return [
        {
            "name": name,
            "precision": precision,
            "p50": statistics.median(times),
            "p90": sorted(times)[min(len(times) - 1, round(0.9 * len(times)))],
            "least": min(times),
        }
        for (name, precision), times in seconds.items()
    ]


def accuracy(names: list[str], limit: int) -> list[dict[str, Any]]:
    """Return the figures on the photographed pairs of those that have weights, disparities below `limit`."""
    known = [name for name in names if "shipped" in shipped_weights(name)]
    return evaluate([*known, "sgbm"], "samples", max_disparity=limit).rows


def show(found: dict[str, Any]) -> None:
    """Print the table."""
    height, width = found["size"]
    table = Table(
        title=f"{width}x{height} px, search {found['reach']} px, {found['threads']} threads, {found['cpu']}"
    )
    for heading in ("", "arithmetic", "M", "G MACs", "p50 ms", "p90 ms"):
        table.add_column(heading, justify="right" if heading else "left")
    data = list(dict.fromkeys(row["data"] for row in found["accuracy"]))
    for name in data:
        table.add_column(f"bad-2 %\n{name}", justify="right")
    for row in found["latency"]:
        cost = found["costs"].get(row["name"])
        cells = [row["name"], row["precision"], *(f"{value:.2f}" for value in cost or ())] + [""] * (
            2 * (cost is None)
        )
        cells += [f"{1000 * row[key]:.0f}" for key in ("p50", "p90")]
        for name in data:
            bad = [r["bad2"] for r in found["accuracy"] if (r["name"], r["data"]) == (row["name"], name)]
            cells.append(f"{100 * bad[0]:.1f}" if bad else "")
        table.add_row(*cells)
    Console(width=120).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--height", type=int, default=384)
    parser.add_argument("--width", type=int, default=1248)
    parser.add_argument("--max-disparity", type=int, default=192, help="search range of the timing, px")
    parser.add_argument("--threads", type=int, default=1, help="of torch and of OpenCV")
    parser.add_argument("--repeats", type=int, default=7, help="timed calls of each")
    parser.add_argument("--networks", default=",".join(NETWORKS), help="names, joined by commas")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    cv2.setNumThreads(options.threads)
    names = options.networks.split(",")
    size = (options.height, options.width)
    counts = {name: count_model(name, size) for name in names}
    found: dict[str, Any] = {
        "size": size,
        "reach": options.max_disparity,
        "threads": options.threads,
        "cpu": cpu_model(),
        "date": date.today().isoformat(),
        "costs": {name: (c.parameters / 1e6, c.macs / 1e9) for name, c in counts.items()},
        "latency": measure(
            matchers(options.max_disparity, names, size, options.threads), size, options.repeats
        ),
        "accuracy": accuracy(names, 64),
    }
    show(found)
    if options.json:
        write_text(options.json, json.dumps(found, indent=1) + "\n")
        print(f"wrote {options.json}")


if __name__ == "__main__":
    main()
