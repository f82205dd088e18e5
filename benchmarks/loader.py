"""Does data keep up with training? Decode, augment and collate each data set, beside a training step.

    python benchmarks/loader.py               # the procedural world and a pair that ships
    python benchmarks/loader.py --data sceneflow=data/SceneFlow --data kitti2015=data/KITTI2015
    python benchmarks/loader.py --smoke       # seconds

For each data set: the time of one sample in this process (reading it, and its augmentation), of collating a
batch, batches a second from the training loader with each number of workers, and the share of its time that
a training step (`--recipe`'s student, teacher and objective) waits for the next batch. A step should wait
for less than 5 % with 1 worker.

Writes a table to the screen and all figures to `loader.json`.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import sys
import time
from typing import Any

import torch

from densedistill.data.loader import make_loader, open_mixture
from densedistill.data.sample import collate
from densedistill.environment import environment
from densedistill.networks.precision import channels_last, fastest_dtype
from densedistill.recipes import load_recipe
from densedistill.training.train import make_objective

SHIPPED = {"world": None, "middlebury2014": None}  # what needs no root
LIMIT = 0.05  # share of a step spent waiting


def recipe_for(name: str, root: str | None, options: argparse.Namespace) -> Any:
    """Return the recipe with this training data, at the wanted crop and batch."""
    train: dict[str, Any] = {"name": name, "crop": [options.height, options.width]}
    if root:
        train["root"] = root
    if name == "world":
        train |= {"length": 64, "size": [options.height, options.width], "max_disparity": 192}
    overrides: dict[str, Any] = {"data.train": [train], "data.batch_size": options.batch}
    # Random weights take as long.
    overrides |= {f"teachers.{name}.weights": None for name in load_recipe(options.recipe).teachers}
    return load_recipe(options.recipe, overrides=overrides)


def median_seconds(function: Any, repeats: int) -> float:
    """Return the median time of `repeats` calls after one."""
    function(0)
    times = []
    for number in range(1, repeats + 1):
        start = time.perf_counter()
        function(number)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def measure(name: str, root: str | None, options: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of one data set."""
    recipe = recipe_for(name, root, options)
    mixture = open_mixture(recipe.data.train, recipe.data.augment, recipe.task, 1)
    dataset, _ = mixture.parts[0]
    count = len(dataset)
    read = median_seconds(lambda i: dataset[i % count], options.repeats)
    whole = median_seconds(lambda i: mixture[(0, i % count, 0, 0)], options.repeats)
    samples = [mixture[(0, i % count, 0, 0)] for i in range(options.batch)]
    joined = median_seconds(lambda _: collate(samples), options.repeats)
    figures: dict[str, Any] = {
        "data": name,
        "samples": count,
        "read_seconds": read,
        "augment_seconds": max(0.0, whole - read),
        "collate_seconds": joined,
        "workers": {},
    }
    step = make_step(recipe)
    for workers in options.workers:
        figures["workers"][workers] = wait(mixture, step, workers, options)
    return figures


def make_step(recipe: Any) -> Any:
    """Return one training step of the recipe, from a batch to updated weights."""
    objective = make_objective(recipe)
    channels_last(objective.student)
    optimizer = torch.optim.Adam([p for p in objective.student.parameters() if p.requires_grad], 1e-4)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    objective.to(device)
    dtype = fastest_dtype(device)

    def step(batch: dict[str, Any]) -> None:
        batch = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, dtype, enabled=dtype is not torch.float32):
            loss = objective(batch)[0]
        loss.backward()
        optimizer.step()
        loss.item()  # waits for the device

    return step


def wait(mixture: Any, step: Any, workers: int, options: argparse.Namespace) -> dict[str, float]:
    """Return batches a second of the loader alone, and how long training steps wait for it."""
    loader, _ = make_loader(mixture, options.batch, workers=workers)
    batches = iter(loader)
    next(batches)
    start = time.perf_counter()
    for _ in range(options.repeats):
        next(batches)
    alone = (time.perf_counter() - start) / options.repeats
    step(next(batches))
    waited = worked = 0.0
    for _ in range(options.steps):
        start = time.perf_counter()
        batch = next(batches)
        got = time.perf_counter()
        step(batch)
        waited, worked = waited + got - start, worked + time.perf_counter() - got
    del batches, loader
    return {
        "batches_a_second": 1 / alone,
        "step_seconds": worked / options.steps,
        "wait_seconds": waited / options.steps,
        "wait_share": waited / (waited + worked),
    }


def report(result: dict[str, Any]) -> None:
    """Print the table."""
    options = result["options"]
    size = f"{options['height']}x{options['width']}, batch {options['batch']}"
    print(f"{size}, {result['environment']['cpu']['model']}")
    headings = f"{'data':16}{'read':>9}{'augment':>9}{'collate':>9}{'workers':>9}{'batches/s':>11}"
    print(f"{headings}{'step':>9}{'waits':>8}")
    for one in result["data"]:
        for workers, found in one["workers"].items():
            print(
                f"{one['data']:16}{1e3 * one['read_seconds']:6.0f} ms{1e3 * one['augment_seconds']:6.0f} ms"
                f"{1e3 * one['collate_seconds']:6.0f} ms{workers:9}{found['batches_a_second']:11.2f}"
                f"{found['step_seconds']:7.2f} s{found['wait_share']:8.1%}"
            )


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", action="append", metavar="NAME[=ROOT]", help="may be repeated")
    parser.add_argument("--recipe", default="dsnet/sceneflow")
    parser.add_argument("--height", type=int, default=256)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--repeats", type=int, default=16)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--smoke", action="store_true", help="64x128, 2 steps, the world alone")
    parser.add_argument("--output", default="loader.json")
    options = parser.parse_args(arguments)
    if options.smoke:
        options.height, options.width, options.repeats, options.steps = 64, 128, 2, 2
        options.data = options.data or ["world"]
    options.data = options.data or list(SHIPPED)
    return options


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write; 1 when a step waits for longer than it should with one worker."""
    options = parse(arguments)
    found = []
    for entry in options.data:
        name, _, root = entry.partition("=")
        print(f"measuring {name} …", file=sys.stderr)
        found.append(measure(name, root or None, options))
    result = {
        "date": datetime.date.today().isoformat(),
        "environment": environment(),
        "options": vars(options),
        "data": found,
    }
    report(result)
    with open(options.output, "w") as file:
        json.dump(result, file, indent=1)
    print(f"wrote {options.output}")
    shares = [one["workers"][1]["wait_share"] for one in found if 1 in one["workers"]]
    return 0 if options.smoke or all(share < LIMIT for share in shares) else 1


if __name__ == "__main__":
    sys.exit(main())
