"""Charts as inline SVG: lines, dots and nothing that needs a library.

Colours are CSS variables (`--series-0` …), so that a chart follows the page into dark mode and on to paper.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

from .markup import Markup, tag

SERIES_COLOURS = 8
_LEFT, _TOP, _BOTTOM = 52, 12, 38  # margins in px
_DRAWN = (".grid", ".axis", ".line")
_CHARACTER = 7.3  # mean advance of the page's bold 12 px sans-serif where it is wide, in px


@dataclass(frozen=True)
class Series:
    """One line or dot: `xs` and `ys` of equal length, `colour` an index into the page's series colours."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    colour: int = 0


def thin(xs: Sequence[float], ys: Sequence[float], limit: int = 160) -> tuple[list[float], list[float]]:
    """Return at most `limit` points: means over equal stretches, so that a long noisy curve stays small."""
    if len(xs) <= limit:
        return list(xs), list(ys)
    stretches = list(itertools.pairwise(round(i * len(xs) / limit) for i in range(limit + 1)))
    return (
        [sum(xs[a:b]) / (b - a) for a, b in stretches],
        [sum(ys[a:b]) / (b - a) for a, b in stretches],
    )


def linear_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return about `count` round numbers (1, 2 or 5 times a power of ten apart) within [`low`, `high`]."""
    if high <= low:
        return [low]
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Return the numbers 1, 2 and 5 times a power of ten within [`low`, `high`]; powers alone when many, and
    linear ticks where that leaves less than two."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [float(f"{m}e{e}") for e in exponents for m in (1, 2, 5)]
    ticks = [t for t in ticks if low * 0.999 <= t <= high * 1.001]
    if len(ticks) < 2:
        return linear_ticks(low, high)
    if len(ticks) <= 8:
        return ticks
    return [t for t in ticks if math.isclose(10 ** round(math.log10(t)), t)]


def number(value: float) -> str:
    """Return `value` in at most four significant digits, with k, M and G from ten thousand on."""
    for factor, suffix, least in ((1e9, "G", 1e9), (1e6, "M", 1e6), (1e3, "k", 1e4)):
        if abs(value) >= least * 0.9999:
            return f"{value / factor:.3g}{suffix}"
    return f"{value:.4g}"


def line_chart(
    series: Sequence[Series],
    title: str,
    x_label: str,
    y_label: str,
    *,
    log_y: bool = False,
    width: int = 560,
    height: int = 300,
) -> Markup | None:
    """Return a line through the points of each series, with its name at its end; None without points."""
    series = [s for s in (_clean(s, log_y=log_y) for s in series) if s.xs]
    if not series:
        return None
    right = _label_width(series)
    xs, ys = [v for s in series for v in s.xs], [v for s in series for v in s.ys]
    whole = all(float(value).is_integer() for value in xs)  # steps, which have no halves
    x = _Axis(min(xs), max(xs), _LEFT, width - right, whole=whole)
    y = _Axis(*_bounds(ys, log_y), height - _BOTTOM, _TOP, log_y)
    body = _frame(x, y, x_label, y_label, width, height, right)
    for s in series:
        points = " ".join(f"{_n(x(a))},{_n(y(b))}" for a, b in zip(s.xs, s.ys, strict=True))
        body.append(tag("polyline", class_="line", style=f"stroke:var(--series-{s.colour})", points=points))
        if len(s.xs) <= 40:
            body += [
                _dot(x(a), y(b), s, f"{number(a)}: {number(b)}", 2.6) for a, b in zip(s.xs, s.ys, strict=True)
            ]
    body += _names(series, [x(s.xs[-1]) + 7 for s in series], [y(s.ys[-1]) for s in series], height)
    return _drawing(title, width, height, body)


def dot_chart(
    points: Sequence[Series], title: str, x_label: str, y_label: str, *, width: int = 560, height: int = 300
) -> Markup | None:
    """Return a named dot at each series' first point, x on a logarithmic axis; None without points.

    The other axis begins at 0 where that is near, else a little below the least dot.
    """
    points = [p for p in (_clean(p, log_x=True) for p in points) if p.xs]
    if not points:
        return None
    xs, ys = [p.xs[0] for p in points], [p.ys[0] for p in points]
    whole = _Axis(*_bounds(xs, True), _LEFT, width, True)
    right = max(_beyond(whole(x), p, width) for x, p in zip(xs, points, strict=True))
    x = _Axis(whole.low, whole.high, _LEFT, width - right, True)
    margin = 0.05 * max(map(abs, ys))
    low = 0.0 if 0 <= min(ys) < max(ys) / 3 else min(ys) - margin
    y = _Axis(low, max(ys) + (margin or 1.0), height - _BOTTOM, _TOP, count=height // 60)
    body = _frame(x, y, x_label, y_label, width, height, right)
    dots = [(x(p.xs[0]), y(p.ys[0]), p) for p in points]
    body += _names_between(dots, height)
    body += [_dot(a, b, p, f"{number(p.xs[0])}, {number(p.ys[0])}", 5.5) for a, b, p in dots]
    return _drawing(title, width, height, body)


def standalone(chart: Markup) -> str:
    """Return a chart as the text of an SVG file, on white; its title is left to the page that shows it."""
    css = (files(__package__) / "style.css").read_text(encoding="utf-8")
    rules = [rule for rule in css.splitlines() if rule.startswith((".chart text", ".chart .name", *_DRAWN))]
    style = tag("style", Markup(css[: css.index("}") + 1] + "\n".join(rules)))
    opening, _, body = chart[chart.index("<svg ") : chart.index("</figure>")].partition(">")
    root = 'svg xmlns="http://www.w3.org/2000/svg" class="chart" style="background:#fff"'
    return opening.replace("svg", root, 1) + ">" + style + body


@dataclass(frozen=True)
class _Axis:
    """Maps values within [`low`, `high`] to positions from `start` to `end` in the drawing; a single value
    to the middle."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False
    whole: bool = False
    count: int = 5  # of ticks, about

    def __call__(self, value: float) -> float:
        low, high = self.low, self.high
        if low == high:
            return (self.start + self.end) / 2
        if self.log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    @property
    def ticks(self) -> list[float]:
        ticks = log_ticks(self.low, self.high) if self.log else linear_ticks(self.low, self.high, self.count)
        return [tick for tick in ticks if not self.whole or float(tick).is_integer()]


