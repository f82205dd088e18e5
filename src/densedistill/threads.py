"""State that calls in several threads share."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Hashable, Iterator

_lock = threading.Lock()
_held: dict[Hashable, tuple[int, Callable[[], None]]] = {}


@contextlib.contextmanager
def held(what: Hashable, begin: Callable[[], Callable[[], None]]) -> Iterator[None]:
    """Hold `what` in a state: the first of those who hold it at a time begins it, the last one ends it.

    Args:
        what: whose state it is.
        begin: brings the state about, and returns what ends it.
    """
    with _lock:
        count, end = _held[what] if what in _held else (0, begin())
        _held[what] = count + 1, end
    try:
        yield
    finally:
        with _lock:
            count, end = _held.pop(what)
            if count > 1:
                _held[what] = count - 1, end
            else:
                end()
