"""Training with an adversary: who steps when, resumed exactly, the same on one process and on two."""

import itertools

import pytest
import torch
import toy
import yaml
from safetensors.torch import load_file
from test_train import run_in_another_process

import densedistill as dd
from densedistill.distillation.losses.holistic import discriminator_loss
from densedistill.errors import UserError
from densedistill.training import make_objective, open_run, train
from densedistill.training.checkpoint import load_checkpoint

HOLISTIC = {
    "loss": "holistic",
    "of": "features",
    "to": "teacher",
    "classes": 8,
    "width": 8,
    "weight": 0.5,
    "lr": 0.01,
}
QUIET = {"pictures": 0, "log_every": 1, "threads": 1, "precision": "float32"}


def recipe(**changes):
    return toy.recipe(
        **{"objective__holistic": dict(HOLISTIC), "trainer": dict(QUIET), "schedule__steps": 3, **changes}
    )


def adversary(state):
    return {key: value for key, value in state["terms"].items() if ".adversary." in key}


def test_the_students_optimiser_never_touches_the_adversary_and_both_learn(tmp_path):
    run = train(recipe(), run=tmp_path / "run")
    state = load_checkpoint(run.last)
    assert len(state["optimizer"]["all"]) == 2
    first = make_objective(run.recipe)
    before, after = dict(first.own_losses["holistic"].adversary.named_parameters()), adversary(state)
    moved = [n for n, p in before.items() if not torch.equal(p, after[f"own_losses.holistic.adversary.{n}"])]
    assert len(moved) > 0.8 * len(before)
    line = next(line for line in run.history if "loss/holistic_adversary" in line)
    assert line["loss/holistic_adversary"] > 0
    assert not any("adversary" in key for key in load_file(run.student))


@pytest.mark.parametrize("parts", [1, 2])
def test_a_step_is_student_then_adversary_on_scores_of_before(tmp_path, parts):
    """One step by hand, on the batch that the run saw, whole or in parts, gives the run's weights."""
    fields = recipe(schedule__steps=1, optimizer__name="sgd", trainer__accumulate=parts)
    run = train(fields, run=tmp_path / "run")
    objective = make_objective(run.recipe)
    from densedistill.data.loader import make_loader, open_mixture

    mixture = open_mixture(run.recipe.data.train, {}, "stereo", run.recipe.seed)
    loader, _ = make_loader(mixture, 2, run.recipe.seed, parts=parts)
    term = objective.adversaries["holistic"]
    student = torch.optim.SGD(objective.student.parameters(), 1e-2, momentum=0.9)
    rival = torch.optim.SGD(term.adversary.parameters(), **term.adversary_options)
    objective.student.train()
    for batch in itertools.islice(loader, parts):
        total, _ = objective(batch)
        (total / parts).backward()
        of_student, of_teacher, _ = term._seen.pop()
        scores = [term.adversary(x).score for x in (of_teacher, of_student)]
        (0.5 * discriminator_loss(scores[1], scores[0]) / parts).backward()
    student.step()
    rival.step()
    state = load_checkpoint(run.last)
    for name, parameter in objective.student.named_parameters():
        torch.testing.assert_close(state["student"][name], parameter.detach())
    for name, parameter in term.adversary.named_parameters():
        expected = state["terms"][f"own_losses.holistic.adversary.{name}"]
        torch.testing.assert_close(expected, parameter.detach())


def test_a_weight_that_decays_does_so_for_both_sides(tmp_path):
    ends = []
    for name, weight in (("decayed", {"weight": 0.5, "decay": {"epochs": [0], "factor": 0.5}}), ("low", {})):
        holistic = {**HOLISTIC, "weight": 0.25, **weight}
        run = train(recipe(objective__holistic=holistic, schedule__steps=2), run=tmp_path / name)
        ends.append(load_checkpoint(run.last))
    assert all(torch.equal(ends[0]["student"][key], value) for key, value in ends[1]["student"].items())
    assert all(torch.equal(adversary(ends[0])[key], value) for key, value in adversary(ends[1]).items())


def test_a_resumed_run_ends_with_the_same_student_adversary_and_optimisers(tmp_path):
    whole = train(recipe(schedule__steps=5), run=tmp_path / "whole")
    run = train(recipe(schedule__steps=2), run=tmp_path / "run")
    run.student.unlink()
    resumed = train(resume=run.path, overrides={"schedule.steps": 5})
    first, second = load_checkpoint(whole.last), load_checkpoint(resumed.last)
    for part in ("student", "terms"):
        assert all(torch.equal(second[part][key], value) for key, value in first[part].items()), part
    for one, other in zip(first["optimizer"]["all"], second["optimizer"]["all"], strict=True):
        for key, entry in one["state"].items():
            assert all(
                torch.equal(other["state"][key][name], value)
                for name, value in entry.items()
                if isinstance(value, torch.Tensor)
            )


