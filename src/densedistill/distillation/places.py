"""What two networks see in common: the same places of the image, and the same disparities of a volume."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from ..errors import UserError
from ..networks.input_spec import InputSpec, Placement


def pad_alike(specs: Sequence[InputSpec]) -> list[InputSpec]:
    """Return `specs` with one padding for all: where the first has it, to a size that every network takes.

    Their taps then see the same places whatever the image's size. Specs of different scale are returned as
    they are: no padding makes their inputs alike. What the padding consists of stays each network's own.
    """
    if len({(spec.scale, spec.shorter_side) for spec in specs}) > 1:
        return list(specs)
    multiple = math.lcm(*(spec.multiple for spec in specs))
    height, width = (max(sizes) for sizes in zip(*(spec.min_size for spec in specs), strict=True))
    return [replace(spec, pad=specs[0].pad, multiple=multiple, min_size=(height, width)) for spec in specs]


def check_places(own: Placement, other: Placement, teacher: str, by_level: bool) -> None:
    """Refuse taps that do not see the same places, which no adapter mends.

    Args:
        own, other: where the images lie in the student's and in the teacher's input.
        teacher: its name.
        by_level: disparities are compared level by level.

    Raises:
        UserError: the networks pad differently, or see the images at different scales.
    """
    if own == other:
        return
    if any(own.padding) or any(other.padding):
        raise UserError(
            f"student and '{teacher}' pad images of {own.size[1]}x{own.size[0]} px differently, so their "
            "taps do not see the same places; crop to a size that both take without padding"
        )
    if by_level:
        raise UserError(
            f"student and '{teacher}' see the images at different scales, so their disparities cannot be "
            "compared level by level; compare the output instead"
        )


def share_levels(
    student: Tensor, teacher: Tensor, reach: float | None, teacher_reach: float | None
) -> tuple[Tensor, Tensor]:
    """Return two volumes cut to the disparities that both have.

    A volume is (B, C, D, h, w); beside one, a map (B, D, h, w) whose channels are disparities becomes
    (B, 1, D, h, w). Other tensors are returned as they are.

    Args:
        student, teacher: what is compared.
        reach, teacher_reach: the disparities (px of the image) that each one's D levels divide; None where
            unknown, and nothing is cut.

    Raises:
        UserError: levels of different width, which no cut makes alike.
    """
    if {student.ndim, teacher.ndim} == {4, 5}:
        student, teacher = (x if x.ndim == 5 else x[:, None] for x in (student, teacher))
    volumes = student.ndim == teacher.ndim == 5
    if not volumes or reach is None or teacher_reach is None or reach == teacher_reach:
        return student, teacher
    step, teacher_step = reach / student.shape[2], teacher_reach / teacher.shape[2]
    if not math.isclose(step, teacher_step):
        raise UserError(
            f"the volumes cannot be compared: a level is {step:.4g} px in the student's, "
            f"{teacher_step:.4g} px in the teacher's, and they reach {reach:g} and {teacher_reach:g} px; "
            "compare aggregation by kl, or the output"
        )
    levels = min(student.shape[2], teacher.shape[2])
    return student[:, :, :levels], teacher[:, :, :levels]