def _bounds(values: Sequence[float], log: bool) -> tuple[float, float]:
    low, high = min(values), max(values)
    if log:
        return low / 1.15, high * 1.15
    margin = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    return low - margin, high + margin


def _clean(s: Series, log_x: bool = False, log_y: bool = False) -> Series:
    """Leave out what cannot be drawn: NaN, infinity, and what a logarithm cannot take."""
    kept = [
        (a, b)
        for a, b in zip(s.xs, s.ys, strict=True)
        if math.isfinite(a) and math.isfinite(b) and (a > 0 or not log_x) and (b > 0 or not log_y)
    ]
    return Series(s.name, [a for a, _ in kept], [b for _, b in kept], s.colour % SERIES_COLOURS)


def _beyond(x: float, s: Series, width: int) -> float:
    """Return how much narrower than `width` a drawing must be for the name of the dot at `x` to fit in."""
    return max(14.0, width - _LEFT - (width - _LEFT - 14 - _width(s)) * (width - _LEFT) / (x - _LEFT))


def _label_width(series: Sequence[Series]) -> float:
    return 14 + max(_width(s) for s in series)


def _width(s: Series) -> float:
    return len(s.name) * _CHARACTER


def _names(series: Sequence[Series], xs: Sequence[float], ys: Sequence[float], height: int) -> list[Markup]:
    """Names right of the points (`xs`, `ys`), moved apart vertically where they would overlap."""
    placed = list(ys)
    for cluster in _overlapping([(x, x + _width(s)) for s, x in zip(series, xs, strict=True)]):
        for i, y in zip(cluster, _spread([ys[i] for i in cluster], 14, _TOP, height - _BOTTOM), strict=True):
            placed[i] = y
    return [_name(s, x, y) for s, x, y in zip(series, xs, placed, strict=True)]


