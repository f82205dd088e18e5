import itertools
import multiprocessing
import os
import pickle
import random
import signal
import threading
import time

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from densedistill.data import loader as loaders
from densedistill.data.loader import Mixture, StepSampler, default_workers, make_loader, open_mixture, shares
from densedistill.errors import UserError
from densedistill.recipes import DataSet


def steps(sampler, count):
    return list(itertools.islice(iter(sampler), count))


@settings(max_examples=30, deadline=None)
@given(length=st.integers(1, 40), batch=st.integers(1, 8), start=st.integers(0, 30), seed=st.integers(0, 5))
def test_iterating_from_any_step_gives_what_iterating_from_the_first_gives(length, batch, start, seed):
    whole = steps(StepSampler([length], batch, seed=seed), start + 5)
    assert steps(StepSampler([length], batch, seed=seed, start=start), 5) == whole[start:]


@settings(max_examples=30, deadline=None)
@given(length=st.integers(1, 40), batch=st.integers(1, 8))
def test_an_epoch_shows_every_sample_at_most_once_and_drops_only_the_last_partial_batch(length, batch):
    sampler = StepSampler([length], batch)
    indices = [index for keys in steps(sampler, sampler.steps_per_epoch) for _, index, *_ in keys]
    if length >= batch:
        assert len(set(indices)) == len(indices) == length // batch * batch
    else:
        assert len(indices) == batch
        assert set(indices) == set(range(length))


def test_epochs_are_shuffled_differently_and_counted():
    sampler = StepSampler([12], 4)
    first, second = ([sampler.batch(step) for step in range(epoch * 3, epoch * 3 + 3)] for epoch in range(2))
    assert {epoch for keys in first for _, _, epoch, _ in keys} == {0}
    assert {epoch for keys in second for _, _, epoch, _ in keys} == {1}
    assert [k[1] for keys in first for k in keys] != [k[1] for keys in second for k in keys]
    assert sampler.epoch(5) == 1


@pytest.mark.parametrize(("processes", "parts"), [(2, 1), (1, 2), (2, 3)])
def test_processes_and_parts_together_see_the_batch_of_one(processes, parts):
    whole = StepSampler([30], 6, seed=3)
    shared = [
        StepSampler([30], 6, seed=3, rank=r, world_size=processes, parts=parts) for r in range(processes)
    ]
    for step in range(12):
        pieces = [one.batch(step, part) for part in range(parts) for one in shared]
        assert [key for piece in pieces for key in piece] == whole.batch(step)
    assert steps(shared[0], 2 * parts)[parts] == shared[0].batch(1)
    with pytest.raises(UserError, match="does not divide into 1 parts on 4 processes"):
        StepSampler([30], 6, world_size=4)


def test_the_order_of_a_seed_is_what_it_always_was():
    """Runs are resumed, and compared with earlier ones, by it."""
    assert StepSampler([7], 3, seed=1).batch(0) == [(0, 5, 0, 0), (0, 0, 0, 0), (0, 1, 0, 0)]
    assert StepSampler([7], 3, seed=2).batch(3) == [(0, 3, 1, 0), (0, 6, 1, 0), (0, 5, 1, 0)]
    mixed = StepSampler([4, 6], 5, seed=1, weights=[1, 1]).batch(1)
    assert mixed == [(1, 2, 0, 0), (1, 5, 0, 0), (1, 4, 0, 0), (0, 2, 0, 0), (0, 3, 0, 0)]
    first = Mixture([(Numbers(), noisy)], seed=5)[0, 4, 2, 0]["noise"].item()
    assert first == pytest.approx(np.random.default_rng([5, 2, 4]).standard_normal())


@pytest.mark.parametrize(("lengths", "batch", "weights"), [([3], 8, None), ([2, 30], 4, [1.0, 1.0])])
def test_a_sample_that_an_epoch_has_again_is_augmented_anew(lengths, batch, weights):
    sampler = StepSampler(lengths, batch, weights)
    keys = [key for step in range(3 * sampler.steps_per_epoch) for key in sampler.batch(step)]
    assert len(set(keys)) == len(keys)
    mixture = Mixture([(Numbers(), noisy)] * len(lengths), seed=5)
    assert len({mixture[key]["noise"].item() for key in keys}) == len(keys)


def test_data_sets_are_mixed_in_every_batch():
    sampler = StepSampler([500, 500], 100)
    shares = [np.mean([key[0] for key in sampler.batch(step)]) for step in range(10)]
    assert 0.3 < min(shares) <= max(shares) < 0.7


def test_weights_are_shares_of_the_samples():
    sampler = StepSampler([10, 1000], 10, weights=[3.0, 1.0])
    keys = [key for step in range(sampler.steps_per_epoch) for key in sampler.batch(step)]
    assert np.mean([number == 0 for number, *_ in keys]) == pytest.approx(0.75, abs=0.01)
    assert {index for number, index, *_ in keys if number == 0} == set(range(10))
    assert shares([None, None]) is None
    with pytest.raises(UserError, match="every data set a weight, or none"):
        shares([1.0, None])


class Numbers(torch.utils.data.Dataset):
    def __len__(self):
        return 6

    def __getitem__(self, index):
        return {"left": torch.full((3, 2, 2), index, dtype=torch.uint8), "meta": {"name": str(index)}}


def noisy(sample, rng):
    return {**sample, "noise": torch.tensor(rng.standard_normal())}


