import errno
import gc
import io
import itertools
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import toy
import yaml
from held import held
from safetensors.torch import load_file
from torch import nn

from densedistill import cli
from densedistill.data import formats
from densedistill.distillation.replacement import ReplaceBlock
from densedistill.errors import DataWarning, UserError
from densedistill.machine import usable_cores
from densedistill.networks.layers.packed import PackedConv2d
from densedistill.recipes import Schedule, load_recipe
from densedistill.training import Interrupted, open_run, train
from densedistill.training.checkpoint import Counters, load_checkpoint
from densedistill.training.final import finish
from densedistill.training.module import TrainingModule
from densedistill.training.run import Run
from densedistill.training.train import _assemble, _bfloat16, _quiet, in_float32, make_objective

SOURCE = Path(__file__).parents[2] / "src"


def weights(run):
    return load_file(run.student)


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def run_in_another_process(tmp_path, *arguments, **environment):
    """Run `densedistill` with toys at hand and return the finished process."""
    path = os.pathsep.join([str(SOURCE), str(Path(__file__).parent)])
    return subprocess.run(
        [sys.executable, "-m", "densedistill", *arguments],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **environment},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=900,
    )


def write_recipe(tmp_path, **changes):
    path = tmp_path / "toy.yaml"
    path.write_text(yaml.safe_dump(toy.recipe(**changes)))
    return str(path)


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_training_lowers_the_loss_and_leaves_a_whole_run(tmp_path, capsys):
    run = train(toy.recipe(schedule__steps=30), run=tmp_path / "run")
    losses = [line["loss/total"] for line in run.history if "loss/total" in line]
    assert losses[-1] < 0.5 * losses[0]
    assert {"recipe.yaml", "environment.json", "metrics.jsonl", "student.safetensors", "checkpoints"} <= set(
        os.listdir(run.path)
    )
    assert run.recipe.schedule.steps == 30
    assert [line["step"] for line in run.history if "validate/epe" in line][-1] == 30
    said = r"step 30:  validate/epe \d+\.\d{3} px  validate/d1 \d+\.\d{2} %"  # as tables have it
    assert re.search(said, capsys.readouterr().err)
    assert list((run.path / "tensorboard").glob("events*"))


def test_a_finished_training_leaves_nothing_in_the_process(tmp_path):
    def state():
        return signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM), torch.get_num_threads()

    before = state()
    train(toy.recipe(schedule={"steps": 2}, trainer__threads=before[-1] + 1), run=tmp_path / "run")
    assert state() == before
    gc.collect()
    assert not [thing for thing in gc.get_objects() if type(thing) is TrainingModule]


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tmp_path):
    first = train(toy.recipe(student__dropout=0.2), run=tmp_path / "first")
    second = train(toy.recipe(student__dropout=0.2), run=tmp_path / "second")
    other = train(toy.recipe(student__dropout=0.2, seed=2), run=tmp_path / "other")
    assert same(weights(first), weights(second))
    assert not same(weights(first), weights(other))


@pytest.mark.parametrize(
    "after", [13, pytest.param(1, marks=pytest.mark.full), pytest.param(20, marks=pytest.mark.full)]
)
def test_a_run_killed_at_any_step_and_resumed_ends_with_the_same_weights(
    tmp_path, one_thread, monkeypatch, after
):
    changes = {
        "data__train__name": "toy:Fatal",
        "schedule__steps": 11,
        "trainer": {
            "checkpoint_every": 2,
            "ema": 0.9,
            "clip": 1.0,
            "log_every": 1,
            "pictures": 0,
            "threads": 1,
        },
        "optimizer__name": "adamw",
        "student__dropout": 0.2,
    }
    recipe = write_recipe(tmp_path, **changes)
    killed = run_in_another_process(
        tmp_path, "train", recipe, "--run", "killed", AFTER=str(after), SIGNAL="SIGKILL"
    )
    assert killed.returncode == -9
    assert not open_run(tmp_path / "killed").finished
    monkeypatch.setenv("AFTER", "0")
    resumed = train(resume=tmp_path / "killed")
    whole = train(recipe, run=tmp_path / "whole")
    assert same(weights(resumed), weights(whole))
    assert [(line["step"], line.get("loss/total")) for line in resumed.history] == [
        (line["step"], line.get("loss/total")) for line in whole.history
    ]
    first, second = load_checkpoint(resumed.last), load_checkpoint(whole.last)
    assert same(first["trained"], second["trained"])
    moments = [state["optimizer"]["state"] for state in (first, second)]
    assert all(torch.equal(moments[0][i]["exp_avg_sq"], moments[1][i]["exp_avg_sq"]) for i in moments[0])


