"""Two processes over gloo against one."""

import socket
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import yaml
from safetensors.torch import load_file
from test_train import run_in_another_process
from toy import recipe

from densedistill.training import open_run
from densedistill.training.final import finish

CHANGES = {
    "data__batch_size": 4,
    "data__train__length": 12,
    "schedule__steps": 12,
    "trainer": {"log_every": 1, "pictures": 0, "threads": 1, "validate_every": 6, "precision": "float32"},
    "optimizer__name": "sgd",
    "student__unused": True,
}


def start(tmp_path, processes, **changes):
    fields = recipe(**{**CHANGES, **changes})
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(fields))
    return run_in_another_process(
        tmp_path, "train", "toy.yaml", "--run", f"run{processes}", "--devices", f"{processes}"
    )


def curve(run):
    return torch.tensor([line["loss/total"] for line in run.history if "loss/total" in line])


def both(tmp_path, **changes):
    for number in (1, 2):
        done = start(tmp_path, number, **changes)
        assert done.returncode == 0, done.stderr
    return open_run(tmp_path / "run1"), open_run(tmp_path / "run2")


@pytest.mark.full
def test_two_processes_with_frozen_batch_norm_train_as_one_does(tmp_path):
    one, two = both(tmp_path, student__frozen_bn=True)
    torch.testing.assert_close(curve(two), curve(one), atol=1e-5, rtol=1e-5)
    first, second = load_file(one.student), load_file(two.student)
    for key, value in first.items():
        torch.testing.assert_close(second[key], value, atol=1e-5, rtol=1e-4)
    # Figures are pooled over processes, each of which evaluates a part.
    figures = [[line["validate/epe"] for line in run.history if "validate/epe" in line] for run in (one, two)]
    assert figures[1] == pytest.approx(figures[0], rel=1e-4)
    assert len(figures[1]) == 2


@pytest.mark.full
def test_two_tasks_that_slurm_started_train_as_one_does(tmp_path):
    assert start(tmp_path, 1, student__frozen_bn=True).returncode == 0
    with socket.socket() as free:
        free.bind(("localhost", 0))
        said = {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "1", "SLURM_NODEID": "0"}
        said |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free.getsockname()[1])}

    def task(number):
        own = {"SLURM_PROCID": str(number), "SLURM_LOCALID": str(number)}
        return run_in_another_process(tmp_path, "train", "toy.yaml", "--run", "run2", **said, **own)

    with ThreadPoolExecutor(2) as tasks:
        for done in tasks.map(task, range(2)):
            assert done.returncode == 0, done.stderr
    one, two = open_run(tmp_path / "run1"), open_run(tmp_path / "run2")
    torch.testing.assert_close(curve(two), curve(one), atol=1e-5, rtol=1e-5)


@pytest.mark.full
def test_samples_without_truth_are_weighted_over_all_processes(tmp_path):
    mixed = [
        {"name": "toy:Dots", "length": 6, "weight": 1},
        {"name": "toy:Dots", "length": 6, "truth": False, "weight": 1},
    ]
    one, two = both(tmp_path, student__frozen_bn=True, data__train=mixed)
    torch.testing.assert_close(curve(two), curve(one), atol=1e-5, rtol=1e-5)


@pytest.mark.full
def test_what_stops_one_process_stops_the_others_in_one_line(tmp_path):
    term = {"loss": "toy:nan_in_another_process", "of": "features", "to": "teacher"}
    done = start(tmp_path, 2, objective__features=term)
    assert done.returncode == 2, done.stderr
    assert "step 0: the loss is nan (term features); the batch is in" in done.stderr
    assert "step 0: another process has stopped" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.full
def test_a_validation_measures_what_is_handed_over(tmp_path):
    """Statistics differ between processes; those of the first are kept."""
    assert start(tmp_path, 2, trainer__ema=0.9).returncode == 0
    run = open_run(tmp_path / "run2")
    found = finish(run).evaluate().rows[0]["epe"]
    assert run.history[-1]["validate/epe"] == pytest.approx(found, rel=1e-5)
