"""A network and a loss for each task with a single image, so small that a training takes a second."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from densedistill.networks.input_spec import InputSpec

CLASSES = 10  # of the procedural world


class Single(nn.Module):
    """Two convolutions over one image; what its channels mean, a subclass says."""

    input_spec = InputSpec(multiple=8)
    taps: ClassVar = {"features": ("features",)}
    channels = 1

    def __init__(self, width: int = 8):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.ReLU())
        self.head = nn.Conv2d(width, self.channels, 3, padding=1)


class Segments(Single):
    """Logits of the world's classes."""

    task, channels = "segmentation", CLASSES

    def forward(self, image: Tensor) -> dict[str, Any]:
        return {"logits": self.head(self.features(image))}


class Depths(Single):
    """Metres."""

    task = "depth"

    def forward(self, image: Tensor) -> dict[str, Any]:
        return {"depth": F.softplus(self.head(self.features(image))) + 1}


def cross_entropy(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Cross entropy of logits (B, C, H, W) to labels (B, H, W) where `mask` (B, 1, H, W) says."""
    losses = F.cross_entropy(student, teacher, ignore_index=255, reduction="none")
    return losses[mask[:, 0]].mean()


def greedy(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Ask for more memory than there is."""
    return torch.empty(1 << 50).sum() + student.sum()


def recipe(task: str, **changes: Any) -> dict[str, Any]:
    """Return the fields of a small recipe on the procedural world; dotted changes with `__` for the dot."""
    from densedistill.recipes.load import override

    world = {"name": "world", "size": [32, 48], "length": 4}
    loss = {
        "segmentation": {"loss": "small:cross_entropy", "of": "logits"},
        "depth": {"loss": "smooth_l1", "of": "depth"},
    }[task]
    fields: dict[str, Any] = {
        "name": f"small-{task}",
        "task": task,
        "student": {"name": {"segmentation": "small:Segments", "depth": "small:Depths"}[task]},
        "data": {
            "train": {**world, "crop": [24, 32], "scale": [-0.2, 0.4], "flip_horizontal": 0.5},
            "validate": {**world, "seed": 100, "length": 2},
            "augment": "strong",
            "batch_size": 2,
        },
        "objective": {"ground_truth": {**loss, "to": "ground_truth"}},
        "optimizer": {"lr": 1e-2},
        "schedule": {"steps": 3},
        "trainer": {
            "pictures": 1,
            "log_every": 1,
            "precision": "float32",
            "select": "best",
            "validate_every": 1,
        },
    }
    for path, value in changes.items():
        override(fields, path.replace("__", "."), value)
    return fields