def test_the_adversarys_gradient_has_its_own_largest_norm(tmp_path):
    holistic = {**HOLISTIC, "clip": 0.02, "weight_decay": 0.0}
    run = train(recipe(objective__holistic=holistic, schedule__steps=1), run=tmp_path / "run")
    before = make_objective(run.recipe).own_losses["holistic"].adversary.named_parameters()
    after = adversary(load_checkpoint(run.last))
    moved = [(after[f"own_losses.holistic.adversary.{n}"] - p.detach()).flatten() for n, p in before]
    assert torch.cat(moved).norm().item() == pytest.approx(HOLISTIC["lr"] * 0.02, rel=0.01)


def test_both_rates_follow_the_schedule(tmp_path):
    from densedistill.training import adversarial

    seen = []
    original = adversarial.AdversarialModule.training_step

    def record(self, batch, batch_idx):
        seen.append([optimizer.param_groups[0]["lr"] for optimizer in self._optimizers()])
        return original(self, batch, batch_idx)

    adversarial.AdversarialModule.training_step = record
    try:
        train(recipe(schedule={"steps": 2, "name": "poly", "power": 0.9}), run=tmp_path / "run")
    finally:
        adversarial.AdversarialModule.training_step = original
    assert seen[0] == pytest.approx([1e-2, 0.01])
    assert seen[1] == pytest.approx([1e-2 * 0.5**0.9, 0.01 * 0.5**0.9])


def test_the_published_form_trains_in_bfloat16(tmp_path):
    changes = {"objective__holistic__kind": "wgan-gp", "trainer": {**QUIET, "precision": "bf16"}}
    run = train(recipe(**changes), run=tmp_path / "run")
    assert all(
        value.isfinite().all()
        for value in adversary(load_checkpoint(run.last)).values()
        if value.is_floating_point()
    )


def test_an_adversary_that_becomes_no_number_stops_the_run_in_one_line(tmp_path):
    with pytest.raises(UserError, match="step 0: the adversary's gradient is nan") as stopped:
        train(recipe(objective__holistic__loss="test_adversarial:Broken"), run=tmp_path / "run")
    assert "\n" not in str(stopped.value)


class Broken(dd.losses.Holistic):
    """A holistic term whose adversary divides by zero."""

    def adversary_loss(self):
        return super().adversary_loss() * float("nan")


def test_own_loops_find_the_adversary_and_its_loss():
    student, teacher = toy.Tiny(), toy.Tiny()
    terms = {"holistic": dict(HOLISTIC), "truth": {"loss": "l1", "of": "disparity", "to": "ground_truth"}}
    objective = dd.Objective(terms, student.train(), {"teacher": teacher})
    sample = toy.Dots()[0]
    batch = {key: value[None] for key, value in sample.items() if isinstance(value, torch.Tensor)}
    total, _ = objective({key: torch.cat((value, value)) for key, value in batch.items()})
    total.backward()
    assert objective.adversaries["holistic"].adversary_loss().isfinite()
    objective.unreachable_parameters()  # which compares noise
    with pytest.raises(RuntimeError, match="has seen no scores"):
        objective.adversaries["holistic"].adversary_loss()


@pytest.mark.full
def test_two_processes_with_an_adversary_train_and_agree_with_one(tmp_path):
    fields = recipe(
        data__batch_size=4,
        data__train__length=12,
        optimizer__name="sgd",
        student__frozen_bn=True,
        schedule__steps=4,
    )
    fields["objective"]["holistic"]["prepare"] = "tanh"  # no statistics of a batch
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(fields))
    curves = []
    for number in (1, 2):
        done = run_in_another_process(
            tmp_path, "train", "toy.yaml", "--run", f"run{number}", "--devices", f"{number}"
        )
        assert done.returncode == 0, done.stderr
        history = open_run(tmp_path / f"run{number}").history
        curves.append(torch.tensor([line["loss/total"] for line in history if "loss/total" in line]))
    torch.testing.assert_close(curves[1], curves[0], atol=1e-4, rtol=1e-4)
    one, two = (adversary(load_checkpoint(open_run(tmp_path / f"run{n}").last)) for n in (1, 2))
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, atol=1e-4, rtol=1e-3)