@pytest.mark.parametrize("workers", [0, 1])
def test_what_is_ones_own_may_draw_random_numbers_from_anywhere(tmp_path, monkeypatch, workers):
    def jittered(student, teacher, mask):
        return (student - teacher)[mask].abs().mean() * (random.random() + np.random.rand())  # noqa: NPY002

    class Drawn(toy.Tiny):
        def __init__(self):
            super().__init__()
            self.head.bias.data.fill_(np.random.rand() + random.random())  # noqa: NPY002

    class Shaken(toy.Dots):
        def __getitem__(self, index):
            sample = super().__getitem__(index)
            factor = (random.random() + np.random.rand() + float(torch.rand(()))) / 3  # noqa: NPY002
            return sample | {view: (sample[view] * factor).byte() for view in ("left", "right")}

    monkeypatch.setattr(toy, "Shaken", Shaken, raising=False)
    monkeypatch.setattr(toy, "jittered", jittered, raising=False)
    monkeypatch.setattr(toy, "Drawn", Drawn, raising=False)
    fields = toy.recipe(
        student__name="toy:Drawn",
        teachers={},
        objective={"own": {"loss": "toy:jittered", "of": "disparity", "to": "ground_truth"}},
        schedule={"steps": 6, "milestones": [100]},
        data__train__name="toy:Shaken",
        data__workers=workers,
    )
    whole = train(fields, run=tmp_path / "whole")
    parted = train(fields, run=tmp_path / "parted", overrides={"schedule.steps": 3})
    resumed = train(resume=parted.path, overrides={"schedule.steps": 6})
    assert same(weights(whole), weights(resumed))


@pytest.mark.parametrize(("sent", "workers"), [("SIGINT", 0), ("SIGINT", 1), ("SIGTERM", 1)])
def test_ctrl_c_saves_a_checkpoint_says_how_to_go_on_and_exits_with_130(
    tmp_path, one_thread, monkeypatch, capsys, sent, workers
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SIGNAL", sent)
    monkeypatch.setenv("AFTER", "8")
    monkeypatch.setattr(toy.Fatal, "asked", 0)
    recipe = write_recipe(
        tmp_path,
        data__train__name="toy:Fatal",
        data__workers=workers,
        schedule__steps=9,
        trainer__threads=1,
    )
    assert cli.main(["train", recipe, "--run", "stopped"]) == 130
    assert "--resume stopped" in capsys.readouterr().err
    counters = load_checkpoint(open_run("stopped").last)["counters"]
    assert 0 < counters["step"] < 9
    monkeypatch.setenv("AFTER", "0")
    resumed = train(resume="stopped")
    assert same(weights(resumed), weights(train(recipe, run="whole")))


def test_a_second_ctrl_c_while_loading_processes_end_stops_at_once(tmp_path, monkeypatch):
    from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter as Loading

    end = Loading._shutdown_workers

    def impatient(loading):
        if not loading._shutdown:
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)
        end(loading)

    monkeypatch.setattr(Loading, "_shutdown_workers", impatient)
    with pytest.raises(Interrupted, match="stopped at once; go on from the last checkpoint"):
        train(toy.recipe(data__workers=1), run=tmp_path / "run")
    monkeypatch.undo()
    assert train(resume=tmp_path / "run").finished


