"""What is asked of the system."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest
import torch

from densedistill import machine
from densedistill.data.loader import default_workers
from densedistill.machine import torch_threads, usable_cores

# How many bytes of a tensor of 20 MB glibc maps for it alone, in a process that has made none before.
MAPPED = """
import ctypes, sys, torch
from densedistill.machine import keep_freed_memory

class Info(ctypes.Structure):
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]

mallinfo = ctypes.CDLL("libc.so.6").mallinfo2
mallinfo.restype = Info
kept = keep_freed_memory()
before = mallinfo().hblkhd
tensor = torch.empty(5_000_000)
print(int(kept), mallinfo().hblkhd - before)
"""


def mapped(**environment):
    command = [sys.executable, "-c", MAPPED]
    usual = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
    answer = subprocess.run(command, capture_output=True, text=True, check=True, env={**usual, **environment})
    kept, size = answer.stdout.split()
    return bool(int(kept)), int(size)


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or platform.libc_ver()[1] < "2.33", reason="of glibc from 2.33 on"
)
def test_large_tensors_lie_where_freed_memory_is_kept_unless_the_environment_decides():
    assert mapped() == (True, 0)
    kept, size = mapped(MALLOC_ARENA_MAX="2")
    assert not kept
    assert size >= 20_000_000


@pytest.mark.parametrize(("count", "within"), [(3, 3), (None, 2)])
def test_threads_are_as_before_behind_the_block_also_after_a_fault(count, within):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with torch_threads(count):
            assert torch.get_num_threads() == within
        assert torch.get_num_threads() == 2
        with pytest.raises(KeyError), torch_threads(count):
            raise KeyError
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_processors_that_a_process_may_not_run_on_are_not_counted(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5, 7}, raising=False)
    assert usable_cores() == 3
    assert default_workers(cuda=True) == 2


@pytest.mark.parametrize(
    ("groups", "files", "cores"),
    [
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 2),  # docker run --cpus 1.5
        ("0::/\n", {"cpu.max": "max 100000\n"}, 16),
        ("0::/jobs/mine\n", {"jobs/cpu.max": "400000 100000\n", "jobs/mine/cpu.max": "max 100000\n"}, 4),
        ("0::/\n", {"cpu.max": "10000 100000\n"}, 1),
        (
            "5:cpuset:/\n4:cpu,cpuacct:/docker/1f\n0::/\n",  # the container's own group is mounted at the top
            {"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"},
            3,
        ),
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 16),
        ("0::/../odd:name\n", {}, 16),
        (None, {}, 16),
    ],
)
def test_a_container_counts_the_processors_that_it_is_given_time_of(
    tmp_path, monkeypatch, groups, files, cores
):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(16)), raising=False)
    monkeypatch.setattr(machine, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(machine, "_CGROUPS", tmp_path / "cgroup")
    if groups is not None:
        files = {**{f"cgroup/{name}": text for name, text in files.items()}, "proc/self/cgroup": groups}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert usable_cores() == cores
