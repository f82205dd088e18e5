from types import SimpleNamespace

import numpy as np
import pytest
import torch
import toy

from densedistill.training import train
from densedistill.training.checkpoint import load_checkpoint
from densedistill.training.module import Stopwatch, TrainingModule


def drawn(batch_idx=0, **changes):
    """What a step's seed makes torch draw."""
    stand = {"seed": 1, "step": 3, "global_rank": 0, **changes}
    recipe = SimpleNamespace(seed=stand["seed"], trainer=SimpleNamespace(accumulate=2))
    module = SimpleNamespace(recipe=recipe, step=stand["step"], global_rank=stand["global_rank"])
    TrainingModule.seed_part(module, batch_idx)
    return torch.rand(()).item(), np.random.rand()  # noqa: NPY002


def test_randomness_is_a_function_of_seed_step_part_and_process():
    assert drawn() == drawn()
    assert drawn(batch_idx=3) == drawn(batch_idx=1)  # of a step with two parts the second
    others = [drawn(seed=2), drawn(step=4), drawn(batch_idx=1), drawn(global_rank=1)]
    assert len({*others, drawn()}) == 5


def test_the_gradient_is_clipped_to_its_largest_norm(tmp_path):
    fields = {"schedule__steps": 1, "optimizer": {"name": "sgd", "lr": 1.0}, "trainer__log_every": 1}
    run = train(toy.recipe(**fields, trainer__clip=1e-3), run=tmp_path / "run")
    torch.manual_seed(1)
    start, end = dict(toy.Tiny().named_parameters()), load_checkpoint(run.last)["student"]
    moved = torch.cat([(end[name] - value.detach()).flatten() for name, value in start.items()])
    (line,) = (line for line in run.history if "gradient" in line)
    assert line["gradient"] > 1e-3  # as it was
    assert moved.norm().item() == pytest.approx(1e-3 * line["lr"], rel=1e-3)


def test_weights_of_terms_decay_with_the_epochs_of_the_data(tmp_path):
    decay = {"epochs": [1], "factor": 0.0}
    fields = {"trainer__log_every": 1, "objective__ground_truth": None, "schedule__steps": 6}
    run = train(toy.recipe(**fields, objective__features__decay=decay), run=tmp_path / "run")
    totals = [line["loss/total"] for line in run.history if "loss/total" in line]
    assert [total > 0 for total in totals] == [True] * 5 + [False]  # ten samples, two a step


def test_a_stopwatch_counts_between_start_and_stop_alone(monkeypatch):
    now = iter([10.0, 13.0, 20.0, 21.0])
    clock = SimpleNamespace(perf_counter=lambda: next(now))
    monkeypatch.setattr("densedistill.training.module.time", clock)
    watch = Stopwatch(5.0)
    watch.start()
    watch.stop()
    assert watch.seconds == 8
    watch.start()
    assert watch.seconds == 9
