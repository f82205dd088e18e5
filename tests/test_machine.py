"""What is asked of the system."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest
import torch

from densedistill.machine import torch_threads

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