def test_a_closed_terminal_saves_a_checkpoint_though_nothing_can_be_said(tmp_path, monkeypatch):
    class Gone(io.StringIO):
        def write(self, text):
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(sys, "stderr", Gone())
    monkeypatch.setattr(toy.Fatal, "asked", 0)
    monkeypatch.setenv("SIGNAL", "SIGHUP")
    monkeypatch.setenv("AFTER", "8")
    with pytest.raises(Interrupted, match="go on with: --resume"):
        train(toy.recipe(data__train__name="toy:Fatal", schedule__steps=9), run=tmp_path / "run")
    assert 0 < load_checkpoint(open_run(tmp_path / "run").last)["counters"]["step"] < 9


def test_a_signal_that_is_ignored_stays_so(tmp_path, monkeypatch):
    monkeypatch.setattr(toy.Fatal, "asked", 0)
    monkeypatch.setenv("SIGNAL", "SIGHUP")
    monkeypatch.setenv("AFTER", "4")
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        assert train(toy.recipe(data__train__name="toy:Fatal"), run=tmp_path / "run").finished
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_while_a_line_is_written_is_not_lost(tmp_path, monkeypatch):
    class Slow(io.StringIO):
        def write(self, text):
            if "stopping" in text:  # as io has it
                raise RuntimeError("reentrant call inside <_io.BufferedWriter name='<stderr>'>")
            os.kill(os.getpid(), signal.SIGTERM)
            return len(text)

    monkeypatch.setattr(sys, "stderr", Slow())
    with pytest.raises(Interrupted, match="stopped at step 2; go on with: --resume"):
        train(toy.recipe(schedule__steps=9), run=tmp_path / "run")


def test_a_loading_process_that_was_killed_is_one_line(tmp_path, monkeypatch):
    def killed(dataset, index):
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(toy.Fatal, "__getitem__", killed)
    fields = toy.recipe(data__train__name="toy:Fatal", data__workers=1)
    with pytest.raises(UserError, match=r"^step 0: a loading process has died \(.*\), as where memory"):
        train(fields, run=tmp_path / "run")


@pytest.mark.parametrize(("first", "said"), [(1, "begin again"), (6, "go on from the last checkpoint")])
def test_ctrl_c_before_the_first_step_or_a_second_one_stops_at_once(tmp_path, monkeypatch, first, said):
    asked = itertools.count(1)

    def impatient(dataset, index):
        if next(asked) >= first:
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)
        return toy.Dots.__getitem__(dataset, index)

    monkeypatch.setattr(toy.Fatal, "__getitem__", impatient)
    fields = toy.recipe(data__train__name="toy:Fatal", trainer__checkpoint_every=1)
    with pytest.raises(Interrupted, match=f"stopped at once; {said}"):
        train(fields, run=tmp_path / "run")
    assert not (tmp_path / "run" / "student.safetensors").exists()


def test_a_loss_that_is_no_number_fails_at_once_and_saves_the_batch(tmp_path):
    with pytest.raises(UserError, match=r"step 1: the loss is nan \(term ground_truth.*; the batch is in"):
        train(toy.recipe(optimizer__lr=1e36, trainer__checkpoint_every=1), run=tmp_path / "run")
    (path,) = (tmp_path / "run").glob("batch-step1.safetensors")
    batch = load_file(path)
    assert batch["left"].dtype == torch.uint8
    assert batch["left"].shape == (2, 3, 16, 32)


def test_an_option_of_the_wrong_kind_is_one_line_without_teachers_too(tmp_path):
    fields = toy.recipe(teachers={}, objective__features=None, objective__ground_truth__beta="wide")
    with pytest.raises(UserError, match=r"^objective.ground_truth: loss 'smooth_l1' failed: [^\n]*beta"):
        train(fields, run=tmp_path / "run")


def test_a_fault_in_somebodys_own_loss_keeps_its_traceback(tmp_path, monkeypatch):
    monkeypatch.setattr(toy, "faulty", lambda student, teacher, mask: len(3), raising=False)
    fields = toy.recipe(teachers={}, objective__features=None, objective__ground_truth__loss="toy:faulty")
    with pytest.raises(TypeError, match="has no len"):
        train(fields, run=tmp_path / "run")


