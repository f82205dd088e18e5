"""The console that tables are printed on."""

from __future__ import annotations

from rich.console import Console

PIPE_WIDTH = 160  # columns; files and pipes have no width of their own, and rich would take 80


def table_console() -> Console:
    """Return a console as wide as the terminal, or where there is none as wide as tables need."""
    console = Console()
    return console if console.is_terminal else Console(width=PIPE_WIDTH)
