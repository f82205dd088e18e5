"""The parts of a report below its table: trade-off, pictures, curves, recipes, environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .charts import SERIES_COLOURS, Series, dot_chart, line_chart, thin
from .markup import Markup, join, tag
from .pictures import ERROR_COLOURS, ERROR_LIMITS, Picture, Scene, data_uri, shrink
from .runs import RunRecord
from .tables import Cost, mapping_table, metric_label, metrics_of, swatch

_PICTURE_WIDTH = 640
_VALIDATION_METRICS = 2  # more than two say nothing new; the rest stays in metrics.jsonl
_PREFERRED = ("epe", "bad2", "d1")

Colours = Mapping[str, int]


def accuracy_against_cost(
    rows: Sequence[Mapping[str, Any]], costs: Sequence[Cost], colours: Colours
) -> Markup | None:
    """Dots of one metric, averaged over the data sets, against latency and against MACs."""
    measured = metrics_of(rows)
    metric = next((m for m in ("bad2", "epe", "d1") if m in measured), next(iter(measured), None))
    if metric is None:
        return None
    written = metric_label(metric)
    label, unit = written.heading, written.unit
    means = {name: mean * written.factor for name, mean in _mean_over_data(rows, metric).items()}
    charts = []
    for key, x_label, scale in (("latency", "latency p50, ms", 1e3), ("macs", "MACs, G", 1e-9)):
        points = [
            Series(cost.name, [value * scale], [means[cost.name]], colours[cost.name])
            for cost in costs
            if cost.name in means and (value := getattr(cost, key)) is not None
        ]
        if len(points) > 1:
            title = f"{label} over all data sets against {x_label.split(',')[0]}"
            charts.append(dot_chart(points, title, x_label, f"mean {label}, {unit}"))
    return tag("div", charts, class_="charts") if charts else None


def _mean_over_data(rows: Sequence[Mapping[str, Any]], metric: str) -> dict[str, float]:
    """Return the mean of each name that has a figure on every data set; others cannot be compared."""
    errors: dict[str, dict[str, float]] = {}
    for row in rows:
        if row.get(metric) is not None:
            errors.setdefault(str(row["name"]), {})[str(row.get("data", ""))] = float(row[metric])
    complete = len({data for values in errors.values() for data in values})
    return {name: sum(v.values()) / len(v) for name, v in errors.items() if len(v) == complete}


def pictures_of(pictures: Sequence[Picture | Scene], colours: Colours) -> Markup | None:
    """Every scene with everybody's answer, and the error beneath it."""
    if not pictures:
        return None
    look = "Point at a map to look closer, in all of its scene at once; click to keep it so."
    scenes = [picture for picture in pictures if isinstance(picture, Scene)]
    if len(scenes) == len(pictures):
        below = " Below: its error." if any(scene.errors for scene in scenes) else ""
        return join(tag("p", f"Above: the answer.{below} {look}", class_="aside"), _all(pictures, colours))
    explanation = tag(
        "p",
        "Above: disparity, near is red. Below: absolute error in px, blue up to 2 px, grey where nothing was "
        f"measured. {look}",
        class_="aside",
    )
    return join(explanation, _legend(), _all(pictures, colours))


def _all(pictures: Sequence[Picture | Scene], colours: Colours) -> list[Markup]:
    return [_scene(p.scene if isinstance(p, Picture) else p, colours) for p in pictures]


def _scene(scene: Scene, colours: Colours) -> Markup:
    columns = [
        tag(
            "div",
            tag("h4", "scene"),
            picture_map(scene.image, "image"),
            picture_map(scene.truth, "ground truth", "ground truth"),
        )
    ]
    for name, found in scene.predictions.items():
        error, caption = scene.errors.get(name), scene.captions.get(name, "error")
        columns.append(
            tag(
                "div",
                tag("h4", swatch(colours.get(name, 0)), name),
                picture_map(found, f"answer of {name}"),
                None if error is None else picture_map(error, f"error of {name}", caption),
            )
        )
    facts = tag("small", scene.facts) if scene.facts else None
    return join(tag("h3", scene.name, " ", facts), tag("div", columns, class_="strip"))


