"""Runs that differ by nothing but their seed, taken together: mean and standard deviation."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from .markup import Markup, tag
from .runs import RunRecord
from .tables import metric_columns

_OF_A_RUNG = re.compile(r"-seed\d+$")  # as a ladder with seeds names its rungs
_OF_A_RUN = re.compile(r"[-_ /.](seed)?[-_ .]?\d+$")  # as people end the names of such runs
_APART = re.compile(r"^(seed|name):.*$", re.MULTILINE)  # fields of a recipe that may differ


def groups_of(records: Sequence[RunRecord], names: Sequence[str]) -> dict[str, list[str]]:
    """Return the names of figures that differ by the seed alone, by a name without it.

    Args:
        records: the runs. The students of two runs belong together where their recipes do but for the seed
            and the name, those of a ladder where their rungs do.
        names: of the figures, as `figures_of` gives them.
    """
    found: dict[str, list[str]] = {}
    alike: dict[str, list[str]] = {}
    for record in records:
        if record.name in names and not record.staged and record.recipe:
            alike.setdefault(_APART.sub("", record.recipe), []).append(record.name)
    for members in alike.values():
        name = _OF_A_RUN.sub("", members[0])
        found[members[0] if name in found else name] = members
    if any(record.staged for record in records):
        for name in names:
            if _OF_A_RUNG.search(name):
                found.setdefault(_OF_A_RUNG.sub("", name), []).append(name)
    return {name: members for name, members in found.items() if len(members) > 1}


def over_seeds(records: Sequence[RunRecord], rows: Sequence[Mapping[str, Any]]) -> Markup | None:
    """Return a table of mean and standard deviation (of the sample) over the seeds of each recipe; None where
    every recipe was run once."""
    groups = groups_of(records, list(dict.fromkeys(str(row["name"]) for row in rows)))
    columns = metric_columns(rows)
    if not groups or not columns:
        return None
    heads = [
        tag(
            "th",
            " ".join(part for part in (column.group, column.label) if part),
            " ",
            tag("small", column.unit),
        )
        for column in columns
    ]
    lines = []
    for name, members in groups.items():
        cells = []
        for column in columns:
            values = [column.values[member] for member in members if member in column.values]
            cells.append(tag("td", _mean(values, column.digits)))
        lines.append(tag("tr", tag("td", name), tag("td", len(members)), cells))
    head = tag("tr", tag("th", "recipe"), tag("th", "seeds"), heads)
    return tag("div", tag("table", tag("thead", head), tag("tbody", lines), class_="plain"), class_="scroll")


def _mean(values: Sequence[float], digits: int) -> str:
    if not values:
        return "–"
    mean = f"{statistics.fmean(values):.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean
