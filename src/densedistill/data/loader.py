"""Batches by step number: what step n sees depends on the seed and n alone, so a resumed run sees the
same."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from ..errors import UserError
from ..machine import usable_cores
from . import datasets
from .augment import OPTIONS as AUGMENTATIONS
from .augment import Augmentation, Options, build_augmentation
from .passing import AHEAD, Collate, require_processes
from .sample import IMAGES, Sample, collate, require_sample

# What a terminal sends to every process in it: Ctrl-C, and that it was closed, which Windows does not say.
FROM_TERMINAL = [number for number in signal.Signals if number.name in ("SIGINT", "SIGHUP")]

Key = tuple[int, int, int, int]  # data set, sample in it, epoch, how often the epoch had it before


class StepSampler(Sampler[list[Key]]):
    """The batches of one process, from `start` on without end; `batch(n)` gives any of them directly.

    Every epoch takes a new permutation. The samples that do not fill a last batch are dropped; fewer samples
    than one batch are repeated until it is full.

    Args:
        lengths: samples in each data set.
        batch_size: samples of one step over all processes.
        weights: each data set's share of an epoch; None: as many as it has.
        seed: of the permutations.
        start: the step that the iteration begins with.
        rank, world_size: this process takes the rank-th share of every batch.
        parts: batches that one step is made of, for accumulated gradients.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        batch_size: int,
        weights: Sequence[float] | None = None,
        seed: int = 1,
        start: int = 0,
        rank: int = 0,
        world_size: int = 1,
        parts: int = 1,
    ):
        if batch_size % (world_size * parts):
            raise UserError(
                f"a batch of {batch_size} does not divide into {parts} parts on {world_size} processes"
            )
        if not lengths or not all(lengths):
            raise UserError("there is nothing to train on: a data set has no samples")
        total = sum(lengths)
        self.lengths, self.batch_size, self.seed, self.start = list(lengths), batch_size, seed, start
        self.rank, self.world_size, self.parts = rank, world_size, parts
        shares = [w / sum(weights) for w in weights] if weights else [length / total for length in lengths]
        self._counts = [round(total * share) for share in shares]
        self.steps_per_epoch = max(1, sum(self._counts) // batch_size)
        # One epoch's order is asked for by every batch in it; a second covers the crossing.
        self._order = lru_cache(maxsize=2)(self._make_order)

    def epoch(self, step: int) -> int:
        """Return the epoch that `step` lies in, from 0."""
        return step // self.steps_per_epoch

    def batch(self, step: int, part: int = 0) -> list[Key]:
        """Return this process's share of the part-th batch of `step`."""
        epoch, place = divmod(step, self.steps_per_epoch)
        share = self.batch_size // (self.world_size * self.parts)
        first = place * self.batch_size + (part * self.world_size + self.rank) * share
        return [(d, i, epoch, before) for d, i, before in self._order(epoch)[first : first + share].tolist()]

    def _make_order(self, epoch: int) -> np.ndarray:
        rng = np.random.default_rng([self.seed, epoch])
        parts = []
        for number, (length, count) in enumerate(zip(self.lengths, self._counts, strict=True)):
            rounds = [rng.permutation(length) for _ in range(-(-count // length))]
            indices = np.concatenate([*rounds, np.empty(0, np.int64)])[:count]
            parts.append(np.stack([np.full(count, number), indices, np.arange(count) // length], axis=1))
        order = np.concatenate(parts)
        if len(parts) > 1:
            order = order[rng.permutation(len(order))]
        again = np.array([0, 0, order[:, 2].max() + 1])
        copies = -(-self.batch_size // len(order))
        return np.concatenate([order + copy * again for copy in range(copies)])

    def __iter__(self) -> Iterator[list[Key]]:
        step = self.start
        while True:
            for part in range(self.parts):
                yield self.batch(step, part)
            step += 1


class Mixture(Dataset[Sample]):
    """Several data sets as one, each with its augmentation; indexed by the sampler's keys.

    The randomness of a sample is a function of (seed, epoch, position in the mixture, how often the epoch had
    it before), whoever loads it, also of what a data set of one's own draws from the global generators of
    Python, NumPy and torch.
    """

    def __init__(
        self,
        parts: Sequence[tuple[Dataset[Sample], Callable[[Sample, np.random.Generator], Sample] | None]],
        seed: int,
    ):
        self.parts, self.seed = list(parts), seed
        self.lengths = [len(part) for part, _ in parts]  # type: ignore[arg-type]
        self._offsets = np.concatenate([[0], np.cumsum(self.lengths)])

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, where the data sets that name theirs name the same."""
        known = (getattr(dataset, "classes", ()) for dataset, _ in self.parts)
        named = {tuple(names) for names in known if isinstance(names, list | tuple) and names}
        return named.pop() if len(named) == 1 else ()

    def suit(self, adapt: Callable[[Options, Sequence[str] | None], Options]) -> None:
        """Let a teacher adapt the augmentation of each part, or refuse it; it is told the samples' names."""
        for number, (dataset, augment) in enumerate(self.parts):
            before = getattr(augment, "options", Options())
            after = adapt(before, getattr(dataset, "names", None))
            if after != before:
                self.parts[number] = dataset, Augmentation(after, getattr(augment, "task", "stereo"))

    def __len__(self) -> int:
        return sum(self.lengths)

    def __getitem__(self, key: Key) -> Sample:
        number, index, epoch, before = key
        dataset, augment = self.parts[number]
        place = [self.seed, epoch, int(self._offsets[number]) + index, before]
        with _seeded(place):
            sample = dataset[index]
        require_sample(sample, type(dataset).__name__)
        return sample if augment is None else augment(sample, np.random.default_rng(place))


@contextlib.contextmanager
def _seeded(key: Sequence[int]) -> Iterator[None]:
    """Seed the global generators (torch's of the CPU) by `key`, and leave them as they were."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    seed = int(np.random.SeedSequence(key).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        torch.set_rng_state(before[2])


class Unlabelled(Dataset[Sample]):
    """The images of another data set, as if nobody knew more of them."""

    def __init__(self, dataset: Dataset[Sample]):
        self.dataset = dataset

    def __getattr__(self, name: str) -> Any:
        if name == "dataset":  # not there yet, where a copy is being unpickled
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Sample:
        return {key: value for key, value in self.dataset[index].items() if key in (*IMAGES, "meta")}


def open_mixture(entries: Sequence[Any], augment: dict[str, Any] | str, task: str, seed: int) -> Mixture:
    """Return the data sets of a recipe's `data.train` as one mixture; an entry's augmentation is merged over
    `augment`."""
    parts: list[Any] = []
    for entry in entries:
        direct = {key: value for key, value in entry.options.items() if key in AUGMENTATIONS}
        config = {**_options(augment), **_options(entry.augment), **direct}
        config |= {"crop": entry.crop} if entry.crop is not None else {}
        parts.append((open_dataset(entry, task), build_augmentation(config, task) if config else None))
    return Mixture(parts, seed)


def _options(augment: dict[str, Any] | str) -> dict[str, Any]:
    return {"augment": augment} if isinstance(augment, str) else augment


def open_dataset(entry: Any, task: str) -> Dataset[Sample]:
    """Return the data set that an entry of a recipe names, with samples for `task`, and with no ground truth
    where the entry takes it away."""
    options = {key: value for key, value in entry.options.items() if key not in AUGMENTATIONS}
    dataset = datasets.open_dataset(entry.name, task, root=entry.root, split=entry.split, **options)
    if not hasattr(dataset, "__len__"):
        raise UserError(
            f"the data set '{entry.name}' has no length; one with __len__ and __getitem__(number) is wanted, "
            "so that any sample may come next"
        )
    if len(dataset) == 0:
        raise UserError(f"the data set '{entry.name}' is empty (root {entry.root}, split {entry.split})")
    return dataset if entry.truth else Unlabelled(dataset)


def shares(weights: Sequence[float | None]) -> list[float] | None:
    """Return the sampling weights of the data sets, None if none has one; UserError when only some have."""
    if all(weight is None for weight in weights):
        return None
    if any(weight is None for weight in weights):
        raise UserError("data.train: give every data set a weight, or none of them")
    return [float(weight) for weight in weights if weight is not None]


def make_loader(
    mixture: Mixture,
    batch_size: int,
    seed: int = 1,
    weights: Sequence[float] | None = None,
    start_step: int = 0,
    rank: int = 0,
    world_size: int = 1,
    parts: int = 1,
    workers: int = 0,
    pin_memory: bool = False,
) -> tuple[DataLoader[Any], StepSampler]:
    """Return the endless loader of training batches from `start_step` on, and its sampler.

    Raises:
        UserError: the batch does not divide, a data set is empty, or no `workers` can be started here.
    """
    sampler = StepSampler(mixture.lengths, batch_size, weights, seed, start_step, rank, world_size, parts)
    if workers:
        # OpenCV's threads do not survive a fork: a worker that inherits their pool waits for them forever.
        import cv2

        cv2.setNumThreads(1)
        require_processes()
    loader = DataLoader(
        mixture,
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=Collate(workers, world_size) if workers else collate,
        prefetch_factor=AHEAD if workers else None,
        pin_memory=pin_memory,
        persistent_workers=workers > 0,
        worker_init_fn=_leave_signals,
    )
    return loader, sampler


def _leave_signals(worker: int) -> None:
    """Let what reaches every process of a terminal or job, Ctrl-C, a closed window or the end of its time on
    a cluster, stop the training alone: it ends its workers."""
    for number in FROM_TERMINAL:
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent and hasattr(signal, "sigwaitinfo"):  # not on macOS and Windows
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        signal.signal(signal.SIGTERM, lambda *_: None)  # threads that a library began before do not block it
        threading.Thread(target=_end_with, args=(parent.pid,), daemon=True).start()


def _end_with(parent: int | None) -> None:
    """Leave this process when `parent` asks for it."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


def default_workers(cuda: bool) -> int:
    """Return the loading processes of one training process: none on a CPU, which is busy, up to 8 beside a
    GPU."""
    return min(8, max(1, usable_cores() - 1)) if cuda else 0
