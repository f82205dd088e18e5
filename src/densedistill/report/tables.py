"""The figures of a report as tables: which columns there are, and how a value is written."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .markup import Markup, tag

_CHOSEN = ("epe", "bad2", "d1")
_NOT_METRICS = ("images", "samples", "seconds_per_image")


@dataclass(frozen=True)
class Cost:
    """What a matcher takes to store and to run.

    Args:
        name: as in the rows of figures.
        parameters: their number, None for a matcher without any.
        macs: multiply-accumulates for one pair, None when they cannot be counted.
        latency: median seconds for one pair, None when not measured.
        size: (height, width) of the pair that `macs` and `latency` stand for.
        network: what it is, for example "dsnet_slim".
    """

    name: str
    parameters: int | None = None
    macs: float | None = None
    latency: float | None = None
    size: tuple[int, int] | None = None
    network: str = ""


@dataclass(frozen=True)
class Column:
    """One column of numbers; `group` stands above it, `values` is by matcher's name."""

    group: str
    label: str
    unit: str
    values: Mapping[str, float]
    digits: int
    larger_is_better: bool = False

    @property
    def best(self) -> float | None:
        """The best value, None where there is nothing to compare."""
        known = [value for value in self.values.values() if math.isfinite(value)]
        return self.better(known) if len(known) > 1 else None

    @property
    def better(self) -> Callable[..., Any]:
        """`min` or `max`, the way the column points."""
        return max if self.larger_is_better else min


@dataclass(frozen=True)
class Label:
    """How a metric is written: its heading, its unit, the factor to that unit, and the decimals."""

    heading: str
    unit: str = ""
    factor: float = 1.0
    digits: int = 3
    larger_is_better: bool = False


def metric_label(metric: str) -> Label:
    """Return how the figure `metric` of a row is written."""
    from ..errors import UserError
    from ..metrics import metric_info  # with torch, which a report without figures does not need

    try:
        info = metric_info(metric)
    except UserError:  # over some pixels only, or of whoever wrote the row
        return Label(metric)
    return Label(info.title, info.unit, info.factor, info.digits, info.larger_is_better)


def metrics_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the keys of rows that are figures of merit, in order."""
    return [
        key
        for key in dict.fromkeys(key for row in rows for key in row)
        if key not in _NOT_METRICS and any(_is_number(row.get(key)) for row in rows)
    ]


def metric_columns(rows: Sequence[Mapping[str, Any]]) -> list[Column]:
    """Return one column a data set and metric: EPE, bad-2 and D1, or all metrics without these."""
    metrics = metrics_of(rows)
    metrics = [metric for metric in _CHOSEN if metric in metrics] or metrics
    columns = []
    for data, metric in itertools.product(dict.fromkeys(str(row.get("data", "")) for row in rows), metrics):
        label = metric_label(metric)
        values = {
            str(row["name"]): float(row[metric]) * label.factor
            for row in rows
            if str(row.get("data", "")) == data and _is_number(row.get(metric))
        }
        if values:
            columns.append(
                Column(data, label.heading, label.unit, values, label.digits, label.larger_is_better)
            )
    return columns


def cost_columns(costs: Iterable[Cost]) -> list[Column]:
    """Return the columns parameters, MACs and latency, those that anything is known of."""
    costs = list(costs)
    columns = [
        Column(
            "cost",
            label,
            unit,
            {c.name: v * factor for c in costs if (v := getattr(c, key)) is not None},
            digits,
        )
        for key, label, unit, factor, digits in (
            ("parameters", "params", "M", 1e-6, 3),
            ("macs", "MACs", "G", 1e-9, 2),
            ("latency", "p50", "ms", 1e3, 1),
        )
    ]
    return [column for column in columns if column.values]


def results_table(
    names: Sequence[str], columns: Sequence[Column], colours: Mapping[str, int]
) -> Markup | None:
    """Return the sortable table: a line a network, the best of each column marked; None without figures."""
    if not names or not columns:
        return None
    groups = [(group, list(members)) for group, members in itertools.groupby(columns, lambda c: c.group)]
    first = {id(members[0]) for _, members in groups}
    heading = [tag("th", g, class_="group", colspan=len(members), scope="colgroup") for g, members in groups]
    labels = [
        tag(
            "th",
            tag("button", column.label, tag("small", column.unit) if column.unit else None),
            class_=_classes(column, first),
            scope="col",
        )
        for column in columns
    ]
    body = [
        tag(
            "tr",
            tag("th", swatch(colours.get(name, 0)), name, scope="row"),
            [_cell(column, name, _classes(column, first)) for column in columns],
        )
        for name in names
    ]
    head = tag(
        "thead",
        tag("tr", tag("td"), heading),
        tag("tr", tag("th", tag("button", "network"), scope="col"), labels),
    )
    return tag("div", tag("table", head, tag("tbody", body), class_="results sortable"), class_="scroll")


def swatch(colour: int) -> Markup:
    """Return a small square of the page's series colour."""
    return tag("i", class_="swatch", style=f"background:var(--series-{colour})")


def mapping_table(values: Mapping[str, Any]) -> Markup:
    """Return a nested mapping as a table of two columns, its keys joined by dots."""
    rows = [tag("tr", tag("th", key, scope="row"), tag("td", value)) for key, value in _flatten(values)]
    return tag("div", tag("table", tag("tbody", rows), class_="plain"), class_="scroll")


def _classes(column: Column, first: set[int]) -> str:
    return "number first" if id(column) in first else "number"


def _cell(column: Column, name: str, classes: str) -> Markup:
    value = column.values.get(name, math.nan)
    if not math.isfinite(value):
        return tag("td", "–", class_=f"{classes} none", data_value="inf")
    best = " best" if value == column.best else ""
    return tag("td", f"{value:.{column.digits}f}", class_=classes + best, data_value=f"{value:.6g}")


def _flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    flat: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat += _flatten(value, f"{prefix}{key}.")
        else:
            text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            flat.append((f"{prefix}{key}", text or "none"))
    return flat


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
