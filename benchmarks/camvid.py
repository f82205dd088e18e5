"""What does each term of structured distillation earn on CamVid, at equal computing time?

    python benchmarks/camvid.py --data data/CamVid --minutes 3 --json benchmarks/results/camvid.json

A PSPNet teacher is trained first, then ESPNet students from random weights, seed by seed, each rung of the
ladder adding a term. Every student gets the same processor time: the cost of a rung's step, the adversary's
included, is measured first, and the number of steps follows; the time the teacher needs to answer for the
training images is taken off the rungs that ask it. Processor time rather than the clock's, because other
work on the machine changes the latter. Stopped, it goes on where it was; `--read` prints what there is.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from datetime import date
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from densedistill.data.loader import make_loader, open_mixture
from densedistill.files import write_text
from densedistill.machine import cpu_model
from densedistill.recipes import load_recipe
from densedistill.training import Run, make_objective, open_run, train
from densedistill.training.final import evaluate_run

TEACHER = "camvid/teacher"
STUDENT = "camvid/espnet"
# Rung to the terms beside the labels, the most telling first.
RUNGS: dict[str, tuple[str, ...]] = {
    "baseline": (),
    "pixel": ("pixel",),
    "pixel + pair": ("pixel", "pair"),
    "pixel + pair + holistic": ("pixel", "pair", "holistic"),
    "channel-wise": ("channel",),
}
MEASURED_STEPS = 6


def overrides(arguments: argparse.Namespace, terms: tuple[str, ...] | None) -> dict[str, Any]:
    """Return what a run changes in its recipe; `terms` None for the teacher."""
    changed: dict[str, Any] = {
        "data.train.root": str(arguments.data),
        "data.validate.root": str(arguments.data),
    }
    if terms is not None:
        changed["teachers.teacher.weights"] = str(arguments.run / "teacher" / "student.safetensors")
        recipe = load_recipe(STUDENT)
        for name, term in recipe.objective.items():
            if name != "labels":
                weight = (term.get("weight") or 3.0) if name in terms else 0.0
                changed[f"objective.{name}.weight"] = weight
    return changed


def cost_of_a_step(recipe: Any) -> tuple[float, float]:
    """Return processor seconds of a training step, and of the teacher's first answer to a batch."""
    torch.set_num_threads(1)
    objective = make_objective(recipe)
    mixture = open_mixture(recipe.data.train, recipe.data.augment, recipe.task, recipe.seed)
    loader, _ = make_loader(mixture, recipe.data.batch_size, recipe.seed)
    batch = next(iter(loader))
    rivals = {id(p) for t in objective.adversaries.values() for p in t.adversary.parameters()}
    own = [p for m in (objective.student, objective) for p in m.parameters() if id(p) not in rivals]
    optimizers = [torch.optim.AdamW(own)]
    optimizers += [torch.optim.SGD(t.adversary.parameters(), 1e-4) for t in objective.adversaries.values()]
    objective.student.train()
    answer = 0.0
    with torch.autocast("cpu", torch.bfloat16, enabled=_bfloat16(recipe)):
        if objective.teachers:
            start = time.process_time()
            objective.teachers["teacher"](batch)
            answer = time.process_time() - start
    seconds = []
    for _ in range(MEASURED_STEPS):
        start = time.process_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=_bfloat16(recipe)):
            total, _ = objective(batch)
        total.backward()
        for term in objective.adversaries.values():
            term.adversary_loss().backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        seconds.append(time.process_time() - start)
    return statistics.median(seconds[1:]), answer


def _bfloat16(recipe: Any) -> bool:
    from densedistill.training.train import _bfloat16 as chosen

    return chosen(recipe.trainer.precision, False)