def test_a_gradient_that_is_no_number_never_reaches_the_weights(tmp_path, monkeypatch):
    def poisoned(student, teacher, mask=None):
        # Finite itself, with an infinite slope at 0.
        return (student - student.detach()).abs().sqrt().mean() + (student - teacher).abs().mean()

    monkeypatch.setattr(toy, "poisoned", poisoned, raising=False)
    fields = toy.recipe(
        objective={"steep": {"loss": "toy:poisoned", "of": "disparity", "to": "ground_truth"}}
    )
    with pytest.raises(UserError, match="step 0: the gradient is"):
        train(fields, run=tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_normalisation_of_teachers_is_folded_but_where_a_term_reads_it():
    plan = load_recipe(
        "shipped/student",
        overrides={
            "teachers.teacher": {
                "name": "ensemble",
                "members": [{"name": "gwcnet_slim", "weights": "shipped", "max_disparity": 64}],
            },
            "objective.aggregation": None,
        },
    )
    (member,) = make_objective(plan).teachers["teacher"].members
    assert not any(isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d) for module in member.modules())
    path = "aggregation.reduce.0.norm"
    read = {"loss": "mse", "of": path, "to": "teacher"}
    plan = load_recipe("shipped/student", overrides={"objective.norm": read})
    teacher = make_objective(plan).teachers["teacher"].network
    left = [path for path, module in teacher.named_modules() if isinstance(module, nn.BatchNorm3d)]
    assert left == [path]


def test_a_rehearsal_before_several_processes_does_not_settle_how_teachers_compute(tmp_path):
    trainer = SimpleNamespace(
        world_size=2, global_rank=0, strategy=SimpleNamespace(root_device=torch.device("cpu"))
    )
    fields = toy.recipe(student__unused=True, trainer__precision="bf16")
    module, _ = _assemble(load_recipe(fields), Run(tmp_path), Counters(), trainer)
    assert not module.student.unused.weight.requires_grad  # the rehearsal found that nothing reaches it
    packed = [m for m in module.objective.teachers["teacher"].modules() if isinstance(m, PackedConv2d)]
    assert packed
    assert all(layer.packed is None for layer in packed)


def test_the_teacher_is_in_no_checkpoint_and_everything_in_it_is_plain(tmp_path):
    run = train(toy.recipe(student__width=4, teachers__teacher__width=4), run=tmp_path / "run")
    state = torch.load(run.last, weights_only=True)
    assert set(state) == {"format", "student", "trained", "terms", "optimizer", "counters"}
    assert state["terms"] == {}
    assert set(state["student"]) == set(toy.Tiny(width=4).state_dict())
    assert sum(len(group["params"]) for group in state["optimizer"]["param_groups"]) == len(
        list(toy.Tiny(width=4).parameters())
    )


def test_adapters_are_trained_and_saved_but_not_handed_over(tmp_path):
    fields = toy.recipe(student__width=4, objective__features__adapter="conv1x1")
    run = train(fields, run=tmp_path / "run")
    state = load_checkpoint(run.last)
    assert any(name.startswith("adapters.features") for name in state["terms"])
    assert set(weights(run)) == set(toy.Tiny(width=4).state_dict())


def test_the_average_of_the_weights_is_what_is_handed_over(tmp_path):
    plain = train(toy.recipe(), run=tmp_path / "plain")
    averaged = train(toy.recipe(trainer__ema=0.9), run=tmp_path / "averaged")
    state = load_checkpoint(averaged.last)
    assert same(state["trained"], load_checkpoint(plain.last)["student"])
    assert same(state["student"], weights(averaged))
    assert not same(state["student"], state["trained"])


def test_the_best_validation_may_be_handed_over(tmp_path):
    # A rate that wrecks what the first steps have learnt.
    fields = toy.recipe(schedule={"steps": 12, "milestones": [6], "gamma": 300.0}, trainer__select="best")
    run = train(fields, run=tmp_path / "run")
    best, last = load_checkpoint(run.best), load_checkpoint(run.last)
    assert best["counters"]["step"] == last["counters"]["best_step"] < 12
    assert same(weights(run), best["student"])
    assert not same(weights(run), last["student"])


