"""The run directory: everything a training leaves behind."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import yaml

from ..errors import UserError
from ..files import to_json, write_text
from ..recipes import Recipe, Stages, load_recipe
from .launch import launched


class Run:
    """A directory with the recipe, checkpoints, logs and the trained student.

    Args:
        path: the directory; made by `create`.

    `evaluation` is what `train` or `distill` found at its end.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.evaluation: Any = None

    def __repr__(self) -> str:
        return f"Run('{self.path}')"

    def __fspath__(self) -> str:
        return str(self.path)

    @property
    def student(self) -> Path:
        """The trained student, alone; it exists once training is finished."""
        return self.path / "student.safetensors"

    @property
    def last(self) -> Path:
        """The newest checkpoint."""
        return self.path / "checkpoints" / "last.ckpt"

    @property
    def best(self) -> Path:
        """The checkpoint of the best validation."""
        return self.path / "checkpoints" / "best.ckpt"

    @property
    def finished(self) -> bool:
        """Whether training came to its end."""
        return self.student.is_file()

    @property
    def begun(self) -> bool:
        """Whether anything was trained here, or in one of its stages, that another run would overwrite."""
        left = ("metrics.jsonl", "checkpoints/*.ckpt", self.student.name)
        return any(next(self.path.glob(f"{stage}{file}"), None) for stage in ("", "*/") for file in left)

    @property
    def recipe(self) -> Recipe | Stages:
        """The resolved recipe."""
        return load_recipe(self.path / "recipe.yaml")

    @property
    def history(self) -> list[dict[str, Any]]:
        """The logged lines: `step`, `time` in seconds of training, and figures."""
        path = self.path / "metrics.jsonl"
        if not path.is_file():
            return []
        # A killed run may have left half a line at the end.
        whole, _, _ = path.read_text(encoding="utf-8").rpartition("\n")
        try:
            return [json.loads(line) for line in whole.splitlines()]
        except ValueError:
            raise UserError(f"{path} is damaged: not every line is JSON; mend it or remove it") from None

    @property
    def metrics(self) -> dict[str, Any]:
        """The final evaluation: `{"rows": [...]}`; empty before it."""
        path = self.path / "metrics.json"
        return json.loads(path.read_text()) if path.is_file() else {}

    def create(self, recipe: Recipe | Stages) -> Run:
        """Make the directory with `recipe.yaml` and `environment.json`; UserError when it holds another
        run."""
        from ..environment import environment

        # A run that failed before its first step holds nothing; mended, the same command begins it anew.
        if (self.path / "recipe.yaml").exists() and self.begun:
            raise UserError(
                f"{self.path} holds a run already: `--resume {self.path}` goes on with it, "
                "`--run DIR` starts another"
            )
        self.path.mkdir(parents=True, exist_ok=True)
        self.write_text("environment.json", json.dumps(environment(), indent=2) + "\n")
        self.write_recipe(recipe)
        return self

    def write_recipe(self, recipe: Recipe | Stages) -> None:
        """Write `recipe.yaml`, and drop the final figures, which are by another one."""
        text = yaml.safe_dump(recipe.to_dict(), sort_keys=False, allow_unicode=True, width=110)
        self.write_text("recipe.yaml", text)
        (self.path / "metrics.json").unlink(missing_ok=True)

    def write_text(self, name: str, text: str) -> Path:
        """Write `text` to the file `name` of this run, whole or not at all; return its path."""
        write_text(self.path / name, text)
        return self.path / name

    def log(self, step: int, time: float, values: dict[str, float]) -> None:
        """Append one line to `metrics.jsonl`, in which null stands for what is not finite."""
        line = to_json({"step": step, "time": round(time, 3), **{k: _round(v) for k, v in values.items()}})
        with open(self.path / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(line + "\n")

    def forget_after(self, step: int) -> None:
        """Drop logged lines of steps after `step`, which are about to be trained again."""
        if not (self.path / "metrics.jsonl").is_file():
            return
        kept = [line for line in self.history if line["step"] <= step]
        self.write_text("metrics.jsonl", "".join(to_json(line) + "\n" for line in kept))


def open_run(path: str | Path) -> Run:
    """Return the run in directory `path`; UserError when there is none."""
    run = Run(path)
    if not (run.path / "recipe.yaml").is_file():
        raise UserError(f"{path} holds no run: there is no recipe.yaml in it")
    return run


def choose_directory(recipe: Recipe | Stages, twin: bool) -> Path:
    """Return `runs/RECIPE`, numbered when taken; processes that this one starts get the same."""
    chosen = os.environ.get("DENSEDISTILL_RUN")
    if chosen:
        return Path(chosen)
    start = launched()
    if start and start.machines * start.each > 1:
        raise UserError("several processes need one directory: name it with --run DIR")
    stem = recipe.name.replace("/", "-").replace(":", "-") + ("-twin" if twin else "")
    path, number = Path("runs") / stem, 1
    while path.exists():
        number += 1
        path = Path("runs") / f"{stem}-{number}"
    return path


def _round(value: float) -> float:
    return float(f"{value:.6g}")
