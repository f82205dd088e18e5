"""HTML and SVG elements from Python values; text is escaped unless it is `Markup` already."""

from __future__ import annotations

from html import escape
from typing import Any

_EMPTY = frozenset({"br", "circle", "img", "line", "meta", "polyline"})


class Markup(str):
    """Text that is HTML, and is not escaped again."""


def join(*children: Any) -> Markup:
    """Return the children one after the other: text is escaped, lists are flattened, None leaves nothing."""
    parts: list[str] = []
    for child in children:
        if isinstance(child, list | tuple):
            parts.append(join(*child))
        elif child is not None:
            parts.append(child if isinstance(child, Markup) else escape(str(child)))
    return Markup("".join(parts))


def tag(name: str, /, *children: Any, **attributes: Any) -> Markup:
    """Return the element `name`: `class_` is written `class`, `data_value` is written `data-value`.

    An attribute that is None or False is left out, one that is True stands without a value.
    """
    written = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in _EMPTY:
        return Markup(f"<{name}{written}>" if name in ("br", "img", "meta") else f"<{name}{written}/>")
    return Markup(f"<{name}{written}>{join(*children)}</{name}>")


def _attribute(key: str, value: Any) -> str:
    if value is None or value is False:
        return ""
    key = key.rstrip("_").replace("_", "-")
    return f" {key}" if value is True else f' {key}="{escape(str(value))}"'
