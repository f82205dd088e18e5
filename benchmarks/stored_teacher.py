"""An epoch with stored answers and features, beside one with the live teacher and one with no teacher at all.

    python benchmarks/stored_teacher.py --json benchmarks/results/stored_teacher.json

The same student learns the same steps on the same crops from files: by ground truth alone; with the outputs
and the early features of a teacher read from a store; with the teacher itself; and with three stores at once.
Peak memory is the process's own, a process a variant. Aim: with a store at most 1.25 times the time without a
teacher.
"""

from __future__ import annotations

import argparse
import multiprocessing
import re
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from study import write_study

import densedistill as dd
from densedistill.data.augment import build_augmentation
from densedistill.data.loader import Mixture, make_loader
from densedistill.data.world.write import write_dataset
from densedistill.distillation.teachers import create_teacher
from densedistill.labelling import Settings, label

SIZE, CROP, TAP = (128, 256), (96, 192), "features.early"
TEACHER = {"name": "gwcnet_slim", "max_disparity": 64, "weights": "shipped"}
VARIANTS = ("no teacher", "stored", "three stored", "live")


def epoch(variant: str, data: str, stores: list[str], batch: int, epochs: int, queue: Any) -> None:
    """Train `epochs` epochs after one to warm up, and put seconds of each and peak memory in MB into
    `queue`."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    frames = dd.create_dataset("sceneflow", root=data, split="train")
    mixture = Mixture([(frames, build_augmentation({"crop": list(CROP)}))], seed=1)
    student = dd.create_model("dsnet_slim", max_disparity=64).train()
    teachers: dict[str, Any] = {}
    if variant == "live":
        teachers["t0"] = create_teacher(**TEACHER)
    elif variant != "no teacher":
        teachers = {
            f"t{i}": create_teacher("store", path=p)
            for i, p in enumerate(stores[: 1 if variant == "stored" else 3])
        }
    terms: dict[str, Any] = {"ground_truth": {"loss": "smooth_l1", "of": "disparity", "to": "ground_truth"}}
    for name in teachers:
        terms[f"output_{name}"] = {"loss": "smooth_l1", "of": "disparity", "to": name}
        terms[f"features_{name}"] = {"loss": "cosine", "of": TAP, "to": name, "adapter": "conv1x1"}
    objective = dd.Objective(terms, student, teachers)
    for teacher in objective.teachers.values():
        mixture.suit(teacher.suit)
    loader, sampler = make_loader(mixture, batch, seed=1)
    optimizer = torch.optim.AdamW([*student.parameters(), *objective.parameters()], 1e-4)
    batches = iter(loader)
    seconds = []
    for number in range(epochs + 1):
        start = time.perf_counter()
        for _ in range(sampler.steps_per_epoch):
            total, _ = objective(next(batches))
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
        if number:
            seconds.append(time.perf_counter() - start)
    # Not ru_maxrss, which begins with the size of the process that started this one.
    peak = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    queue.put((seconds, int(peak[1]) / 1024 if peak else float("nan")))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frames", type=int, default=16, help="of the training set (default 16)")
    parser.add_argument("--batch", type=int, default=2, help="samples a step (default 2)")
    parser.add_argument("--epochs", type=int, default=3, help="measured, after one to warm up (default 3)")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        data = f"{folder}/data"
        write_dataset(data, length=arguments.frames, size=SIZE, max_disparity=60)
        stores = []
        for number in range(3):
            frames = {"data": "sceneflow", "root": data, "split": "train"}
            done = label(Settings(TEACHER, frames, f"{folder}/store{number}", taps=[TAP]))
            stores.append(str(done.out))
        context = multiprocessing.get_context("spawn")
        for variant in VARIANTS:
            queue = context.Queue()
            work = (variant, data, stores, arguments.batch, arguments.epochs, queue)
            process = context.Process(target=epoch, args=work)
            process.start()
            seconds, memory = queue.get()
            process.join()
            rows.append(
                {"variant": variant, "seconds": statistics.median(seconds), "all": seconds, "peak_mb": memory}
            )
    table = Table(
        title=f"{arguments.frames} frames of {SIZE[1]}x{SIZE[0]} px, crops of {CROP[1]}x{CROP[0]}, one thread"
    )
    for heading in ("learns from", "s an epoch", "times none", "peak MB"):
        table.add_column(heading, justify="left" if heading == "learns from" else "right")
    for row in rows:
        row["ratio"] = row["seconds"] / rows[0]["seconds"]
        table.add_row(row["variant"], f"{row['seconds']:.2f}", f"{row['ratio']:.2f}", f"{row['peak_mb']:.0f}")
    Console().print(table)
    write_study({"rows": rows}, arguments.json)


if __name__ == "__main__":
    main()
