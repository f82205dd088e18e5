"""The curves and pictures of a study: learning curves as SVG, what each network answers as one image."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from densedistill.files import write_text
from densedistill.inference.load import load_predictor
from densedistill.report.charts import Series, line_chart, standalone
from densedistill.report.montage import write_scenes
from densedistill.report.scenes import scenes_of
from densedistill.training import Run
from densedistill.training.validation import open_validation


def write_curves(
    runs: Mapping[str, Sequence[Run]],
    costs: Mapping[str, Mapping[str, float]],
    figure: str,
    heading: str,
    path: Path,
) -> None:
    """Write the mean over seeds of the validation's `figure`, in %, against processor minutes.

    Args:
        runs: finished runs of each rung.
        costs: of each rung, `answers` and `step` in seconds.
        figure, heading: a metric and what it is called.
    """
    series = []
    for number, (rung, seeds) in enumerate(runs.items()):
        points = defaultdict(list)
        for run in seeds:
            for line in run.history:
                if f"validate/{figure}" in line:
                    minutes = (costs[rung]["answers"] + line["step"] * costs[rung]["step"]) / 60
                    points[minutes].append(100 * line[f"validate/{figure}"])
        series.append(
            Series(rung, list(points), [statistics.mean(values) for values in points.values()], number)
        )
    if chart := line_chart(series, heading, "processor minutes", heading, width=720):
        write_text(path, standalone(chart))


def write_pictures(networks: Mapping[str, Path], count: int, given: bool, path: Path) -> None:
    """Write what each network, a run, answers to `count` samples of the last one's validation data.

    Args:
        given: show image and ground truth, too: where the data's licence allows it.
    """
    (label, data), *_ = open_validation(Run(list(networks.values())[-1]).recipe).items()  # type: ignore[arg-type]
    every = max(1, len(data) // count)
    chosen = [data[index] for index in range(0, every * count, every)]
    predictors = {name: load_predictor(str(run)) for name, run in networks.items()}
    scenes = scenes_of(predictors, {label: chosen}, count=count)
    write_scenes(scenes, path, given=given)
