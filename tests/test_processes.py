"""Processes that work for another: what they hear, and how long they stay."""

import os
import signal
import subprocess
import sys
import time

import pytest

POOL = """
import os, time
from densedistill.processes import WorkerPool
if __name__ == "__main__":
    with WorkerPool(2, time.sleep, 0) as pool:
        waiting = [pool.submit(time.sleep, SECONDS) for _ in range(2)]
        print(pool.submit(os.getppid).result() == os.getpid() if SECONDS < 1 else "begun", flush=True)
        waiting[0].result()
"""


def begin(tmp_path, seconds):
    script = tmp_path / "script.py"
    script.write_text(POOL.replace("SECONDS", str(seconds)))
    return subprocess.Popen(
        [sys.executable, script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def test_processes_do_what_they_are_given(tmp_path):
    assert begin(tmp_path, 0.1).communicate(timeout=60) == ("True\n", "")


@pytest.mark.parametrize("wait", [0, 1])
def test_ctrl_c_is_heard_by_the_one_that_started_them_alone(tmp_path, wait):
    process = begin(tmp_path, 3)
    assert process.stdout.readline() == "begun\n"
    time.sleep(wait)  # they are still importing, or at work
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert said.count("Traceback") == 1
    assert said.count("script.py") == 1  # the script's own


def test_none_outlives_the_one_that_started_them(tmp_path):
    process = begin(tmp_path, 3600)
    assert process.stdout.readline() == "begun\n"
    process.kill()
    process.communicate(timeout=60)  # which ends when all have closed the pipe
