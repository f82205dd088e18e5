"""One self-contained HTML page: no file, font or script from outside, so that it can be mailed and kept."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import write_text
from .charts import SERIES_COLOURS
from .markup import Markup, join, tag
from .pictures import Picture, Scene
from .runs import RunRecord, read_runs
from .sections import accuracy_against_cost, environments, pictures_of, recipes_of, training_curves
from .seeds import over_seeds
from .tables import Column, Cost, cost_columns, metric_columns, results_table


def write_report(
    runs: Sequence[RunRecord | str | os.PathLike[str]],
    path: str | os.PathLike[str],
    *,
    rows: Sequence[Mapping[str, Any]] | None = None,
    costs: Sequence[Cost] = (),
    pictures: Sequence[Picture | Scene] = (),
    title: str | None = None,
    summary: str | None = None,
    notes: Sequence[str] = (),
) -> Path:
    """Write the report of `runs` to the HTML file `path` and return it; the same input gives the same bytes.

    Args:
        runs: run directories, or what `read_run` made of them; gives curves, recipes and environments.
        path: the file; its folder is made when missing.
        rows: figures, each a mapping with `name`, `data` and metrics (errors in px, shares in [0, 1]);
            None for the runs' own final figures.
        costs: parameters, MACs and latency by the rows' names.
        pictures: scenes to show with everybody's disparity and error.
        title, summary: heading and first sentence; None for ones made from the figures.
        notes: what a reader has to know of how the figures came about, one short phrase each.

    Raises:
        UserError: there is nothing to report, a directory is no run, or the file cannot be written.
    """
    if not runs and not rows:
        raise UserError("a report needs at least one run directory")
    paths = [run for run in runs if not isinstance(run, RunRecord)]
    records = [run for run in runs if isinstance(run, RunRecord)] + read_runs(paths)
    figures = list(rows) if rows is not None else figures_of(records)
    title = title or "Report of " + ", ".join(record.name for record in records)
    summary = summarise(figures) if summary is None else summary

    names = list(dict.fromkeys([str(row["name"]) for row in figures] + [cost.name for cost in costs]))
    known = dict.fromkeys(names + [record.name for record in records])
    colours = {name: i % SERIES_COLOURS for i, name in enumerate(known)}
    columns = metric_columns(figures)
    table = results_table(names, columns + cost_columns(costs), colours)
    sections = (
        ("Results", [_how(costs, columns), table] if table else None),
        ("Mean and deviation over seeds", over_seeds(records, figures)),
        ("Accuracy against cost", accuracy_against_cost(figures, costs, colours)),
        (_heading(pictures), pictures_of(pictures, colours)),
        ("Training", training_curves(records, colours)),
        ("Recipes", recipes_of(records)),
        ("Environment", environments(records)),
    )
    body = [tag("section", tag("h2", heading), content) for heading, content in sections if content]
    text = document(title, header(title, summary, notes), body)
    write_text(path, text)
    return Path(path)


def figures_of(records: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """Return the final figures of several runs in one list; a run's student bears the run's name,
    the students of a chain or ladder those of their stages. A teacher of whom several runs say the same
    stands there once."""
    rows: list[dict[str, Any]] = []
    owners: dict[tuple[str, str], list[str]] = {}
    for record in records:
        for name, own in _by_name(record).items():
            owners.setdefault((name, _figures(own)), []).append(record.name)
    for record in records:
        for name, own in _by_name(record).items():
            runs = owners[name, _figures(own)]
            if name == "student" and not record.staged:
                label = record.name
            elif record.name != runs[0]:
                continue
            elif len(records) == 1 or (len(runs) > 1 and sum(name == other for other, _ in owners) == 1):
                label = name
            else:
                label = f"{', '.join(runs)}: {name}"
            rows += [{**row, "name": label, "data": str(row.get("data", ""))} for row in own]
    return rows


def _by_name(record: RunRecord) -> dict[str, list[Mapping[str, Any]]]:
    rows: dict[str, list[Mapping[str, Any]]] = {}
    for row in record.rows:
        rows.setdefault(str(row.get("name", "student")), []).append(row)
    return rows


def _figures(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return what `rows` say as text, but for the time they took, which is never the same."""
    return json.dumps([{**row, "seconds_per_image": None} for row in rows], sort_keys=True)


def summarise(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return one sentence that names the best matcher on every data set; "" without figures."""
    firsts = {column.group: column for column in reversed(metric_columns(rows))}
    parts = []
    for data, column in reversed(firsts.items()):
        best = column.better(column.values, key=lambda name: column.values[name])
        where = f" on {data}" if data else ""
        parts.append(
            f"{best} has an {column.label} of {column.values[best]:.2f} {column.unit}".rstrip() + where
        )
    if not parts:
        return ""
    several = len({row["name"] for row in rows}) > 1
    least = not any(column.larger_is_better for column in firsts.values())
    return (("Least errors: " if least else "Best: ") if several else "") + "; ".join(parts) + "."


def _heading(pictures: Sequence[Picture | Scene]) -> str:
    stereo = any(isinstance(picture, Picture) for picture in pictures)
    return "Disparity and error" if stereo else "Pictures"


def _how(costs: Sequence[Cost], columns: Sequence[Column]) -> Markup:
    sizes = dict.fromkeys(c.size for c in costs if c.size and (c.macs is not None or c.latency is not None))
    words = " or ".join(f"{width}×{height}" for height, width in sizes)
    cost = f"Cost is of one pair of {words} px. " if words else ""
    larger = ", ".join(dict.fromkeys(column.label for column in columns if column.larger_is_better))
    better = f"More is better in {larger}, less in all else" if larger else "Less is better in every column"
    return tag("p", f"{cost}{better}; click a heading to sort.", class_="aside")


def header(title: str, summary: str, notes: Sequence[str]) -> Markup:
    return tag(
        "header",
        tag("p", "densedistill", class_="brand"),
        tag("h1", title),
        tag("p", summary, class_="summary") if summary else None,
        tag("ul", [tag("li", note) for note in notes], class_="notes") if notes else None,
    )


def document(title: str, header: Markup, sections: Sequence[Markup]) -> str:
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", _asset("style.css")),
    )
    body = tag("body", header, tag("main", list(sections)), tag("script", _asset("script.js")))
    return "<!doctype html>\n" + tag("html", head, join("\n"), body, lang="en") + "\n"


def _asset(name: str) -> Markup:
    return Markup("\n" + (resources.files("densedistill.report") / name).read_text(encoding="utf-8"))
