"""Processes that work for this one."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any

#: Why one of them may have died.
WHY_DEAD = 'out of memory, or started by a script that lacks `if __name__ == "__main__":`?'


class WorkerPool(ProcessPoolExecutor):
    """Processes that leave Ctrl-C and a closed terminal to the one that started them, and do not outlive it.

    They begin afresh: a fork would inherit OpenCV's and torch's threads, which do not survive it.

    Args:
        processes: how many.
        begin: called in each of them first, with `arguments`.
    """

    def __init__(self, processes: int, begin: Callable[..., Any], *arguments: Any):
        context = multiprocessing.get_context("spawn")
        super().__init__(processes, context, _begin, (begin, *arguments))

    def submit(self, work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Let one of the processes call `work`; it is started where it is not there yet."""
        with _unheard_by_new_processes():
            return super().submit(work, *args, **kwargs)


@contextlib.contextmanager
def _unheard_by_new_processes() -> Iterator[None]:
    """Let processes that are started in a `with` block have these signals blocked, from their first line on;
    what this process is sent meanwhile reaches it afterwards."""
    if not hasattr(signal, "pthread_sigmask"):  # on Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(begin: Callable[..., Any], *arguments: Any) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    begin(*arguments)


def _end_with_parent() -> None:
    """Leave this process once the one that started it is gone, where it would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
