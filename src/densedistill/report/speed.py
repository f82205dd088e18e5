"""A benchmark as one self-contained HTML page: table, and accuracy against latency with its Pareto front."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..deployment.benchmark import Benchmark, Row
from ..files import write_text
from .charts import Series, dot_chart
from .markup import Markup, tag
from .page import document, header


def write_speed(result: Benchmark, path: str | os.PathLike[str]) -> Path:
    """Write the page of `result` to `path`, atomically, and return it; UserError when that cannot be."""
    front = result.front()
    sections = [tag("section", tag("h2", "Figures"), _table(result, front))]
    chart = pareto_chart(result)
    if chart is not None:
        words = "Nothing measured here is both faster and more accurate than: "
        aside = tag("p", words, ", ".join(row.label for row in front), ".", class_="aside")
        sections.insert(0, tag("section", tag("h2", "Accuracy against latency"), aside, chart))
    environment = result.environment
    where = ", ".join(environment["gpus"]) or environment["cpu"]["model"]
    versions = ", ".join(f"{name} {version}" for name, version in environment["packages"].items())
    notes = [
        f"{environment['threads']} threads; {versions}.",
        "A call takes 8-bit images and returns predictions of their size. Calls took turns.",
        "Share of peak: of the rate that a large 3x3 convolution reaches on this machine.",
    ]
    page = document("Speed", header("Speed", f"{where}, {result.date}", notes), sections)
    write_text(path, page)
    return Path(path)


def pareto_chart(result: Benchmark) -> Markup | None:
    """Return a dot a row, latency against the metric, rows of the Pareto front in colour; None without a
    metric."""
    if result.metric is None:
        return None
    front = {row.label for row in result.front()}
    points = [
        Series(row.label, [1e3 * row.p50], [row.accuracy[result.metric]], 0 if row.label in front else 7)
        for row in result.rows
        if result.metric in row.accuracy
    ]
    label = f"latency (p50), ms a call of {result.rows[0].batch}"
    return dot_chart(points, f"{result.metric} against latency", label, result.metric, width=900)


def _table(result: Benchmark, front: list[Row]) -> Markup:
    best = {row.label for row in front}
    headings = ["network", "runtime", "arithmetic", "p50 ms", "p90 ms", "p99 ms", "a second", "memory MB"]
    headings += ["M parameters", "GMACs", "share of peak"] + ([result.metric] if result.metric else [])
    lines = []
    for row in result.rows:
        cells: list[Any] = [row.name, row.runtime, row.precision]
        cells += [f"{1e3 * value:.2f}" for value in (row.p50, row.p90, row.p99)]
        cells += [f"{row.throughput:.2f}", _number(row.memory, 2**20), _number(row.parameters, 1e6)]
        cells += [_number(row.macs, 1e9), "" if row.peak_share is None else f"{row.peak_share:.1%}"]
        if result.metric:
            cells.append(_number(row.accuracy.get(result.metric), 1))
        mark = "best" if row.label in best else None
        lines.append(tag("tr", [tag("td", cell, class_=mark) for cell in cells]))
    head = tag("thead", tag("tr", [tag("th", heading) for heading in headings]))
    return tag("div", tag("table", head, tag("tbody", lines)), class_="scroll")


def _number(value: float | None, unit: float) -> str:
    return "" if value is None else f"{value / unit:.3f}"
