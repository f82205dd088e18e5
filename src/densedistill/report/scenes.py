"""Scenes of a data set with what several networks made of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..data.sample import sample_name
from ..tasks import task_of
from ..tasks.files import unbatch
from ..tasks.pictures import parts
from .pictures import Scene, scene_of
from .tables import metric_columns

COUNT = 3
NETWORKS = 6  # side by side; a ladder of many rungs would fill the page


def scenes_of(
    predictors: Mapping[str, Callable[..., Any]],
    datasets: Mapping[str, Any],
    figures: Sequence[Mapping[str, Any]] = (),
    count: int = COUNT,
) -> list[Scene]:
    """Return up to `count` scenes: the first samples of each data set, as many of one as of another.

    Args:
        predictors: by name, all of one task; the first six are shown.
        datasets: of samples with ground truth, by label.
        figures: of single samples (`Evaluation.samples`), for the captions.
    """
    predictors = dict(list(predictors.items())[:NETWORKS])
    chosen = [(label, index) for index in range(count) for label in datasets if index < len(datasets[label])]
    return [
        _scene(predictors, datasets[label][index], label, index, figures) for label, index in chosen[:count]
    ]


def _scene(
    predictors: Mapping[str, Callable[..., Any]],
    sample: Mapping[str, Any],
    label: str,
    index: int,
    figures: Sequence[Mapping[str, Any]],
) -> Scene:
    task = task_of(next(iter(predictors.values())))
    meta = sample.get("meta", {})
    name = sample_name(sample, label, index)
    own = [row for row in figures if row["data"] == label and row["sample"] == name]
    columns = metric_columns([{k: v for k, v in row.items() if k != "sample"} for row in own])
    captions = {
        row["name"]: ", ".join(
            f"{column.label} {column.values[row['name']]:.{column.digits}f} {column.unit}".rstrip()
            for column in columns[:2]
            if row["name"] in column.values
        )
        for row in own
    }
    image, truth, valid = parts(task, sample)
    images = [sample[key] for key in task.inputs]
    found = {label: unbatch(predict(*images)) for label, predict in predictors.items()}
    if task.draw is not None:
        names = {"names": meta.get("classes", ())}
        truth, found = truth | names, {label: outputs | names for label, outputs in found.items()}
    return scene_of(task, f"{label}, sample {index + 1}", image, truth, valid, found, captions)