def _names_between(dots: Sequence[tuple[float, float, Series]], height: int) -> list[Markup]:
    """Names right of the dots (x, y), each at the nearest height where no dot and no other name is."""
    taken = [(x - 6.0, x + 6.0, y, 11) for x, y, _ in dots]  # left, right, middle, least distance to a name

    def clear(x: float, y: float, s: Series) -> bool:
        left, right = x + 10, x + 10 + _width(s)
        inside = _TOP <= y <= height - _BOTTOM
        return inside and not any(a < right and b > left and abs(y - at) < gap for a, b, at, gap in taken)

    names = []
    for x, y, s in sorted(dots, key=lambda dot: (not clear(*dot), dot[:2])):
        heights = (y + side * 14 * row for row in range(height // 14) for side in (-1, 1))
        at = next((at for at in heights if clear(x, at, s)), y)
        taken.append((x + 10, x + 10 + _width(s), at, 13))
        if abs(at - y) > 20:
            stroke = f"stroke:var(--series-{s.colour})"
            names.append(tag("line", style=stroke, x1=_n(x), y1=_n(y), x2=_n(x + 10), y2=_n(at)))
        names.append(_name(s, x + 10, at))
    return names


def _name(s: Series, x: float, y: float) -> Markup:
    return tag("text", s.name, class_="name", x=_n(x), y=_n(y + 4), style=f"fill:var(--series-{s.colour})")


def _overlapping(spans: Sequence[tuple[float, float]]) -> list[list[int]]:
    """Return the spans' indices in clusters: within one, each overlaps another."""
    clusters: list[list[int]] = []
    end = -math.inf
    for i in sorted(range(len(spans)), key=lambda i: spans[i]):
        if spans[i][0] > end:
            clusters.append([])
        clusters[-1].append(i)
        end = max(end, spans[i][1])
    return clusters


def _spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move label positions apart to at least `gap`: downwards first, then back up from `high`."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    placed = list(wanted)
    floor = low
    for i in order:
        placed[i] = floor = max(placed[i], floor)
        floor += gap
    ceiling = high
    for i in reversed(order):
        placed[i] = ceiling = min(placed[i], ceiling)
        ceiling -= gap
    return placed


def _frame(
    x: _Axis, y: _Axis, x_label: str, y_label: str, width: int, height: int, right: float
) -> list[Markup]:
    bottom, end = height - _BOTTOM, _n(width - right)
    parts = []
    for tick in y.ticks:
        parts.append(tag("line", class_="grid", x1=_LEFT, x2=end, y1=_n(y(tick)), y2=_n(y(tick))))
        parts.append(tag("text", number(tick), x=_LEFT - 6, y=_n(y(tick) + 4), text_anchor="end"))
    for tick in x.ticks:
        parts.append(tag("text", number(tick), x=_n(x(tick)), y=bottom + 16, text_anchor="middle"))
    parts.append(tag("line", class_="axis", x1=_LEFT, x2=end, y1=bottom, y2=bottom))
    parts.append(tag("text", x_label, x=_n((_LEFT + width - right) / 2), y=height - 5, text_anchor="middle"))
    turned = f"translate(11 {_n((_TOP + bottom) / 2)}) rotate(-90)"
    parts.append(tag("text", y_label, transform=turned, text_anchor="middle"))
    return parts


def _dot(x: float, y: float, s: Series, figures: str, radius: float) -> Markup:
    circle = tag("circle", cx=_n(x), cy=_n(y), r=radius, style=f"fill:var(--series-{s.colour})")
    return tag("g", tag("title", f"{s.name}, {figures}"), circle)


def _drawing(title: str, width: int, height: int, body: list[Markup]) -> Markup:
    svg = tag("svg", body, viewBox=f"0 0 {width} {height}", role="img", aria_label=title)
    return tag("figure", tag("figcaption", title), svg, class_="chart")


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
