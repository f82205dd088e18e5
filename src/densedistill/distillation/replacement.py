"""ReplaceBlock: parts of a student's features give way to its teacher's while it runs (Spatial-KD).

Song and Kim, JVCIR 85, 103523, 2022. Random blocks of positions are drawn at some places of the network. What
the student has there is compared with what the teacher has, and positive values are then replaced, so that
the rest of the student runs on a mixture; no gradient passes through what was replaced.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError
from .losses import LOSSES


def block_region(field: Tensor, probability: float, block: int) -> tuple[Tensor, Tensor]:
    """Return the seeds of a random `field` (B, H, W) in [0, 1), and the region of blocks about them.

    A position is a seed with `probability / block²`. Blocks overlap and are cut at the borders; one of even
    side covers its seed and what lies right of and below it.
    """
    seeds = field < probability / block**2
    region = F.max_pool2d(seeds[:, None].float(), block, stride=1, padding=block // 2)[:, 0]
    if block % 2 == 0:
        region = region[:, :-1, :-1]
    return seeds, region > 0


def replace_features(
    student: Tensor, teacher: Tensor, region: Tensor, published: bool = False
) -> tuple[Tensor, Tensor]:
    """Return `student` with its positive values in `region` replaced, and the loss there.

    Args:
        student, teacher: features (B, C, H, W).
        region: bool (B, H, W).
        published: multiply by the ratio teacher / student, as the published code does. Its gradient is 0 up
            to rounding, and no number where the student is tiny, in half precision below about 1e-3. The
            other form takes the teacher's value, and its gradient is 0.

    Returns:
        Features, and the mean absolute difference over all values in the region before the replacement, 0
        where it is empty.
    """
    inside = region[:, None].expand_as(student)
    apart = torch.where(inside, (student.float() - teacher.float()).abs(), 0.0)
    loss = apart.sum() / inside.sum().clamp(min=1)
    replaced = inside & (student > 0)
    if published:
        ratio = torch.where(replaced, teacher / torch.where(replaced, student, 1.0), 1.0)
        return student * ratio, loss
    return torch.where(replaced, teacher.to(student.dtype), student), loss


@LOSSES.register("replace_block")
class ReplaceBlock(nn.Module):
    """The loss in replaced regions, and the replacement itself, at each module of the term's tap.

    The probability rises from 0 to `probability` over `ramp_steps` training steps. How often the student ran
    is part of the state, so that a resumed run goes on where it was; `parts` are its runs of one step, where
    gradients are accumulated.

    Args:
        probability: that a position begins a block, times the block's area, at the end of the ramp.
        blocks: side of the blocks at each place; published 2 at the deepest features and the first decoder
            stage, 7 at the next two.
        ramp_steps: steps until the full probability; published half of the epochs of 50.
        published: see `replace_features`.
    """

    intervenes = True
    steps: Tensor

    def __init__(
        self,
        probability: float = 0.2,
        blocks: Sequence[int] = (2, 2, 7, 7),
        ramp_steps: int = 7250,
        published: bool = False,
    ):
        super().__init__()
        if not 0 <= probability <= 1:
            raise UserError(f"the probability of a replaced block lies in 0 to 1, got {probability:g}")
        if ramp_steps < 1 or not blocks or min(blocks) < 1:
            raise UserError(f"blocks and ramp_steps are at least 1, got {list(blocks)} and {ramp_steps}")
        self.full, self.blocks, self.ramp_steps = probability, tuple(blocks), ramp_steps
        self.published, self.parts = published, 1
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self._teachers: list[Tensor] = []
        self._losses: list[Tensor] = []
        self._place = 0

    @property
    def probability(self) -> float:
        """The probability of the present step."""
        # The published counter reaches the schedule after the step, so the first two steps have none.
        done = int(self.steps) // self.parts
        return self.full * min(1.0, max(0, done - 1) / self.ramp_steps)

    def begin(self, teachers: Sequence[Tensor]) -> None:
        """Replace by `teachers`, one tensor a place, in the coming run of the student."""
        if len(teachers) != len(self.blocks):
            raise UserError(f"blocks has {len(self.blocks)} sides for a tap of {len(teachers)} tensors")
        self._teachers, self._losses, self._place = list(teachers), [], 0

    def end(self) -> None:
        """Replace nothing any more; count the run when in training."""
        self._teachers = []
        if self.training:
            self.steps += 1

    def hook(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor | None:
        """Forward hook of the student's modules: return what stands in for `output`."""
        if self._place >= len(self._teachers):
            return None
        teacher, block = self._teachers[self._place], self.blocks[self._place]
        self._place += 1
        if output.shape != teacher.shape:
            raise UserError(
                f"a replaced tensor is {tuple(output.shape)}, the teacher's {tuple(teacher.shape)}: "
                "replacement wants equal shapes"
            )
        probability = self.probability if self.training else 0.0
        field = torch.rand(output.shape[0], *output.shape[2:], device=output.device)
        _, region = block_region(field, probability, block)
        replaced, loss = replace_features(output, teacher, region, self.published)
        self._losses.append(loss)
        return replaced if probability else None

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss of the next place, which was taken before the student's values were replaced."""
        return self._losses.pop(0)
