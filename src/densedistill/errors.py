"""The one exception that stands for a user's mistake, and words that messages have in common."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from numbers import Integral
from typing import Any


class DataWarning(UserWarning):
    """Data are probably not what they are said to be; the command line says it in one line."""


class UserError(Exception):
    """Something the user can mend: one line that says what was wrong, where, and what to do.

    The command line prints it without a traceback and exits with status 2. Of the traceback that torch hands
    on from a process that reads data, the error's own line is kept.
    """

    def __init__(self, message: str = ""):
        if message.startswith("Caught UserError in "):
            message = message.rpartition("UserError: ")[2].strip()
        super().__init__(message)


class NothingThere(UserError):
    """There is nothing at all of what was asked for, rather than something wrong with it."""


def nearest(name: str, choices: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the choice closest to `name`; else the choices, when few; else ""."""
    choices = sorted(choices)
    few = f"; there is {', '.join(choices)}" if 0 < len(choices) <= 12 else ""
    return if_close(name, choices) or few


def if_close(name: str, choices: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the choice closest to `name`; "" where none is close."""
    close = difflib.get_close_matches(name, list(choices), n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""


def unknown(what: str, name: str, choices: Iterable[str], of: str = "") -> UserError:
    """Return the error for a `name` that is not among the `choices` of `what` ("network", "loss", …), which
    belongs to `of` ("the world", …), if to anything."""
    said = f"{of} has no {what}" if of else f"there is no {what}"
    return UserError(f"{said} '{name}'{nearest(name, choices)}")


def counted(number: int, noun: str) -> str:
    """Return "1 thread", "2 threads"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def as_count(what: str, number: Any) -> int:
    """Return `number` (Python's or NumPy's) as an int; UserError unless it is whole and 1 or more."""
    if isinstance(number, bool) or not isinstance(number, Integral) or int(number) < 1:
        raise UserError(f"{what} is a whole number, 1 or more, got {number}")
    return int(number)
