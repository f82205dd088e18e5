"""A hook of MkDocs that writes tables and the command line's reference from the program itself.

A line `<!-- generated: NAME -->` in a page is replaced by what the function NAME below returns.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import re
from typing import Any

_MARK = re.compile(r"^<!-- generated: (\w+) -->$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by MkDocs for each page."""
    return _MARK.sub(lambda match: _SECTIONS[match[1]](), markdown)


def verbs() -> str:
    """Every verb with its help, as the program prints it."""
    from densedistill.cli import VERBS, make_parser

    parts = []
    for verb, does in VERBS.items():
        parser = make_parser(importlib.import_module(f"densedistill.cli.{verb}"))
        parser.formatter_class = lambda prog: _Wide(prog, width=96)  # type: ignore[assignment]
        text = parser.format_help().rstrip()
        parts.append(f"## {verb}\n\n{does[0].upper()}{does[1:]}.\n\n```text\n{text}\n```\n")
    return "\n".join(parts)


def recipes() -> str:
    """The recipes that ship, with their descriptions."""
    from densedistill.recipes import describe, list_recipes

    lines = ["| recipe | what it does |", "|---|---|"]
    return "\n".join(lines + [f"| `{name}` | {describe(name)} |" for name in list_recipes()])


def networks() -> str:
    """The stereo networks with parameters and MACs at 256x512, the paper's count beside the true one."""
    from densedistill.networks import list_models
    from densedistill.networks.counting import count_model

    lines = ["| network | parameters, M | MACs, G | MACs by the papers' rule, G |", "|---|--:|--:|--:|"]
    for name in list_models(task="stereo"):
        counts = count_model(name)
        figures = (counts.parameters / 1e6, counts.macs / 1e9, counts.macs_paper / 1e9)
        lines.append(f"| `{name}` | " + " | ".join(f"{figure:.2f}" for figure in figures) + " |")
    return "\n".join(lines)


def losses() -> str:
    """The losses by name, with the first sentence of each."""
    from densedistill.distillation.losses import LOSSES

    lines = ["| name in a recipe | what it returns |", "|---|---|"]
    for name in LOSSES:
        first = _first_sentence(LOSSES[name])
        lines.append(f"| `{name}` | {first.removeprefix('Return ')} |")
    return "\n".join(lines)


def datasets() -> str:
    """The data sets of stereo pairs by name, with the first line of each."""
    from densedistill.data import DATASETS

    lines = ["| name | what it reads |", "|---|---|"]
    for name in (n for n in DATASETS if getattr(DATASETS[n], "task", "stereo") == "stereo"):
        first = _first_sentence(DATASETS[name])
        lines.append(f"| `{name}` | {first} |")
    return "\n".join(lines)


def protocols() -> str:
    """The protocols of `evaluate`, task by task."""
    from densedistill.inference.protocols import get_protocol, list_protocols
    from densedistill.tasks import get_task, list_tasks

    lines = ["| task | protocol | what it is | metrics | averaged over |", "|---|---|---|---|---|"]
    for task in map(get_task, list_tasks()):
        # A name with + is one of the others asked or aligned in another way.
        for name in (name for name in list_protocols(task.name) if "+" not in name):
            protocol = get_protocol(name, task)
            metrics = ", ".join(protocol.metrics or task.metrics)
            row = (task.name, f"`{name}`", protocol.says, metrics, protocol.average)
            lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def _first_sentence(entry: Any) -> str:
    """The first paragraph of a docstring on one line of a table; within backticks `|` parts no cells."""
    text = (inspect.getdoc(entry) or "").split("\n\n")[0].replace("\n", " ")
    return re.sub(r"`[^`]*`|\|", lambda match: "\\|" if match[0] == "|" else match[0], text)


class _Wide(argparse.RawDescriptionHelpFormatter):
    """Help that does not depend on the terminal it is built in."""


_SECTIONS = {section.__name__: section for section in (verbs, recipes, networks, losses, datasets, protocols)}
