"""What a protocol is made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ...networks.input_spec import InputSpec
from ...tasks import Task

Average = Literal["pixels", "images", "published"]
Outputs = dict[str, Tensor]
Predicts = Callable[..., Outputs]

# Which of the pixels with ground truth count, for a sample and the key of its ground truth; None when the
# sample cannot tell.
MASKS: dict[str, Callable[[Mapping[str, Any], str], Tensor | None]] = {
    "all": lambda sample, target: torch.ones((), dtype=torch.bool),
    "noc": lambda sample, target: sample.get(f"{target}_nonoccluded"),
    "bg": lambda sample, target: None if "objects" not in sample else sample["objects"][None] == 0,
    "fg": lambda sample, target: None if "objects" not in sample else sample["objects"][None] > 0,
    "noc-bg": lambda sample, target: _both(sample, target, "bg"),
    "noc-fg": lambda sample, target: _both(sample, target, "fg"),
}
MASK_WORDS = {
    "all": "all: every pixel with ground truth",
    "noc": "noc: seen in both views",
    "bg": "bg: background",
    "fg": "fg: on vehicles",
    "noc-bg": "noc-bg: background seen in both views",
    "noc-fg": "noc-fg: on vehicles, seen in both views",
}


def _both(sample: Mapping[str, Any], target: str, region: str) -> Tensor | None:
    seen, inside = MASKS["noc"](sample, target), MASKS[region](sample, target)
    return None if seen is None or inside is None else seen & inside


@dataclass(frozen=True)
class Protocol:
    """A way to evaluate.

    Args:
        name: by which `evaluate` finds it.
        says: one phrase for the table's caption.
        task: whose protocol it is; "" for any.
        metrics: what is measured by default; none for the task's.
        masks: over which pixels, of `MASKS`.
        average: over pixels of the whole set, over images, or as DSNet's published code does.
        max_disparity: ground truth at or beyond it does not count; None for no limit.
        limits: ground truth key to (low, high): what is not between them does not count.
        region: size (H, W) of an image to the pixels (H, W) that count, such as Eigen's and Garg's crop.
        crops: source size (H, W) to the (h, w) that is cut from its bottom right corner.
        prepare_spec: what it changes in a network's input specification, given the image's size.
        procedures: how the network is asked, outermost last: each takes something called like a `Predictor`
            and returns another; `procedures.py` has flip averaging.
        alignments: what is done to outputs before they are measured, in order: each takes outputs and ground
            truth of a batch (`KEY_valid` says what counts, `meta` is of each sample) and returns outputs;
            `procedures.py` has some.
        weights: part of a sample's name to its weight in a mean over images; 1 for the others.
        parts: the data sets it stands for, with the metrics of each (`generalisation`).
    """

    name: str
    says: str
    task: str = ""
    metrics: tuple[str, ...] = ()
    masks: tuple[str, ...] = ("all", "noc")
    average: Average = "pixels"
    max_disparity: float | None = None
    limits: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    region: Callable[[tuple[int, int]], Tensor] | None = None
    crops: Mapping[tuple[int, int], tuple[int, int]] = dataclasses.field(default_factory=dict)
    prepare_spec: Callable[[InputSpec, tuple[int, int]], InputSpec] | None = None
    procedures: tuple[Callable[[Predicts], Predicts], ...] = ()
    alignments: tuple[Callable[[Outputs, Mapping[str, Any]], Outputs], ...] = ()
    weights: Mapping[str, float] = dataclasses.field(default_factory=dict)
    parts: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)

    def weight(self, name: str) -> float:
        """Return the weight of the sample `name` in a mean over images."""
        parts = str(name).split("/")
        return next((weight for scene, weight in self.weights.items() if scene in parts), 1.0)

    def crop(self, sample: Mapping[str, Any], image: str) -> dict[str, Any]:
        """Return `sample` with its images and maps, all of the size of `image`, cut as the protocol says."""
        size = sample[image].shape[-2:] if image in sample else ()
        wanted = self.crops.get(tuple(size))
        if wanted is None:
            return dict(sample)
        height, width = wanted
        return {
            key: value[..., -height:, -width:]
            if isinstance(value, Tensor) and value.shape[-2:] == size
            else value
            for key, value in sample.items()
        }

    def counted(
        self, sample: Mapping[str, Any], task: Task, target: str, mask: str, bound: float | None
    ) -> Tensor | None:
        """Return which values of the ground truth `target` count; None where the sample cannot tell.

        Args:
            mask: of `MASKS`.
            bound: disparities at or beyond it do not count.
        """
        chosen = MASKS[mask](sample, target)
        if chosen is None:
            return None
        truth = sample[target]
        valid = task.measured(sample, target) & chosen
        low, high = self.limits.get(target, (None, None))
        if low is not None and high is not None:
            valid = valid & (truth > low) & (truth < high)
        if bound is not None and target.startswith("disparity"):
            valid = valid & (truth < bound)
        if self.region is not None:
            valid = valid & self.region(tuple(truth.shape[-2:])).to(valid.device)
        return valid

    def limits_in_words(self, task: Task, bound: float | None) -> str:
        """Return what ground truth counts, as a caption says it; "" where there is nothing to say."""
        words = [f"{low:g} < {key} < {high:g}" for key, (low, high) in self.limits.items()]
        if any(target.startswith("disparity") for target in task.targets.values()):
            words.append("no limit on disparity" if bound is None else f"0 < disparity < {bound:g}")
        return ", ".join(words)
