"""The table and the legends of a page, as HTML."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from PIL import Image

from ..report.markup import Markup, tag
from ..tasks import Task
from ..tasks.colours import PALETTE, labels_of
from .panel import DRAWN, Comparison, Panel, has_classes

_TITLES = {"logits": "classes", DRAWN: "detections", "disparity_next": "disparity at the next time"}
_STOPS = 24  # of a gradient
_WHEEL = 33  # px from the middle of a flow legend to its rim


def title_of(key: str) -> str:
    """Return what the output `key` is called on the page."""
    return _TITLES.get(key, key.replace("_", " "))


def table(panel: Panel, found: Comparison) -> Markup:
    """Return the networks with time, parameters and, on a scene that ships, their figures; the best of each
    column in bold."""
    names = list(dict.fromkeys(name for answer in found.answers.values() for name in answer.figures))
    if names:
        from ..metrics import metric_info
    infos = [metric_info(name) for name in names]
    head = ["network", "arithmetic", "time, ms", "parameters, M"]
    head += [f"{info.title}, {info.unit}" if info.unit else info.title for info in infos]
    best = {
        info.name: (max if info.larger_is_better else min)(
            a.figures[info.name] for a in found.answers.values()
        )
        for info in infos
    }
    rows = []
    for label, answer in found.answers.items():
        size = "–" if answer.parameters is None else f"{answer.parameters / 1e6:.2f}"
        texts = (label, answer.precision, f"{1000 * answer.seconds:.0f}", size)
        cells = [tag("td", text) for text in texts]
        for info in infos:
            value = answer.figures[info.name]
            leads = len(found.answers) > 1 and value == best[info.name]
            cells.append(tag("td", tag("b", info.write(value)) if leads else info.write(value)))
        rows.append(tag("tr", cells))
    for label, message in found.refused.items():
        rows.append(tag("tr", tag("td", label), tag("td", message, colspan=len(head) - 1)))
    height, width = found.size
    notes = [
        f"{width}×{height} px. Time is of this one request, and the first of a size takes longer; "
        "densedistill benchmark measures it properly."
    ]
    if found.example:
        limits = panel.protocol.limits_in_words(panel.task, panel.max_disparity)
        words = "; ".join(word for word in (panel.protocol.says, limits) if word)
        notes.append(f" Figures are of {found.example}, which ships with its ground truth: {words}.")
    return tag(
        "div",
        tag("div", tag("table", tag("tr", [tag("th", cell) for cell in head]), rows), class_="scroll"),
        tag("p", *notes, class_="aside"),
        class_="dd",
    )


def legend(task: Task, key: str, found: Comparison) -> Markup:
    """Return what the colours of the output `key` mean."""
    if key == DRAWN:
        body: Any = "boxes with a score of 0.3 or more"
    elif has_classes(task, key):
        body = _classes(key, found)
    elif key in task.pixels and next(iter(found.answers.values())).outputs[key].ndim == 3:
        body = _wheel(task, key, found)
    else:
        body = _bar(task, key, found)
    parts = [tag("b", title_of(key)), tag("span", body, class_="key")]
    if any(key in answer.errors for answer in found.answers.values()):
        parts.append(tag("span", "error below: blue is right, yellow to red is wrong, black is unknown"))
    return tag("div", parts, class_="dd legend")


def _bar(task: Task, key: str, found: Comparison) -> list[Any]:
    low, high = found.ranges[key]
    values = np.linspace(low, high, _STOPS, dtype=np.float32)[None]
    colours = task.colours[key](values, None, low, high)[0]
    gradient = ", ".join(f"rgb({r},{g},{b})" for r, g, b in colours)
    # Maps that are not in pixels are in metres.
    unit = "px" if key in task.pixels else "m"
    words = [f"{value:.1f} {unit}" if high < 10 else f"{value:.0f} {unit}" for value in (low, high)]
    if key in task.pixels and found.calibration is not None:
        metres = found.calibration.depth(np.array([low, high]))
        words = [f"{word} ({depth:.2f} m)" for word, depth in zip(words, metres, strict=True)]
    bar = tag("i", style=f"background: linear-gradient(90deg, {gradient})", class_="bar")
    return [words[0], bar, words[1]]


def _wheel(task: Task, key: str, found: Comparison) -> list[Any]:
    _, high = found.ranges[key]
    rows, columns = np.mgrid[-_WHEEL : _WHEEL + 1, -_WHEEL : _WHEEL + 1] / _WHEEL
    inside = np.hypot(rows, columns) <= 1
    picture = task.colours[key](np.stack((columns, rows)) * high, inside, 0.0, high)
    pixels = np.dstack((picture, np.where(inside, 255, 0).astype(np.uint8)))
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    source = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    return [tag("img", src=source, alt="colour wheel", class_="wheel"), f"where to; {high:.0f} px at the rim"]


def _classes(key: str, found: Comparison) -> list[Any]:
    present = np.unique(
        np.concatenate([np.unique(labels_of(a.outputs[key])) for a in found.answers.values()])
    )
    names = next((answer.classes for answer in found.answers.values() if answer.classes), ())
    parts: list[Any] = []
    for number in map(int, present):
        red, green, blue = PALETTE[(number + 1) % 256]
        parts.append(tag("i", style=f"background: rgb({red},{green},{blue})", class_="swatch"))
        parts.append(names[number] if number < len(names) else str(number))
    return parts
