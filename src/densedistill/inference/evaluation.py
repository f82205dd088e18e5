"""What an evaluation found: rows, a table of them, and JSON."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from ..files import to_json, write_text
from ..metrics import MetricInfo, metric_info
from ..tasks import get_task
from .protocols import MASK_WORDS

_AVERAGES = {
    "pixels": "pooled over pixels",
    "images": "mean over images",
    "published": "mean over images as published",
}
_UNITS = {"%": "share in [0, 1]"}
_NOT_METRICS = ("name", "data", "images", "precision", "seconds_per_image", "sample")


@dataclass
class Evaluation:
    """Figures of every network on every data set.

    `rows` are dicts with `name`, `data`, `images`, `precision`, `seconds_per_image` (median) and one entry a
    metric: for stereo `epe` and `rms` in px, shares (`d1`, `bad2`, …) in [0, 1]; `_noc`, `_bg`, `_fg` tell
    over which pixels. `samples` are the same for each sample; `limits` says what ground truth counts.
    `metrics` are the entries of the metrics that were asked for, which the table shows also where there was
    nothing to measure.
    """

    protocol: str
    says: str
    average: str
    max_disparity: float | None
    rows: list[dict[str, Any]] = field(default_factory=list)
    samples: list[dict[str, Any]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    task: str = "stereo"
    limits: str = ""
    metrics: list[str] = field(default_factory=list)

    @property
    def caption(self) -> str:
        """The protocol, the pixels, the averaging, the units and the precision, in one sentence each."""
        masks = dict.fromkeys(_mask(key) for key in figures_of(self.rows))
        parts = [f"Protocol {self.protocol}: {self.says}"]
        words = [*(MASK_WORDS[mask] for mask in masks), self.limits, _AVERAGES[self.average]]
        parts.append("; ".join(word for word in words if word))
        parts += [units] if (units := self._units()) else []
        precisions: dict[str, list[str]] = {}
        for row in self.rows:
            names = precisions.setdefault(row["precision"], [])
            if row["name"] not in names:
                names.append(row["name"])
        if len(precisions) == 1:
            parts.append(f"Precision {next(iter(precisions))}")
        else:
            parts.append(
                "Precision " + ", ".join(f"{p} ({', '.join(names)})" for p, names in precisions.items())
            )
        if self.missing:
            parts.append(f"Not given: {', '.join(self.missing)}")
        return ". ".join(parts) + "."

    @property
    def _infos(self) -> list[MetricInfo]:
        """What the metrics of the columns say of themselves, each once, whatever its pixels."""
        keys = [*self.metrics, *figures_of(self.rows)]
        return [metric_info(name) for name in dict.fromkeys(map(_name, keys))]

    def _units(self) -> str:
        """Return the units of the figures, in words; the task's own where it has some."""
        named: dict[str, list[str]] = {}
        for info in self._infos:
            named.setdefault(info.unit, []).append(info.heading)
        said = ", ".join(f"{' and '.join(names)} in {unit}" for unit, names in named.items() if unit)
        return get_task(self.task).units or said

    def table(self) -> Table:
        """Return the rows as a rich table, networks below each other, the best of each group in bold."""
        table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
        table.caption, table.caption_justify = escape(self.caption), "left"
        table.add_column("network", overflow="fold")
        table.add_column("data", overflow="fold")
        table.add_column("pixels", no_wrap=True)
        for heading in (*(info.heading for info in self._infos), "s/image"):
            table.add_column(heading, justify="right", no_wrap=True)
        for data in dict.fromkeys(row["data"] for row in self.rows):
            rows = [row for row in self.rows if row["data"] == data]
            for mask in dict.fromkeys(_mask(key) for key in figures_of(rows) or self.metrics):
                table.add_section()
                keys = [_key(info.name, mask) for info in self._infos]
                for row in rows:
                    seconds = "" if row["seconds_per_image"] is None else f"{row['seconds_per_image']:.3g}"
                    cells = [_cell(key, row, rows) for key in keys]
                    name, count = escape(row["name"]), row["images"]
                    table.add_row(name, f"{escape(data)} ({count})", mask, *cells, seconds)
        return table

    def __rich__(self) -> Table:
        return self.table()

    def width(self, least: int) -> int:
        """Return the width, in letters, at which no figure is cut off: `least`, or more."""
        console = Console(width=least)
        wide = console.options.update(width=10_000)
        return max(least, Measurement.get(console, wide, self.table()).minimum)

    def __str__(self) -> str:
        console = Console(width=self.width(120), color_system=None)
        with console.capture() as capture:
            console.print(self.table())
        return capture.get()

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values; shares in [0, 1]."""
        units = {info.name: _UNITS.get(info.unit, info.unit) for info in self._infos}
        return {"caption": self.caption, "units": units, **vars(self)}

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Evaluation:
        """Return the evaluation that `to_dict` made `found` of, or of what `write_json` wrote of it."""
        return cls(**{field.name: found[field.name] for field in fields(cls) if field.name in found})

    def write_json(self, path: str | os.PathLike[str]) -> Path:
        """Write `to_dict` to `path`, atomically, what is not finite as null, and return the path."""
        write_text(path, to_json(self.to_dict(), indent=1) + "\n")
        return Path(path)


def table_of(found: Mapping[str, Any]) -> str:
    """Return the table of an evaluation in plain values, a run's `metrics.json` for example, as text."""
    return str(Evaluation.from_dict(found)) if found["rows"] else "nothing was evaluated"


def write_figure(key: str, value: float) -> str:
    """Return the figure `key` of a row as a table has it, with its unit."""
    info = metric_info(_name(key))
    return f"{info.write(value)} {info.unit}".rstrip()


def figures_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the keys of `rows` that are figures of merit, in order."""
    return list(dict.fromkeys(key for row in rows for key in row if key not in _NOT_METRICS))


def _name(key: str) -> str:
    return key if _mask(key) == "all" else key.removesuffix(f"_{_mask(key)}")


def _mask(key: str) -> str:
    return next((mask for mask in MASK_WORDS if key.endswith(f"_{mask}")), "all")


def _key(name: str, mask: str) -> str:
    return name if mask == "all" else f"{name}_{mask}"


def _cell(key: str, row: dict[str, Any], rows: Sequence[dict[str, Any]]) -> str:
    if key not in row:  # nothing to measure
        return "–"
    if row[key] is None:  # as a file says what is not finite; what is no number at all has no entry
        return "inf"
    info = metric_info(_name(key))
    best = max if info.larger_is_better else min
    is_best = len(rows) > 1 and row[key] == best(other[key] for other in rows if other.get(key) is not None)
    return f"[bold]{info.write(row[key])}[/bold]" if is_best else info.write(row[key])
