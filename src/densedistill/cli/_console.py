"""Where a verb prints: lines as they are, the console of tables, and a bar."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.progress import Progress

PIPE_WIDTH = 160  # columns; files and pipes have no width of their own, and rich would take 80


def say(line: object, stderr: bool = False) -> None:
    """Print `line` as it is; it is seen at once, through a pipe, too."""
    print(line, file=sys.stderr if stderr else sys.stdout, flush=True)


def table_console() -> Console:
    """Return a console as wide as the terminal, or where there is none as wide as tables need."""
    console = Console()
    return console if console.is_terminal else Console(width=PIPE_WIDTH)


def progress_display() -> Progress:
    """Return rich's bar, on stderr; where that is no terminal it draws nothing, not even empty lines."""
    console = Console(stderr=True)
    return Progress(console=console, transient=True, disable=not console.is_terminal)
