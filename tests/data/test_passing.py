"""How batches come from loading processes: by shared memory, or copied where it might not suffice."""

from __future__ import annotations

import errno
import pickle
import resource
import shutil
import tempfile
from collections import namedtuple

import pytest
import torch

from densedistill.data import passing
from densedistill.data.loader import Mixture, make_loader
from densedistill.errors import UserError

Usage = namedtuple("Usage", "total used free")
SAMPLES = [
    {
        "left": torch.full((3, 4, 6), number, dtype=torch.uint8),
        "disparity": torch.full((1, 4, 6), number / 3),
        "disparity_valid": torch.tensor([[[True, False] * 3] * 4]),
        "half": torch.tensor(number / 3, dtype=torch.bfloat16),
        "boxes": torch.zeros(0, 4),
        "classes": torch.zeros(0, dtype=torch.int64),
        "meta": {"name": str(number)},
    }
    for number in range(2)
]
BYTES = 2 * (3 * 24 + 4 * 24 + 24 + 2)  # of a batch of both


def by_a_worker(processes=1):
    loader, _ = make_loader(Mixture([(SAMPLES, None)], seed=1), 2, workers=1, world_size=processes)
    return next(iter(loader))


def same(batch, expected):
    assert batch.keys() == expected.keys()
    for key, value in expected.items():
        if key != "meta":
            assert batch[key].dtype == value.dtype
            assert torch.equal(batch[key], value), key


@pytest.mark.parametrize(("batches", "shared"), [(2, True), (1.9, False), (0, False)])
def test_batches_are_copied_where_shared_memory_does_not_hold_two_of_each_worker(
    monkeypatch, batches, shared
):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, int(batches * BYTES)))
    batch = by_a_worker()
    assert batch["left"].is_shared() == shared
    order = [int(info["name"]) for info in batch["meta"]]
    same(batch, passing.collate([SAMPLES[number] for number in order]))


def test_training_processes_share_the_memory(monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, 5 * BYTES))
    kinds = [type(passing.Collate(1, processes)(SAMPLES)["left"]) for processes in (1, 2, 3)]
    assert kinds == [torch.Tensor, torch.Tensor, passing._Copied]


def test_batches_are_copied_where_few_files_may_be_open(monkeypatch):
    few = passing._FILES + 2 * (len(SAMPLES[0]) - 1)
    for limit, shared in ((few, True), (few - 1, False), (resource.RLIM_INFINITY, True)):
        monkeypatch.setattr(resource, "getrlimit", lambda which, limit=limit: (limit, limit))
        assert isinstance(passing.Collate(1)(SAMPLES)["left"], torch.Tensor) == shared


def test_batches_are_copied_where_there_is_no_folder_for_temporary_files(monkeypatch):
    def none():
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", none)
    assert isinstance(passing.Collate(1)(SAMPLES)["left"], passing._Copied)


def test_without_a_place_for_shared_memory_tensors_go_as_torch_sends_them(monkeypatch):
    monkeypatch.setattr(passing, "SHARED", "/no/such/place")
    assert isinstance(passing.Collate(1)(SAMPLES)["left"], torch.Tensor)


def test_a_copied_batch_may_be_written_to(monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, 0))
    batch = pickle.loads(pickle.dumps(passing.Collate(1)(SAMPLES)))
    same(batch, passing.collate(SAMPLES))
    batch["left"].add_(1)


def test_a_machine_without_shared_memory_is_told_in_one_line(monkeypatch):
    def none():
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(passing.multiprocessing, "Lock", none)
    with pytest.raises(UserError, match=r"data\.workers: .* shared memory .*\(Read-only file system\); take"):
        by_a_worker()
