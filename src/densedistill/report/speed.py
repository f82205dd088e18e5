"""A benchmark as one self-contained HTML page: table, and accuracy against latency with its Pareto front."""

from __future__ import annotations

import os
from pathlib import Path

from ..deployment.benchmark import Benchmark, Row
from ..files import write_text
from .charts import Series, dot_chart
from .markup import Markup, tag
from .page import document, header
from .tables import metric_label


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
    versions = ", ".join(f"{name} {version}" for name, version in environment["packages"].items())
    notes = [
        f"{versions}.",
        "A call takes 8-bit images and returns predictions of their size. Calls took turns.",
        "Share of peak: of the rate that a large 3x3 convolution reaches on this machine.",
    ]
    heading = header("Speed", f"{result.what}, {result.where}, {result.date}", notes)
    page = document("Speed", heading, sections)
    write_text(path, page)
    return Path(path)


def pareto_chart(result: Benchmark) -> Markup | None:
    """Return a dot a row, latency against the metric, rows of the Pareto front in colour; None without a
    metric."""
    if result.metric is None:
        return None
    front, written = {row.label for row in result.front()}, metric_label(result.metric)
    points = [
        Series(
            row.label.removesuffix(" · float32"),
            [1e3 * row.p50],
            [row.accuracy[result.metric] * written.factor],
            0 if row.label in front else 7,
        )
        for row in result.rows
        if result.metric in row.accuracy
    ]
    batch = result.rows[0].batch
    label = "latency (p50), ms a call" + (f" of {batch} samples" if batch > 1 else "")
    accuracy = f"{written.heading}, {written.unit}" if written.unit else written.heading
    title = f"{written.heading} against latency"
    return dot_chart(points, title, label, accuracy, width=900, height=420)


def _table(result: Benchmark, front: list[Row]) -> Markup:
    best = {row.label for row in front}
    words = ["network", "runtime", "arithmetic"]
    headings = result.rows[0].figures(result.metric)
    lines = []
    for row in result.rows:
        cells = row.figures(result.metric).values()
        mark = " best" if row.label in best else ""
        name = tag("th", row.name, scope="row")
        said = [tag("td", word, class_=mark.strip() or None) for word in (row.runtime, row.precision)]
        numbers = [tag("td", cell or "–", class_=f"number{mark}", data_value=cell or "inf") for cell in cells]
        lines.append(tag("tr", name, said, numbers))
    head = [tag("th", tag("button", word), scope="col") for word in words]
    head += [tag("th", tag("button", heading), class_="number", scope="col") for heading in headings]
    body = tag("tbody", lines)
    return tag(
        "div", tag("table", tag("thead", tag("tr", head)), body, class_="results sortable"), class_="scroll"
    )
