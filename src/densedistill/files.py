"""Files that are either whole or not there."""

from __future__ import annotations

import errno
import io
import json
import math
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .errors import UserError

_PART = re.compile(r"\..+\.\d+-[0-9a-f]{8}(\.\w+)?")


@contextmanager
def atomic_write(path: str | os.PathLike[str], sync: bool = True) -> Iterator[Path]:
    """Give a temporary path beside `path` (same suffix) that replaces `path` when the block ends without
    error.

    After an error, Ctrl-C included, the temporary file is removed and an older `path` is left as it was.
    Missing parent folders are made.

    Args:
        path: the file.
        sync: wait until the disk has it, so that a power cut leaves the old file or the new; takes
            milliseconds.

    Raises:
        UserError: the file cannot be written (full disk, no permission, a folder in its place).
    """
    path = Path(path)
    part = path.with_name(f".{path.stem}.{os.getpid()}-{secrets.token_hex(4)}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        if sync:
            with open(part, "rb") as written:
                os.fsync(written.fileno())
        os.replace(part, path)
    except OSError as error:
        _remove(part)
        # Making the folder may fail at any of those above it; another file's error is not about `path`.
        if error.filename is not None and Path(error.filename) not in (part, path, *path.parents):
            raise
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None
    except BaseException:
        _remove(part)
        raise


def _remove(part: Path) -> None:
    with suppress(OSError):  # why it could not be written is what the user must hear
        part.unlink()


def write_bytes(path: str | os.PathLike[str], data: bytes | memoryview, sync: bool = True) -> None:
    """Write `data` to `path` atomically; arguments and UserError as `atomic_write`."""
    with atomic_write(path, sync) as part:
        part.write_bytes(data)


def write_buffer(path: str | os.PathLike[str], buffer: io.BytesIO) -> None:
    """Write what `buffer` holds to `path` atomically, without a copy; UserError as `atomic_write`.

    Not by a view of it: Python 3.12.1 crashes when it collects one that an error holds.
    """
    buffer.seek(0)
    with atomic_write(path) as part, part.open("wb") as file:
        shutil.copyfileobj(buffer, file, 1 << 20)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` to `path` atomically, as UTF-8; UserError as `atomic_write`.

    What UTF-8 cannot say, of a file name in another encoding, is escaped.
    """
    write_bytes(path, text.encode(errors="backslashreplace"))


def require_writable(*paths: str | os.PathLike[str] | None) -> None:
    """Raise UserError unless each of `paths` (None for none) could be written, before the work whose results
    go there; nothing is left behind."""
    for path in (Path(path) for path in paths if path is not None):
        try:
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            folder = next(above for above in path.absolute().parents if above.exists())
            with tempfile.TemporaryFile(dir=folder, buffering=0) as trial:
                trial.write(b"0")  # a full disk has room for a name
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror or error}") from None


def to_json(value: Any, indent: int | None = None) -> str:
    """Return plain values as JSON that any parser takes: a number that is not finite is null."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, (list, tuple)) else value


def remove_parts(folder: Path) -> None:
    """Remove below `folder` what `atomic_write` was writing when its process was killed."""
    for path in folder.rglob(".*"):
        if _PART.fullmatch(path.name):
            path.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path, worker: str) -> Iterator[None]:
    """Hold `folder` for this process alone, which is a `worker`; a killed one lets go by itself.

    Raises:
        UserError: another process has it, or it cannot be written.
    """
    import fcntl

    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / ".lock", "a+")  # noqa: SIM115
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror}") from None
    with file:
        try:
            # Of this process alone: workers that outlive it for a moment do not keep it.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            raise UserError(
                f"another {worker} (process {file.read().strip() or 'unknown'}) is at work on {folder}; "
                "wait for it, or name another folder"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
