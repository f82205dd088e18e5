"""The procedural world as a data set: as many scenes as wanted, none on disk."""

from __future__ import annotations

import operator
import os
from collections.abc import Sequence
from typing import Any, ClassVar

from torch.utils.data import Dataset

from ...errors import UserError, unknown
from ..sample import Sample
from ..world import LABELS, check_options, check_seed, get_bank, render
from ..world.cache import Cache
from . import DATASETS

# Ground truth that each task learns from; `left` becomes the `image` of tasks with a single one.
WANTED: dict[str, tuple[str, ...]] = {
    "stereo": ("disparity",),
    "depth": ("depth",),
    "sceneflow": ("disparity", "disparity_next", "flow", "left_next", "right_next"),
    "segmentation": ("labels",),
    "detection": ("boxes",),
}
SINGLE = ("depth", "segmentation", "detection")


@DATASETS.register("world")
class World(Dataset[Sample]):
    """Scenes number `seed`, `seed` + 1, … of the procedural world.

    The same on every machine but for rounding, and for letters on textures, which OpenCV draws in another way
    since version 5.

    Args:
        length: how many.
        seed: number of the first scene. Different ranges share nothing but the textures.
        size: (height, width), px.
        max_disparity: what no disparity exceeds, px.
        task: what the samples are for: `stereo`, `depth`, `sceneflow`, `segmentation` or `detection`, which
            says the ground truth, and whether there is a pair or a single `image`. A recipe's own by default.
        want: ground truth to make; None for the task's. See `densedistill.data.world.render`.
        cache: a folder; each scene is rendered once, stored there and read ever after (about 0.6 MB for
            256x512 px with disparity). Several processes may share it.
        **options: further options of `render`.

    Raises:
        UserError: an unknown option or ground truth, a size that is not two positive numbers.
    """

    classes: ClassVar[tuple[str, ...]] = LABELS
    name: ClassVar[str] = "world"

    def __init__(
        self,
        length: int = 10000,
        seed: int = 0,
        size: Sequence[int] = (256, 512),
        max_disparity: float = 96,
        want: Sequence[str] | None = None,
        cache: str | os.PathLike[str] | None = None,
        task: str = "stereo",
        **options: Any,
    ):
        if task not in WANTED:
            raise unknown("task", task, WANTED, of="the world")
        self.task = task
        options |= {"right": False} if task in SINGLE else {}
        if length < 1:
            raise UserError(f"data set 'world' needs length 1 or more, got {length}")
        check_seed(seed)
        if len(size) != 2:
            raise UserError(f"data set 'world' needs size [height, width], got {list(size)}")
        self.length, self.seed = operator.index(length), operator.index(seed)
        self.height, self.width = (int(side) for side in size)
        self.options: dict[str, Any] = {
            "want": WANTED[task] if want is None else tuple(want),
            "max_disparity": max_disparity,
            **options,
        }
        check_options(self.height, self.width, **self.options)
        self.cache = None
        if cache is not None:
            self.cache = Cache(cache, size=(self.height, self.width), **self.options)
        # Made here so that forked workers share one.
        get_bank("cpu")

    @property
    def names(self) -> list[str]:
        """The scenes' numbers, six digits."""
        return [f"{self.seed + index:06d}" for index in range(self.length)]

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.length:
            raise IndexError(index)
        seed = self.seed + index
        sample = self.cache.read(seed) if self.cache is not None else None
        if sample is None:
            sample = render(seed, self.height, self.width, **self.options)
            if self.cache is not None:
                self.cache.write(seed, sample)
        return {"image": sample.pop("left"), **sample} if self.task in SINGLE else sample
