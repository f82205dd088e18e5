"""A progress bar on stderr where that is a terminal, or nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

Advance = Callable[[str, str, int | None], None]


@contextlib.contextmanager
def progress_bar(shown: bool) -> Iterator[Advance]:
    """Give a function `advance(what, now, total)` that counts one step of `what` and shows `now`."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not (shown and console.is_terminal):  # into a file it would draw empty lines
        yield lambda what, now, total: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        tasks: dict[str, TaskID] = {}

        def advance(what: str, now: str, total: int | None) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=total)
            progress.update(tasks[what], advance=1, description=f"{what}: {now}")

        yield advance
