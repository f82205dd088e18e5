"""What the data sets of scene flow and optical flow on disk have in common."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from ...errors import UserError
from .. import formats
from ..sample import Sample, disparity_tensors, image_tensor
from ._base import Frame, StereoFiles

_VIEWS = ("left", "right", "left_next", "right_next")
# The role of the file that says where the pixels of a truth are seen in the other image, too.
MASKS = {
    "disparity": "nonoccluded",
    "disparity_next": "nonoccluded_next",
    "flow": "nonoccluded_flow",
}


class SequenceFiles(StereoFiles):
    """Frames of two times on disk, with the motion between them or without.

    Arguments and errors are those of `StereoFiles`. A data set says where its files lie (`list_frames`),
    and how motion is read where it is not KITTI's PNG.
    """

    task: ClassVar[str] = "sceneflow"
    required: tuple[str, ...] = ("left", "left_next")
    truths: ClassVar[tuple[str, ...]] = ("disparity", "disparity_next", "flow", "nonoccluded", "objects")

    def __init__(
        self,
        root: str | os.PathLike[str] | None = None,
        split: str | None = None,
        want: Sequence[str] = ("disparity", "disparity_next", "flow", "nonoccluded", "objects"),
        limit: int | None = None,
        strict: bool = True,
    ):
        super().__init__(root, split, want, limit, strict)

    def __getitem__(self, index: int) -> Sample:
        """Return a sample; UserError for a damaged file, or images or truths that differ in size."""
        frame = self.frames[index]
        views = [view for view in _VIEWS if view in frame.files]
        images = formats.read_images(*(frame.files[view] for view in views))
        size = images[0].shape[:2]
        sample: Sample = {}
        for view, image in zip(views, images, strict=True):
            if image.shape[:2] != size:
                raise UserError(
                    f"the frames differ in size: {frame.files[views[0]]} is {size[1]}x{size[0]} px, "
                    f"{frame.files[view]} {image.shape[1]}x{image.shape[0]}"
                )
            sample[view] = image_tensor(image)
        if self.want & {"disparity", "disparity_next"} and "disparity" in frame.files:
            found = self.read_disparities(frame, size)
            for key, values in ((key, found[key]) for key in found if key in self.want):
                formats.check_size(frame.files.get(key, frame.files["disparity"]), values, size)
                sample[key], sample[f"{key}_valid"] = disparity_tensors(values)
        if "flow" in self.want and "flow" in frame.files:
            flow, valid = self.read_flow(frame)
            formats.check_size(frame.files["flow"], valid, size)
            sample["flow"] = torch.from_numpy(np.ascontiguousarray(flow.transpose(2, 0, 1)))
            sample["flow_valid"] = torch.from_numpy(np.ascontiguousarray(valid))[None]
        if "nonoccluded" in self.want:
            for key, mask in self.read_masks(frame).items():
                if f"{key}_valid" in sample:
                    formats.check_size(frame.files[MASKS[key]], mask, size)
                    sample[f"{key}_nonoccluded"] = torch.from_numpy(mask)[None] & sample[f"{key}_valid"]
        return self._with_the_rest(sample, frame, size)

    def read_disparities(self, frame: Frame, size: tuple[int, ...]) -> dict[str, NDArray[np.float32]]:
        """Return `disparity`, and `disparity_next` where it is known, (H, W) px, of images of `size`; 0 is
        unknown."""
        keys = [key for key in ("disparity", "disparity_next") if key in self.want and key in frame.files]
        return {key: self.read_disparity(frame.files[key]) for key in keys}

    def read_flow(self, frame: Frame) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return flow (H, W, 2) px and where it is known."""
        return formats.read_flow_png(frame.files["flow"])

    def read_masks(self, frame: Frame) -> dict[str, NDArray[np.bool_]]:
        """Return, by the key of the truth, where its pixels are seen in the other image, too: where the mask,
        if there is one, is black."""
        return {
            key: formats.read_grey(frame.files[role]) == 0
            for key, role in MASKS.items()
            if role in frame.files
        }