def measure(arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Return each rung's costs, measured once for a folder of runs."""
    path = arguments.run / "costs.json"
    if path.is_file():
        return json.loads(path.read_text())
    costs = {}
    for rung, terms in RUNGS.items():
        recipe = load_recipe(STUDENT, overrides=overrides(arguments, terms))
        step, answer = cost_of_a_step(recipe)
        images = 2 * sum(1 for _ in (arguments.data / "train").iterdir())  # with their mirror images
        asked = answer * images / recipe.data.batch_size if terms else 0.0
        steps = max(10, round((60 * arguments.minutes - asked) / step))
        costs[rung] = {"step": step, "answers": asked, "steps": steps}
        print(f"{rung}: {step:.3f} s a step, {asked:.0f} s for the teacher's answers, {steps} steps", flush=True)
    write_text(path, json.dumps(costs, indent=1) + "\n")
    return costs


def go(path: Path, recipe: str, changed: dict[str, Any]) -> Run:
    """Return the finished run in `path`, trained or gone on with."""
    run = train(resume=path) if (path / "recipe.yaml").exists() else train(recipe, run=path, overrides=changed)
    if not run.metrics:
        found = evaluate_run(run)
        if found is not None:
            found.write_json(run.path / "metrics.json")
    return run


def name_of(rung: str, seed: int) -> str:
    return f"{rung.replace(' + ', '-')}-seed{seed}"


def read(folder: Path) -> dict[str, Any]:
    """Return the figures of the runs that are finished."""
    costs = json.loads((folder / "costs.json").read_text()) if (folder / "costs.json").is_file() else {}
    rows = []
    if (folder / "teacher" / "metrics.json").is_file():
        rows.append({"rung": "teacher", "miou": _miou(folder / "teacher"), "seeds": 1})
    for rung in RUNGS:
        paths = sorted(folder.glob(name_of(rung, 0).replace("seed0", "seed[0-9]")))
        figures = [_miou(path) for path in paths if (path / "metrics.json").is_file()]
        if figures:
            rows.append(
                {
                    "rung": rung,
                    "seeds": len(figures),
                    "miou": statistics.mean(figures),
                    "deviation": statistics.stdev(figures) if len(figures) > 1 else None,
                    "each": figures,
                    **costs.get(rung, {}),
                }
            )
    return {"rows": rows, "machine": cpu_model(), "torch": torch.__version__, "date": date.today().isoformat()}


def _miou(path: Path) -> float:
    rows = open_run(path).metrics["rows"]
    return next(row["miou"] for row in rows if row["name"] == "student")


def show(study: dict[str, Any]) -> None:
    """Print the study as a table."""
    table = Table(title="CamVid val, 180x240, ESPNet from random weights, equal processor time")
    for heading in ("terms", "seeds", "steps", "s/step", "mIoU %", "over baseline"):
        table.add_column(heading, justify="left" if heading == "terms" else "right")
    base = next((row["miou"] for row in study["rows"] if row["rung"] == "baseline"), None)
    for row in study["rows"]:
        spread = "" if row.get("deviation") is None else f" ± {100 * row['deviation']:.2f}"
        gain = "" if base is None or row["rung"] == "teacher" else f"{100 * (row['miou'] - base):+.2f}"
        step = f"{row['step']:.3f}" if "step" in row else ""
        steps = str(row.get("steps", ""))
        table.add_row(row["rung"], str(row["seeds"]), steps, step, f"{100 * row['miou']:.2f}{spread}", gain)
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("data/CamVid"), help="folder of CamVid")
    parser.add_argument("--run", type=Path, default=Path("runs/camvid"), help="folder of the runs")
    parser.add_argument("--minutes", type=float, default=2.5, help="processor minutes of each student")
    parser.add_argument("--teacher-steps", type=int, default=450, help="2.8 s each on one core")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--json", type=Path, help="where to write the figures, after each run")
    parser.add_argument("--read", action="store_true", help="only read runs that are there")
    arguments = parser.parse_args()
    arguments.run.mkdir(parents=True, exist_ok=True)
    if not arguments.read:
        changed = overrides(arguments, None) | {"schedule.steps": arguments.teacher_steps}
        go(arguments.run / "teacher", TEACHER, changed)
        costs = measure(arguments)
        for seed in arguments.seeds:
            for rung, terms in RUNGS.items():
                changed = overrides(arguments, terms)
                changed |= {"schedule.steps": costs[rung]["steps"], "seed": seed}
                go(arguments.run / name_of(rung, seed), STUDENT, changed)
                _write(arguments)
    show(_write(arguments))


def _write(arguments: argparse.Namespace) -> dict[str, Any]:
    study = read(arguments.run)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        write_text(arguments.json, json.dumps(study, indent=1) + "\n")
    return study


if __name__ == "__main__":
    main()