def test_frozen_parts_do_not_move_and_frozen_statistics_neither(tmp_path):
    run = train(toy.recipe(student__freeze=["features.0"], student__frozen_bn=True), run=tmp_path / "run")
    torch.manual_seed(1)
    start, end = toy.Tiny().state_dict(), weights(run)
    assert torch.equal(start["features.0.weight"], end["features.0.weight"])
    assert torch.equal(start["features.1.running_mean"], end["features.1.running_mean"])
    assert not torch.equal(start["features.1.weight"], end["features.1.weight"])
    with pytest.raises(
        UserError, match=r"student\.freeze: the network has no 'feature'; did you mean 'features"
    ):
        train(toy.recipe(student__freeze=["feature"]), run=tmp_path / "misspelt")


def test_accumulated_parts_make_the_step_of_the_whole_batch(tmp_path):
    summed = {"loss": "pixel_wise_published", "of": "features", "to": "teacher", "weight": 0.1}
    fields = {"student__frozen_bn": True, "data__batch_size": 4, "optimizer__name": "sgd"}
    fields["objective__summed"] = summed
    whole = train(toy.recipe(**fields), run=tmp_path / "whole")
    parts = train(toy.recipe(**fields, trainer__accumulate=2), run=tmp_path / "parts")
    assert load_checkpoint(parts.last)["counters"]["step"] == 7
    for key, value in weights(whole).items():
        torch.testing.assert_close(weights(parts)[key], value, atol=1e-6, rtol=1e-5)


def test_accumulated_parts_are_one_step_of_a_replacement(tmp_path, monkeypatch):
    seen, end = [], ReplaceBlock.end

    def watched(block):
        seen.append(block.probability)
        end(block)

    monkeypatch.setattr(ReplaceBlock, "end", watched)
    replaced = {"loss": "replace_block", "of": "features", "to": "teacher", "blocks": [2], "ramp_steps": 4}
    fields = {"data__batch_size": 4, "trainer__accumulate": 2, "schedule__steps": 3}
    train(toy.recipe(**fields, objective__replaced=replaced), run=tmp_path / "run")
    assert seen[-6:] == [0, 0, 0, 0, 0.05, 0.05]


def test_minutes_end_a_training_and_drive_its_schedule(tmp_path):
    fields = toy.recipe(schedule={"minutes": 0.02, "name": "one_cycle"}, trainer__log_every=1)
    run = train(fields, run=tmp_path / "run")
    rates = [line["lr"] for line in run.history if "lr" in line]
    assert 1.2 <= load_checkpoint(run.last)["counters"]["seconds"] < 3
    assert max(rates) > 0.8e-2
    assert rates[-1] < 0.05 * max(rates)


def test_what_a_loss_makes_in_its_first_call_is_trained_and_resumed(tmp_path):
    term = {"loss": "toy:Learned", "of": "features", "to": "teacher"}
    fields = toy.recipe(objective__features=term, schedule__steps=2)
    run = train(fields, run=tmp_path / "run")
    first = load_checkpoint(run.last)["terms"]
    run = train(resume=run.path, overrides={"schedule.steps": 4})
    last = load_checkpoint(run.last)["terms"]
    assert list(first) == ["own_losses.features.map.weight", "own_losses.features.map.bias"]
    assert not any(torch.equal(first[name], last[name]) for name in first)


def test_a_teacher_in_half_precision_sees_images_in_it(tmp_path):
    run = train(toy.recipe(teachers__teacher__name="toy:Half", schedule__steps=1), run=tmp_path / "run")
    assert run.history[0]["loss/features"] > 0


@pytest.mark.parametrize("where", ["data__train__name", "data__validate__name"])
def test_samples_that_are_no_mappings_are_one_line(tmp_path, where):
    with pytest.raises(UserError, match="Pairs: a sample is a mapping of tensors by name, got tuple"):
        train(toy.recipe(**{where: "toy:Pairs"}), run=tmp_path / "run")


def test_a_data_set_without_a_length_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"'toy:Endless' has no length; one with __len__ and __getitem__"):
        train(toy.recipe(data__train={"name": "toy:Endless"}), run=tmp_path / "run")


def test_a_resumed_run_may_be_made_longer(tmp_path):
    run = train(toy.recipe(trainer__checkpoint_every=1), run=tmp_path / "run")
    run.student.unlink()
    longer = train(resume=run.path, overrides={"schedule.steps": 9})
    assert load_checkpoint(longer.last)["counters"]["step"] == 9
    assert longer.recipe.schedule.steps == 9


