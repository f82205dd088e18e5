"""The objective over several processes: means and gradients are those of one process with the whole batch."""

import copy

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from tiny_stereo import TinyStereo, stereo_batch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import densedistill as dd

TERMS = {
    "truth": {"loss": "smooth_l1", "of": "disparity", "to": "ground_truth", "levels": [0.5, 1.0]},
    "volume": {"loss": "cosine", "of": "volume", "to": "teacher", "mask": "ground_truth"},
    "aggregation": {"loss": "kl", "of": "aggregation", "to": "teacher", "mask": "ground_truth"},
    "summed": {"loss": "soft_kl", "of": "aggregation", "to": "teacher"},
    "summed_where_known": {"loss": "soft_kl", "of": "aggregation", "to": "teacher", "mask": "ground_truth"},
    "features": {"loss": "mse", "of": "features", "to": "teacher"},
}


def _networks():
    torch.manual_seed(0)
    student, teacher = TinyStereo(), TinyStereo()
    for module in student.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()  # batch statistics differ between processes, which is not what is tested
    return student, teacher


def _batch():
    batch = stereo_batch(batch=2)
    batch["disparity_valid"][1, ..., 7:] = False  # so that the samples weigh differently
    return batch


def _sample(batch, index):
    return {key: value[index : index + 1] for key, value in batch.items()}


def _whole():
    student, teacher = _networks()
    total, parts = dd.Objective(TERMS, student, {"teacher": teacher})(_batch())
    total.backward()
    return total.detach(), parts, [parameter.grad for parameter in student.parameters()]


def _be_one_of_two(monkeypatch, all_reduce):
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_reduce", all_reduce)


def test_processes_average_to_the_whole_batch(monkeypatch):
    expected_total, expected_parts, expected_gradients = _whole()
    student, teacher = _networks()
    objective = dd.Objective(TERMS, student, {"teacher": teacher})
    counts = []
    with torch.no_grad():
        monkeypatch.setattr(objective, "_shares", lambda own: counts.append(own) or torch.ones_like(own))
        for index in range(2):
            objective(_sample(_batch(), index))
        monkeypatch.undo()
    _be_one_of_two(monkeypatch, lambda tensor: tensor.copy_(counts[0] + counts[1]))
    totals, parts = [], []
    for index in range(2):
        total, part = objective(_sample(_batch(), index))
        (total / 2).backward()
        totals.append(total.detach())
        parts.append(part)
    torch.testing.assert_close(sum(totals) / 2, expected_total)
    for name, expected in expected_parts.items():
        torch.testing.assert_close((parts[0][name] + parts[1][name]) / 2, expected)
    for parameter, expected in zip(student.parameters(), expected_gradients, strict=True):
        torch.testing.assert_close(parameter.grad, expected)


def test_ground_truth_that_no_process_has_counts_nothing(monkeypatch):
    student, teacher = _networks()
    objective = dd.Objective(TERMS, student, {"teacher": teacher})
    _be_one_of_two(monkeypatch, lambda tensor: tensor.mul_(2))
    batch = _batch()
    batch["disparity_valid"][:] = False
    _, parts = objective(batch)
    assert parts["truth"] == parts["volume"] == 0


def counted(student, teacher, *, processes):
    """A user's loss that gives what it is told."""
    return student.mean() * 0 + processes


def test_a_loss_is_told_how_many_processes_compare_together(monkeypatch):
    student, teacher = _networks()
    term = {"loss": "test_objective_processes:counted", "of": "volume", "to": "teacher"}
    objective = dd.Objective({"t": term}, student, {"teacher": teacher})
    _be_one_of_two(monkeypatch, lambda tensor: tensor.mul_(2))
    _, parts = objective(_batch())
    assert parts["t"] == 2


def _process(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    try:
        student, teacher = _networks()
        plain = copy.deepcopy(student)
        objective = dd.Objective(TERMS, DistributedDataParallel(student), {"teacher": teacher})
        if rank == 0:
            objective.check()  # one process alone, while the other goes on
        total, _ = objective(_sample(_batch(), rank))
        total.backward()
        if rank == 0:
            _, _, expected = _whole_of(plain, teacher)
            for parameter, gradient in zip(student.parameters(), expected, strict=True):
                torch.testing.assert_close(parameter.grad, gradient)
    finally:
        dist.destroy_process_group()


def _whole_of(student, teacher):
    for_one = dd.Objective(TERMS, student, {"teacher": teacher})
    for_one._rehearsing = True  # counts of this process alone
    total, parts = for_one(_batch())
    total.backward()
    return total, parts, [parameter.grad for parameter in student.parameters()]


@pytest.mark.full
def test_data_parallel_training_has_the_gradient_of_one_process(tmp_path):
    multiprocessing.spawn(_process, args=(str(tmp_path),), nprocs=2)
