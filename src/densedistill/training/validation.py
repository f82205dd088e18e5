"""Validation between steps: figures on the validation data, and pictures for TensorBoard."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch

from ..data.lists import shared
from ..data.loader import open_dataset
from ..data.sample import require_sample
from ..inference.evaluate import evaluate, require_measurable
from ..inference.evaluation import write_figure
from ..inference.predictor import Predictor
from ..inference.sources import keep_measurable
from ..metrics import metric_info
from ..networks.input_spec import search_range
from ..recipes import DataSet, Recipe
from ..tasks import get_task
from .pictures import picture

if TYPE_CHECKING:
    from .log import RunLog
    from .module import TrainingModule


def open_validation(recipe: Recipe) -> dict[str, Any]:
    """Return the recipe's validation data sets by label; UserError for one that cannot be measured on."""
    task = get_task(recipe.task)
    measures = [metric_info(name) for name in task.metrics]
    datasets: dict[str, Any] = {}
    for entry in recipe.data.validate:
        label = _label(entry)
        samples = keep_measurable(open_dataset(entry, recipe.task), task)
        first = samples[0]  # what is measurable was kept, so it tells of all, before hours of training
        require_sample(first, label)
        require_measurable(first, task, measures, label, str(first.get("meta", {}).get("name", "0")))
        datasets[label if label not in datasets else f"{label} #{len(datasets) + 1}"] = samples
    return datasets


def trained_on(recipe: Recipe) -> list[str]:
    """Return a warning for each validation set of files of which samples are trained on, too."""
    warnings = []
    for held in recipe.data.validate:
        for entry in recipe.data.train:
            if held.root is None or (held.name, held.root) != (entry.name, entry.root):
                continue
            sets = [open_dataset(one, recipe.task) for one in (held, entry)]
            names = [set(getattr(one, "names", ())) for one in sets]
            splits = [str(getattr(one, "split", "all")) for one in sets]
            warnings.append(shared(held.name, names[0] & names[1], (splits[0], splits[1])))
    return [warning for warning in warnings if warning]


def _label(entry: DataSet) -> str:
    return f"{entry.name} {entry.split}" if entry.split else entry.name


class Validator:
    """Evaluates the student (its average, where one is kept) on every validation data set.

    Args:
        datasets: by label.
        pictures: samples of the first data set to show.
        protocol: of the evaluation; None for the task's plain one.
    """

    def __init__(self, datasets: Mapping[str, Any], pictures: int = 0, protocol: str | None = None):
        self.datasets, self.protocol = dict(datasets), protocol
        self._larger_is_better = False
        self.pictures = min(pictures, len(next(iter(self.datasets.values()))))

    def run(self, module: TrainingModule, log: RunLog) -> float:
        """Log the figures of `module`'s student and return the first one on the first data set, which
        `improves` on another or not."""
        student = module.student
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        if distributed:  # what is measured, and may be kept as the best, is what the first process has
            for tensor in (module.average.state if module.average else student.state_dict()).values():
                torch.distributed.broadcast(tensor, 0)
        precision = "float32" if module.trainer.precision == "32-true" else "bfloat16"
        student.eval()
        try:
            with module.average.applied() if module.average else nullcontext():
                predictor = Predictor(student, precision=precision)
                found = evaluate(
                    {"student": predictor},
                    self.datasets,
                    self.protocol,
                    max_disparity=search_range(student),
                    distributed=distributed,
                )
                if log.first:
                    self._draw(predictor, module, log)
        finally:
            module.training_mode()
        values: dict[str, float] = {}
        for number, row in enumerate(found.rows):
            prefix = "validate" if number == 0 else f"validate/{row['data']}"
            values |= {f"{prefix}/{key}": value for key, value in row.items() if key in _measured(row)}
        log.write(module, values)
        first = next(iter(values))
        figure, self._larger_is_better = values[first], metric_info(first.rpartition("/")[2]).larger_is_better
        figures = [f"{key} {write_figure(key.rpartition('/')[2], value)}" for key, value in values.items()]
        log.say("  ".join([f"step {module.step}:", *figures]))
        return figure

    def improves(self, figure: float, best: float | None) -> bool:
        """Return whether `figure` is better than `best`, the way the metric points."""
        if best is None or math.isnan(best):
            return True
        return figure > best if self._larger_is_better else figure < best

    def _draw(self, predictor: Predictor, module: TrainingModule, log: RunLog) -> None:
        dataset = next(iter(self.datasets.values()))
        for number in range(self.pictures):
            sample = dataset[number]
            inputs = [sample[key] for key in predictor.task.inputs]
            log.picture(module, f"validate/{number}", picture(sample, predictor(*inputs), predictor.task))


def _measured(row: Mapping[str, Any]) -> list[str]:
    """Return the keys of an evaluation's row that are figures of merit."""
    return [k for k in row if k not in ("name", "data", "images", "precision", "seconds_per_image")]