def test_a_finished_run_may_be_made_longer(tmp_path):
    run = train(toy.recipe(schedule__steps=3), run=tmp_path / "run")
    longer = train(resume=run.path, overrides={"schedule.steps": 20})
    whole = train(toy.recipe(schedule__steps=20), run=tmp_path / "whole")
    assert same(weights(longer), weights(whole))
    assert [line["step"] for line in longer.history if "validate/epe" in line] == [1, 2, 3, *range(4, 21, 2)]


def test_a_schedule_that_is_over_when_a_run_is_resumed_is_said(tmp_path, capfd):
    run = train(toy.recipe(schedule__steps=3), run=tmp_path / "run")
    before = weights(run)
    assert "nothing is left to train" not in capfd.readouterr().err
    run.student.unlink()
    run.write_recipe(replace(run.recipe, schedule=Schedule(steps=2)))
    resumed = train(resume=run.path)
    said = (
        "nothing is left to train: the run is at step 3, its schedule of steps: 2 is over; --schedule.steps"
    )
    assert said in capfd.readouterr().err
    assert same(weights(resumed), before)


def test_what_is_changed_on_resuming_is_what_is_trained(tmp_path):
    run = train(toy.recipe(schedule__steps=3), run=tmp_path / "run")
    train(resume=run.path, overrides={"schedule.steps": 5, "optimizer.weight_decay": 0.1})
    assert load_checkpoint(run.last)["optimizer"]["param_groups"][0]["weight_decay"] == 0.1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"student.width": 4}, "does not fit the recipe: size mismatch"),
        ({"optimizer.name": "sgd"}, "does not fit the recipe: it is of another optimizer"),
        ({"student.freeze": ["head"]}, "does not fit the recipe: loaded state dict"),
        ({"objective.features.loss": "l11"}, "there is no loss 'l11'"),
    ],
)
def test_a_change_that_cannot_be_resumed_leaves_the_run_as_it_was(tmp_path, change, message):
    run = train(toy.recipe(schedule__steps=1), run=tmp_path / "run")
    before = run.recipe
    with pytest.raises(UserError, match=message):
        train(resume=run.path, overrides={"schedule.steps": 2, **change})
    assert run.recipe == before
    assert run.finished


def test_a_resolved_recipe_may_be_changed_and_has_no_twin(tmp_path):
    recipe = load_recipe(toy.recipe(schedule__steps=1))
    assert train(recipe, run=tmp_path / "run", overrides={"seed": 5}).recipe.seed == 5
    assert recipe.seed == 1
    with pytest.raises(UserError, match="has no twin"):
        train(recipe, run=tmp_path / "twin", twin=True)


def test_bfloat16_trains_float32_weights(tmp_path):
    run = train(toy.recipe(trainer__precision="bf16"), run=tmp_path / "run")
    assert all(value.dtype == torch.float32 for value in weights(run).values() if value.is_floating_point())


def test_bfloat16_that_an_accelerator_does_not_have_is_told():
    def warned(**trainer):
        return in_float32(
            load_recipe(toy.recipe(**{f"trainer__{key}": value for key, value in trainer.items()}))
        )

    assert "on mps training is in float32" in warned(accelerator="mps", precision="bf16")[0]
    assert warned(accelerator="mps", precision="float32") == []
    assert warned(accelerator="mps", precision="auto") == []
    assert warned(accelerator="cpu", precision="bf16") == []
    for accelerator, wanted in (("mps", False), ("cpu", True)):
        config = load_recipe(toy.recipe(trainer={"accelerator": accelerator, "precision": "bf16"})).trainer
        assert _bfloat16(config) == wanted


def test_two_data_sets_are_mixed_by_weight_and_terms_skip_samples_without_truth(tmp_path):
    train_data = [
        {"name": "toy:Dots", "length": 6, "weight": 1},
        {"name": "toy:Dots", "length": 30, "truth": False, "weight": 3},
    ]
    run = train(toy.recipe(data__train=train_data, schedule__steps=6), run=tmp_path / "run")
    assert all(torch.isfinite(value).all() for value in weights(run).values())


