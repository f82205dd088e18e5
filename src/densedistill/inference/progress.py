"""A progress bar on stderr, or nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

Advance = Callable[[str, str, int | None], None]


@contextlib.contextmanager
def progress_bar(shown: bool) -> Iterator[Advance]:
    """Give a function `advance(what, now, total)` that counts one step of `what` and shows `now`."""
    if not shown:
        yield lambda what, now, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        tasks: dict[str, TaskID] = {}

        def advance(what: str, now: str, total: int | None) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=total)
            progress.update(tasks[what], advance=1, description=f"{what}: {now}")

        yield advance
