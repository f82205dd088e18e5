"""Losses with parameters of their own: masked generative distillation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...errors import UserError
from ...networks.layers.image import at_least_float32
from ._shared import LOSSES


@LOSSES.register("mgd")
class MGD(nn.Module):
    """Masked generative distillation (Yang et al., ECCV 2022): rebuild the teacher's feature from a part.

    Positions of the student's feature are dropped at random, the same for all channels; two 3x3 convolutions
    with a ReLU between must make the teacher's whole feature of the rest.

    Args:
        channels: of the teacher's feature, which an adapter (`conv1x1`) brings the student's to.
        dropped: share of positions; 0.75 for segmentation, 0.65 for detection.

    The squared error is summed and divided by the batch, so weights are small (2e-5).
    """

    same_shape = True

    def __init__(self, channels: int, dropped: float = 0.75):
        super().__init__()
        if not 0 <= dropped < 1:
            raise UserError(f"dropped is a share from 0 to below 1, got {dropped}")
        self.channels, self.dropped = channels, dropped
        self.generator = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the squared error of what is rebuilt from `student` (B, C, H, W) to `teacher`.

        Raises:
            UserError: another number of channels.
        """
        if student.shape != teacher.shape or student.shape[1] != self.channels:
            raise UserError(
                f"loss 'mgd' of {self.channels} channels got student {tuple(student.shape)} and teacher "
                f"{tuple(teacher.shape)}; set channels to the teacher's and adapter: conv1x1"
            )
        batch, _, height, width = student.shape
        kept = torch.rand(batch, 1, height, width, device=student.device) >= self.dropped
        rebuilt = self.generator(student * kept.to(student.dtype))
        return (at_least_float32(rebuilt) - at_least_float32(teacher.detach())).square().sum() / batch