def test_a_batch_in_which_nothing_has_truth_is_no_failure(tmp_path):
    train(toy.recipe(data__train__truth=False, schedule__steps=3), run=tmp_path / "run")


@pytest.mark.parametrize("teaching", [{"objective__features": None}, {"objective__features__weight": 0}])
def test_a_training_without_anything_to_learn_from_says_so(tmp_path, teaching):
    fields = toy.recipe(data__train__truth=False, schedule__steps=1, **teaching)
    with pytest.warns(DataWarning, match="every term is to the ground truth, and the first batch has none"):
        train(fields, run=tmp_path / "run")


def test_a_teacher_without_weights_is_told(tmp_path, capsys):
    small = {"max_disparity": 16}
    fields = toy.recipe(
        student={"name": "dsnet_slim", **small},
        teachers__teacher={"name": "dsnet_slim", **small},
        objective={"output": {"loss": "smooth_l1", "of": "disparity", "to": "teacher"}},
        data__validate=[],
        schedule__steps=1,
    )
    train(fields, run=tmp_path / "run")
    said = "warning: teachers.teacher: 'dsnet_slim' was given no weights and answers at random\n"
    assert said in capsys.readouterr().err


def test_validation_data_without_ground_truth_is_refused_before_the_first_step(tmp_path):
    for view in ("left", "right"):
        (tmp_path / "rig" / view).mkdir(parents=True)
        formats.write_image(tmp_path / "rig" / view / "a.png", np.zeros((32, 64, 3), np.uint8))
    fields = toy.recipe(data__validate={"name": "folder", "root": str(tmp_path / "rig")})
    with pytest.raises(UserError, match="sample 'a' has no 'disparity' to evaluate stereo on"):
        train(fields, run=tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_ground_truth_that_is_all_beyond_the_maximum_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"every disparity of the first batch \(dots.* of 1, the least is"):
        train(toy.recipe(student__max_disparity=1), run=tmp_path / "run")


def test_a_range_of_disparities_is_that_of_the_image_whatever_a_network_sees(tmp_path):
    student = {"name": "toy:Tiny", "max_disparity": 1, "scale": 0.125}
    run = train(toy.recipe(student=student, objective__features=None), run=tmp_path / "run")
    assert run.history[-1]["validate/epe"] > 0  # there is something to measure
    assert finish(run).max_disparity == 8


def test_a_directory_that_holds_a_run_is_not_overwritten(tmp_path):
    train(toy.recipe(), run=tmp_path / "run")
    with pytest.raises(UserError, match="holds a run already: `--resume"):
        train(toy.recipe(), run=tmp_path / "run")


