"""How many procedural stereo pairs a second: on processes with one thread each, or on a GPU.

    python benchmarks/world.py --workers 2
    python benchmarks/world.py --device cuda --workers 4 --json world.json

Each worker renders its own scenes for `--seconds` after a warm-up; the rate is of all of them together,
by wall-clock.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import time
from pathlib import Path
from typing import Any

import torch


def work(number: int, args: argparse.Namespace, barrier: Any, results: Any) -> None:
    """Render scenes until the time is over; put (pairs, seconds, processor seconds) into `results`."""
    from densedistill.data.world import render

    torch.set_num_threads(1)
    height, width = args.size
    seed = number * 1_000_000

    def one(index: int) -> None:
        render(seed + index, height, width, tuple(args.want), args.device, max_disparity=args.max_disparity)
        if args.device != "cpu":
            torch.cuda.synchronize()

    for index in range(5):
        one(index)
    barrier.wait()
    start, busy, pairs = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - start < args.seconds:
        one(5 + pairs)
        pairs += 1
    results.put((pairs, time.perf_counter() - start, time.process_time() - busy))


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, nargs=2, default=(256, 512), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--max-disparity", type=float, default=96)
    parser.add_argument("--want", nargs="+", default=["disparity"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--json", type=Path, help="write the figures there")
    args = parser.parse_args()

    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(args.workers), context.Queue()
    processes = [context.Process(target=work, args=(n, args, barrier, results)) for n in range(args.workers)]
    for process in processes:
        process.start()
    answers = [results.get() for _ in processes]
    rate = sum(pairs / seconds for pairs, seconds, _ in answers)
    busy = sum(busy for *_, busy in answers) / sum(pairs for pairs, *_ in answers)
    for process in processes:
        process.join()
    device = platform.processor() or platform.machine()
    if args.device != "cpu":
        device = torch.cuda.get_device_name()
    row = {
        "pairs_per_second": round(rate, 2),
        # What the rate would be on idle cores; the two differ where other programs run.
        "processor_seconds_per_pair": round(busy, 4),
        "size": list(args.size),
        "want": args.want,
        "workers": args.workers,
        "device": device,
        "torch": torch.__version__,
    }
    print(f"{'pairs/s':>8} {'CPU s/pair':>10} {'workers':>8} {'size':>10}  want; device")
    size = f"{args.size[0]}x{args.size[1]}"
    print(f"{rate:8.2f} {busy:10.3f} {args.workers:8d} {size:>10}  {', '.join(args.want)}; {device}")
    if args.json:
        args.json.write_text(json.dumps(row, indent=2) + "\n")


if __name__ == "__main__":
    main()
