"""A data set and networks so small that a whole training takes a second."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import IterableDataset, get_worker_info

from densedistill.networks.input_spec import InputSpec


class Dots:
    """Random dots seen twice, each sample at a constant disparity, also as the `names` and `task` of a data
    set."""

    task = "stereo"

    def __init__(self, length: int = 8, height: int = 16, width: int = 32, seed: int = 0, truth: bool = True):
        self.names = [f"dots{i}" for i in range(length)]
        self.size, self.seed, self.truth = (height, width), seed, truth

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> dict[str, Any]:
        rng = np.random.default_rng([self.seed, index])
        disparity = int(rng.integers(1, 6))
        wide = rng.integers(0, 256, (3, self.size[0], self.size[1] + disparity), dtype=np.uint8)
        truth = torch.full((1, *self.size), float(disparity))
        sample = {
            "left": torch.from_numpy(wide[..., : self.size[1]].copy()),
            "right": torch.from_numpy(wide[..., disparity:].copy()),
            "meta": {"name": self.names[index], "size": self.size},
        }
        if self.truth:
            sample |= {"disparity": truth, "disparity_valid": torch.ones_like(truth, dtype=torch.bool)}
        return sample


class Tiny(nn.Module):
    """Four convolutions with batch norm; its tap `features` is what a teacher can be compared with.

    `unused` makes a layer that reaches no output.
    """

    input_spec = InputSpec(multiple=4)
    taps: ClassVar = {"features": ("features",)}
    task = "stereo"

    def __init__(self, max_disparity: int = 8, width: int = 8, dropout: float = 0.0, unused: bool = False):
        super().__init__()
        self.max_disparity = max_disparity
        self.features = nn.Sequential(
            nn.Conv2d(6, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Dropout2d(dropout),
        )
        self.head = nn.Conv2d(width, 2, 3, padding=1)
        self.unused = nn.Linear(2, 2) if unused else None

    def forward(self, left: Tensor, right: Tensor) -> dict[str, Any]:
        """Return the disparity and, in training mode, two levels of it."""
        levels = F.softplus(self.head(self.features(torch.cat((left, right), 1)))).split(1, 1)
        levels = [level.clamp(max=self.max_disparity) for level in levels]
        if self.training:
            return {"disparity": levels[-1], "intermediate": levels}
        return {"disparity": levels[-1]}


class Pairs(Dots):
    """`Dots` as many a data set gives them, in tuples."""

    def __getitem__(self, index: int) -> Any:
        return tuple(super().__getitem__(index).values())


class Floats(Dots):
    """`Dots` whose images are floats in [0, 1]."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = super().__getitem__(index)
        return sample | {view: sample[view] / 255 for view in ("left", "right")}


class Endless(IterableDataset[dict[str, Any]]):
    """Samples without number, in an order of its own."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return itertools.cycle(Dots())  # type: ignore[arg-type]


class Half(Tiny):
    """A network in half precision."""

    def __init__(self) -> None:
        super().__init__()
        self.half()


class Learned(nn.Module):
    """A loss whose map to the teacher's channels is made when it sees them."""

    def __init__(self) -> None:
        super().__init__()
        self.map: nn.Module | None = None

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        if self.map is None:
            self.map = nn.Conv2d(student.shape[1], teacher.shape[1], 1)
        return F.mse_loss(self.map(student), teacher)


class Fatal(Dots):
    """`Dots` that sends the process the signal SIGNAL when it is asked for a sample for the AFTER-th time.

    SIGNAL is a name, SIGKILL, SIGINT or SIGTERM; both stand in the environment. A worker sends it to its
    parent, too, as a terminal or a cluster does.
    """

    asked = 0

    def __getitem__(self, index: int) -> dict[str, Any]:
        Fatal.asked += 1
        if Fatal.asked == int(os.environ["AFTER"]):
            for process in [os.getpid(), os.getppid()] if get_worker_info() else [os.getpid()]:
                os.kill(process, signal.Signals[os.environ["SIGNAL"]])
        return super().__getitem__(index)


def nan_in_another_process(student: Tensor, teacher: Tensor) -> Tensor:
    """Return a loss that is a number in the first process alone."""
    return student.mean() * (float("nan") if os.environ.get("LOCAL_RANK", "0") == "1" else 1.0)


def recipe(**changes: Any) -> dict[str, Any]:
    """Return the fields of a small recipe; dotted changes with `__` for the dot."""
    from densedistill.recipes.load import override

    fields: dict[str, Any] = {
        "name": "toy",
        "student": {"name": "toy:Tiny"},
        "teachers": {"teacher": {"name": "toy:Tiny"}},
        "data": {
            "train": {"name": "toy:Dots", "length": 10},
            "validate": {"name": "toy:Dots", "length": 2, "seed": 1},
            "batch_size": 2,
        },
        "objective": {
            "ground_truth": {
                "loss": "smooth_l1",
                "of": "disparity",
                "to": "ground_truth",
                "levels": [0.5, 1.0],
            },
            "features": {"loss": "cosine", "of": "features", "to": "teacher", "weight": 0.1},
        },
        "optimizer": {"lr": 1e-2},
        "schedule": {"steps": 7},
        "trainer": {"pictures": 1, "log_every": 2, "precision": "float32"},
    }
    for path, value in changes.items():
        override(fields, path.replace("__", "."), value)
    return fields