@pytest.mark.parametrize("workers", [0, 2])
def test_augmentation_depends_on_seed_epoch_and_sample_whoever_loads_it(workers):
    mixture = Mixture([(Numbers(), noisy), (Numbers(), noisy)], seed=5)
    loader, sampler = make_loader(mixture, 4, seed=5, workers=workers)
    later, _ = make_loader(mixture, 4, seed=5, start_step=2)
    batches = list(itertools.islice(loader, 4))
    resumed = list(itertools.islice(later, 2))
    for expected, got in zip(batches[2:], resumed, strict=True):
        assert torch.equal(expected["noise"], got["noise"])
    for step, batch in enumerate(batches):
        for (number, index, epoch, before), noise in zip(sampler.batch(step), batch["noise"], strict=True):
            expected = np.random.default_rng([5, epoch, 6 * number + index, before]).standard_normal()
            assert noise.item() == pytest.approx(expected, abs=1e-6)


class Drawn(Numbers):
    """Draws from every global generator."""

    def __getitem__(self, index):
        drawn = random.random() + np.random.rand() + float(torch.rand(()))  # noqa: NPY002
        return super().__getitem__(index) | {"drawn": torch.tensor(drawn)}


def test_what_a_data_set_draws_from_global_generators_depends_on_seed_epoch_and_sample_alone():
    def draw(seed, *keys):
        mixture = Mixture([(Drawn(), None), (Drawn(), None)], seed=seed)
        return [mixture[key]["drawn"].item() for key in keys]

    random.seed(0)
    found = draw(1, (0, 0, 0, 0), (0, 1, 0, 0), (1, 0, 0, 0), (0, 0, 1, 0)) + draw(2, (0, 0, 0, 0))
    assert len(set(found)) == 5
    assert draw(1, (0, 0, 1, 0), (0, 0, 0, 0)) == [found[3], found[0]]
    assert random.random() == random.Random(0).random()  # the caller's stay as they were


def test_loading_processes_stand_beside_a_gpu_alone():
    assert default_workers(cuda=False) == 0
    assert 1 <= default_workers(cuda=True) <= 8


class Blurred(Numbers):
    def __getitem__(self, index):
        image = cv2.GaussianBlur(np.full((256, 256, 3), index, np.uint8), (9, 9), 2)
        return {"left": torch.from_numpy(image).permute(2, 0, 1), "meta": {"name": str(index)}}


def test_workers_do_not_wait_for_the_threads_of_opencv_that_their_parent_had():
    cv2.setNumThreads(2)
    Blurred()[0]
    loader, _ = make_loader(Mixture([(Blurred(), lambda sample, rng: sample)], seed=1), 2, workers=1)
    assert next(iter(loader))["left"].shape == (2, 3, 256, 256)


def test_augmentation_of_a_data_set_is_laid_over_the_common_one():
    entries = [
        DataSet(name="toy:Dots", crop=[8, 16]),
        DataSet(name="toy:Dots", augment={"position": "centre"}, options={"crop": [4, 8], "length": 3}),
        DataSet(name="toy:Dots"),
    ]
    mixture = open_mixture(entries, {"crop": [16, 24]}, "stereo", seed=1)
    assert [tuple(mixture[number, 0, 0, 0]["left"].shape[1:]) for number in range(3)] == [
        (8, 16),
        (4, 8),
        (16, 24),
    ]
    assert mixture.lengths == [8, 3, 8]
    with pytest.raises(UserError, match="no augmentation 'strog'; did you mean 'strong'"):
        open_mixture([DataSet(name="toy:Dots")], "strog", "stereo", seed=1)
    with pytest.raises(UserError, match=r"crop is two numbers, got \[\]"):
        open_mixture([DataSet(name="toy:Dots", crop=[])], {}, "stereo", seed=1)


def test_ground_truth_can_be_taken_away_from_one_data_set_alone():
    world = {"length": 2, "size": [32, 64], "max_disparity": 16}
    entries = [DataSet(name="world", options=world, truth=truth, crop=[32, 32]) for truth in (True, False)]
    mixture = pickle.loads(pickle.dumps(open_mixture(entries, {}, "stereo", seed=1)))  # as a worker has it
    known, hidden = mixture[0, 1, 0, 0], mixture[1, 1, 0, 0]
    assert {"disparity", "disparity_valid"} <= known.keys()
    assert hidden.keys() == {"left", "right", "meta"}
    assert hidden["left"].shape == known["left"].shape == (3, 32, 32)
    assert mixture.lengths == [2, 2]
    assert mixture.parts[1][0].task == "stereo"  # all else is the data set's own


@pytest.mark.parametrize("workers", [0, 1])
def test_samples_of_different_sizes_are_told_in_one_line_from_a_worker_too(workers):
    parts = [([{"left": torch.zeros(3, 4, width)}], None) for width in (4, 5)]
    loader, _ = make_loader(Mixture(parts, seed=1), batch_size=2, workers=workers)
    with pytest.raises(UserError) as error:
        next(iter(loader))
    assert str(error.value).startswith("a batch needs samples of one size, `left` has ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("known", "names"),
    [
        ([("road", "sky"), None, ["road", "sky"]], ("road", "sky")),
        ([("road", "sky"), ("sky", "road")], ()),
        ([2, None], ()),
    ],
)
def test_a_mixture_names_classes_where_its_data_sets_agree(known, names):
    class Named(list):
        pass

    parts = []
    for classes in known:
        part = Named([{}])
        if classes is not None:
            part.classes = classes
        parts.append((part, None))
    assert Mixture(parts, seed=1).classes == names


def worker_with_a_thread_of_its_own():
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
    loaders._leave_signals(0)
    for _ in range(20):
        os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.2)
    os._exit(7)


@pytest.mark.skipif(
    not hasattr(signal, "sigwaitinfo"), reason="macOS and Windows cannot tell who sent a signal"
)
def test_a_termination_of_the_whole_job_spares_workers_whose_libraries_have_threads():
    worker = multiprocessing.get_context("fork").Process(target=worker_with_a_thread_of_its_own)
    worker.start()
    worker.join(30)
    assert worker.exitcode == 7
