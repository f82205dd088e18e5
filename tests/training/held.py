"""A folder that another process is at work on."""

from __future__ import annotations

import contextlib
import subprocess
import sys

HOLD = """
import os, sys
from pathlib import Path
from densedistill.files import locked
with locked(Path(sys.argv[1]), sys.argv[2]):
    print(os.getpid(), flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def held(folder, worker):
    """Let another process hold `folder` as a `worker`; yields its number."""
    command = [sys.executable, "-c", HOLD, str(folder), worker]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield int(process.stdout.readline())
        process.stdin.close()