def picture_map(image: NDArray[np.uint8], alt: str, caption: str = "") -> Markup:
    """Return a picture (H, W, 3) as part of a strip, shrunk, with its caption below."""
    small = shrink(image, _PICTURE_WIDTH)
    height, width = small.shape[:2]
    picture = tag("img", alt=alt, width=width, height=height, src=data_uri(small))
    return tag(
        "figure",
        tag("div", picture, class_="frame"),
        tag("figcaption", caption.replace(" %", "\u00a0%")) if caption else None,
        class_="map",
    )


def _legend() -> Markup:
    limits = [f"≤ {limit:g}" for limit in ERROR_LIMITS] + [f"> {ERROR_LIMITS[-1]:g}"]
    steps = [
        tag("li", tag("i", style=f"background:rgb({r},{g},{b})"), text)
        for (r, g, b), text in zip(ERROR_COLOURS.tolist(), limits, strict=True)
    ]
    return tag("ul", steps, class_="legend")


def training_curves(records: Sequence[RunRecord], colours: Colours) -> Markup | None:
    """Validation figures against steps and against wall-clock, then the loss terms of each run."""
    charts = []
    metrics = list(dict.fromkeys(key for record in records for key in record.keys("validate/")))
    rank = {metric: _rank(metric.rpartition("/")[2]) for metric in metrics}
    for metric in sorted(metrics, key=rank.__getitem__)[:_VALIDATION_METRICS]:
        written = metric_label(metric.rpartition("/")[2])
        label, unit, factor = written.heading, written.unit, written.factor
        for against, title, x_label, scale in (
            ("step", "steps", "steps", 1.0),
            ("time", "wall-clock", "minutes of training", 1 / 60),
        ):
            series = []
            for record in records:
                xs, ys = thin(*record.curve(metric, against))
                values = [y * factor for y in ys]
                series.append(Series(record.name, [x * scale for x in xs], values, colours[record.name]))
            y_label = f"{label}, {unit}" if unit else label
            charts.append(line_chart(series, f"Validation {label} against {title}", x_label, y_label))
    for record in records:
        keys = record.keys("loss/")
        if len(keys) == 2:
            keys = [key for key in keys if key != "loss/total"]  # which is the one term there is
        terms = [
            Series(key.removeprefix("loss/"), *thin(*record.curve(key)), i % SERIES_COLOURS)
            for i, key in enumerate(keys)
        ]
        positive = all(y > 0 for term in terms for y in term.ys)
        charts.append(line_chart(terms, f"Loss terms of {record.name}", "steps", "loss", log_y=positive))
    charts = [chart for chart in charts if chart]
    return tag("div", charts, class_="charts") if charts else None


def _rank(metric: str) -> int:
    return _PREFERRED.index(metric) if metric in _PREFERRED else len(_PREFERRED)


def recipes_of(records: Sequence[RunRecord]) -> Markup | None:
    """Every run's resolved recipe, folded."""
    folded = [_folded(record.name, tag("pre", record.recipe)) for record in records if record.recipe]
    return join(folded) if folded else None


def environments(records: Sequence[RunRecord]) -> Markup | None:
    """Machine and versions, folded: once for all runs that share them."""
    groups: list[tuple[list[str], Mapping[str, Any]]] = []
    for record in records:
        same = next((names for names, environment in groups if environment == record.environment), None)
        if same is not None:
            same.append(record.name)
        elif record.environment:
            groups.append(([record.name], record.environment))
    return join([_folded(", ".join(names), mapping_table(e)) for names, e in groups]) if groups else None


def _folded(summary: str, body: Markup) -> Markup:
    return tag("details", tag("summary", summary), body)
