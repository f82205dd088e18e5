"""Processes that torchrun, SLURM or Lightning started: who writes, and how many there are."""

import os

import pytest
import toy

from densedistill.errors import UserError
from densedistill.recipes import load_recipe
from densedistill.training.launch import check_launch, is_first_process, launched
from densedistill.training.run import choose_directory

TORCHRUN = {"LOCAL_WORLD_SIZE": "4", "WORLD_SIZE": "8"}
SRUN = {"SLURM_NTASKS": "8", "SLURM_NNODES": "2", "SLURM_JOB_NAME": "train"}


@pytest.fixture(autouse=True)
def nothing_started(monkeypatch):
    for name in [n for n in os.environ if n.startswith("SLURM_")] + [
        "LOCAL_WORLD_SIZE",
        "RANK",
        "LOCAL_RANK",
    ]:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("said", "start", "first"),
    [
        ({}, None, True),
        ({"LOCAL_RANK": "1"}, None, False),
        ({"RANK": "1"}, None, False),
        ({"RANK": "not a number"}, None, True),
        (TORCHRUN | {"RANK": "0", "LOCAL_RANK": "0"}, ("torchrun", 2, 4), True),
        (TORCHRUN | {"RANK": "4", "LOCAL_RANK": "0"}, ("torchrun", 2, 4), False),
        ({"LOCAL_WORLD_SIZE": "2"}, ("torchrun", 1, 2), True),
        (SRUN | {"SLURM_PROCID": "0"}, ("srun", 2, 4), True),
        (SRUN | {"SLURM_PROCID": "5"}, ("srun", 2, 4), False),
        (SRUN | {"SLURM_JOB_NAME": "interactive", "SLURM_PROCID": "5"}, None, True),
        # torchrun within SLURM: one task on each machine, whose number is no rank.
        (SRUN | TORCHRUN | {"SLURM_PROCID": "1", "RANK": "0"}, ("torchrun", 2, 4), True),
    ],
)
def test_who_started_this_process_and_whether_it_writes(monkeypatch, said, start, first):
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    assert launched() == start
    assert is_first_process() is first


@pytest.mark.parametrize("said", [TORCHRUN, SRUN])
def test_a_training_does_not_wait_for_processes_that_nobody_started(monkeypatch, said):
    check_launch(1, 3)  # alone, it starts them itself
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    check_launch(2, 4)
    with pytest.raises(UserError, match=r"4 processes on each of 2 machines, and 3 on each of 1 were wanted"):
        check_launch(1, 3)


def test_several_processes_need_one_directory(monkeypatch):
    recipe = load_recipe(toy.recipe())
    monkeypatch.setenv("SLURM_NTASKS", "1")
    assert choose_directory(recipe, twin=False)
    monkeypatch.setenv("SLURM_NTASKS", "2")
    with pytest.raises(UserError, match="--run DIR"):
        choose_directory(recipe, twin=False)
