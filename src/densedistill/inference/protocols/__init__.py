"""What is measured, over which pixels, and how it is averaged: the protocols of the benchmarks, a file a
task."""

from __future__ import annotations

import importlib
from functools import cache

from ...errors import UserError, nearest
from ...registry import discover
from ...tasks import Task
from .protocol import MASK_WORDS, MASKS, Average, Protocol

__all__ = ["MASKS", "MASK_WORDS", "Average", "Protocol", "get_protocol", "list_protocols"]


@cache
def _protocols() -> dict[tuple[str, str], Protocol]:
    modules = (importlib.import_module(name) for name in discover(__package__, __file__))
    found = [protocol for module in modules for protocol in getattr(module, "PROTOCOLS", ())]
    return {(protocol.task, protocol.name): protocol for protocol in found}


def list_protocols(task: str) -> list[str]:
    """Return the names of the protocols of a task; `plain` is of every task."""
    return ["plain", *(name for owner, name in _protocols() if owner == task)]


def get_protocol(name: str | Protocol | None, task: Task | None = None) -> Protocol:
    """Return the protocol called `name` of `task` (default: of any), `plain` for None; UserError when there
    is none."""
    if isinstance(name, Protocol):
        found = name
    elif name in (None, "plain"):
        found = Protocol("plain", "whole images", average=task.average if task else "pixels")
    else:
        owners = [owner for owner, known in _protocols() if known == name]
        if not owners:
            names = dict.fromkeys(n for owner, n in _protocols() if task is None or owner == task.name)
            raise UserError(f"there is no protocol '{name}'{nearest(str(name), ['plain', *names])}")
        owner = task.name if task is not None and task.name in owners else owners[0]
        found = _protocols()[owner, str(name)]
    if task is not None and found.task and found.task != task.name:
        there = ", ".join(list_protocols(task.name))
        raise UserError(f"protocol '{found.name}' is for {found.task}; for {task.name} there is {there}")
    return found