def test_a_run_that_failed_before_its_first_step_may_be_begun_again(tmp_path):
    wrong = {"name": "toy:Dots", "length": 10, "crop": [1000, 1000]}
    with pytest.raises(UserError, match="smaller than the crop"):
        train(toy.recipe(data__train=wrong), run=tmp_path / "run")
    run = train(toy.recipe(), run=tmp_path / "run")
    assert run.finished
    assert run.recipe.data.train[0].crop is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "stereoo"}, "there is no task 'stereoo'; did you mean 'stereo'"),
        ({"task": "depth"}, "task: the recipe is of depth, its student 'toy:Tiny' of stereo"),
        (
            {"teachers__teacher": {"name": "depth_slim"}},
            "teachers.teacher: it is of depth and sees image; the recipe is of stereo, which has left, right",
        ),
        ({"student__name": "os:sep"}, "network 'os:sep' is a str; a class or a function is wanted"),
        ({"student__name": "toy:recipe"}, "network 'toy:recipe' gives a dict; a torch.nn.Module is wanted"),
        ({"teachers__teacher__name": "toy:recipe"}, "teacher 'toy:recipe' is a dict"),
        ({"student__name": ".toy:Tiny"}, "network '.toy:Tiny': a module is named from the top"),
        ({"data__protocol": "kiti2015"}, "there is no protocol 'kiti2015'; did you mean 'kitti2015'"),
        (
            {"objective__off": {"loss": "cosin", "of": "features", "to": "teacher", "weight": 0}},
            "objective.off: there is no loss 'cosin'; did you mean 'cosine'",
        ),
    ],
)
def test_what_cannot_match_is_refused_before_anything_is_written(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        train(toy.recipe(**changes), run=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_accelerator_that_is_not_here_has_one_line(tmp_path):
    with pytest.raises(UserError, match="there is no abacus with 1 devices here") as caught:
        train(toy.recipe(trainer__accelerator="abacus"), run=tmp_path / "run")
    assert "\n" not in str(caught.value)


def test_default_directories_are_numbered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = [str(train(toy.recipe(schedule__steps=1)).path) for _ in range(2)]
    assert paths == ["runs/toy", "runs/toy-2"]


@pytest.mark.parametrize("damage", ["missing", "truncated", "foreign"])
def test_a_checkpoint_that_cannot_be_used_has_one_line(tmp_path, damage):
    run = train(toy.recipe(), run=tmp_path / "run")
    run.student.unlink()
    if damage == "missing":
        with pytest.raises(UserError, match="holds no run"):
            train(resume=tmp_path / "elsewhere")
        return
    if damage == "truncated":
        run.last.write_bytes(run.last.read_bytes()[:1000])
    else:
        torch.save({"weights": torch.zeros(1)}, run.last)
    with pytest.raises(UserError, match=r"last\.ckpt: .*not a checkpoint"):
        train(resume=run.path)


def test_a_damaged_log_has_one_line(tmp_path):
    run = train(toy.recipe(), run=tmp_path / "run")
    run.student.unlink()
    log = run.path / "metrics.jsonl"
    log.write_text('{"step": 2, "ti\n' + log.read_text())
    with pytest.raises(UserError, match=r"metrics\.jsonl is damaged: not every line is JSON"):
        train(resume=run.path)


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    run = train(toy.recipe(), run=tmp_path / "run")
    run.student.unlink()
    with pytest.raises(UserError, match="does not fit the recipe"):
        train(resume=run.path, overrides={"student.width": 4})


def test_a_full_disk_has_one_line_and_leaves_no_half_written_file(tmp_path):
    # The system refuses to let a file grow beyond a size, as a full disk would.
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    fields = toy.recipe(trainer__checkpoint_every=1, student__width=1000, objective__features__weight=0)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, before[1]))
    try:
        with pytest.raises(UserError, match=r"cannot write .*checkpoints/\w+\.ckpt: File too large"):
            train(fields, run=tmp_path / "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a disk that is always full is Linux's")
def test_a_log_on_a_full_disk_has_one_line(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"cannot write .*run: No space left on device"):
        train(toy.recipe(), run=tmp_path / "run")


def test_the_run_says_what_it_was_trained_with(tmp_path):
    run = train(toy.recipe(schedule__steps=1), run=tmp_path / "run")
    environment = json.loads((run.path / "environment.json").read_text())
    assert torch.__version__.startswith(environment["packages"]["torch"])
    assert environment["cpu"]["cores"] == usable_cores()


def test_a_second_training_in_one_directory_is_refused(tmp_path):
    recipe = write_recipe(tmp_path, schedule__steps=1)
    with (
        held(tmp_path / "run", "training") as process,
        pytest.raises(UserError, match=rf"another training \(process {process}\) is at work"),
    ):
        train(recipe, run=tmp_path / "run")
    assert train(recipe, run=tmp_path / "run").finished


def test_a_figure_that_is_not_finite_is_logged_as_null(tmp_path):
    run = Run(tmp_path)
    run.log(1, 0.5, {"validate/epe": float("inf"), "lr": 1e-3})
    run.forget_after(1)
    assert run.history == [{"step": 1, "time": 0.5, "validate/epe": None, "lr": 1e-3}]
    assert json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=pytest.fail)


def test_what_ddp_says_of_a_1x1_adapters_layout_is_not_passed_on():
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with _quiet():
            warnings.warn("Grad strides do not match bucket view strides. This may …", stacklevel=1)
            warnings.warn("of the user's own code", stacklevel=1)
    assert [str(one.message) for one in said] == ["of the user's own code"]
