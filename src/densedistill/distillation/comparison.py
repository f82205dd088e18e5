"""What a term compares in the answers to a batch, which positions count, and its loss's value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..networks.input_spec import InputSpec, Placement
from ..tasks import Task
from .adapters import SIDES, make_adapter
from .masks import measured, place_mask, resize_mask
from .places import check_places, share_levels
from .taps import Taps, tap_key
from .teachers import Teacher, answer_validity
from .terms import GROUND_TRUTH, Loss, Term, facts_wanted, is_output

Compared = TypeVar("Compared")


class Answers(NamedTuple):
    """What student and teachers said to a batch; `taps` and `placement` are the student's."""

    batch: Mapping[str, Any]
    student: Mapping[str, Any]
    taps: Taps
    placement: Placement
    teachers: Mapping[str, Mapping[str, Any]]


class Pair(NamedTuple):
    """Two tensors that a loss compares, their weight within the term, and which positions count."""

    student: Tensor
    target: Tensor
    weight: float
    mask: Tensor | None


@dataclass(eq=False)
class Comparison:
    """A term with its loss and the two sides that it compares.

    Args:
        term: what it says.
        loss: its loss.
        task: the student's.
        student: the network that learns, without a data-parallel wrapper.
        spec: how its images are prepared.
        teacher: None where the term is to the ground truth.
        adapters: where the term's own are put when a pair first needs one, each as `TERM_INDEX`.
    """

    term: Term
    loss: Loss
    task: Task
    student: nn.Module
    spec: InputSpec
    teacher: Teacher | None
    adapters: nn.ModuleDict

    def __post_init__(self) -> None:
        self.of_output = is_output(self.term, self.task.outputs)
        self.of, self.to = tap_key(self.term.student_spec), tap_key(self.term.teacher_spec)
        # A tap goes by the ground truth of the main output, and by where its teacher vouches for that.
        self.key = self.of if self.of_output else self.task.outputs[0]
        self.teacher_key = self.to if self.of_output else self.key
        self.truth = self.task.targets[self.key]
        self.facts_wanted = facts_wanted(self.loss)
        self.reach, self.teacher_reach = _reach(self.student), _reach(self.teacher)
        self.grows = getattr(self.loss, "grows", False)

    def pairs(self, answers: Answers) -> Iterator[Pair]:
        """Yield what is compared: as many pairs in every process, whatever its batch holds."""
        mask = self._mask(answers)
        if not self.of_output and self.term.to != GROUND_TRUTH:
            yield from self._tap_pairs(answers, mask)
            return
        target = self._target(answers)
        for tensor, weight in self._outputs(answers) if self.of_output else self._heads(answers):
            yield Pair(tensor, target, weight, mask)

    def value(self, pair: Pair, answers: Answers, processes: int) -> Tensor:
        """Return the loss of `pair`, a scalar; `processes` compare together."""
        arguments = self._facts(pair, answers, processes)
        if pair.mask is not None:
            arguments["mask"] = pair.mask
        if not isinstance(self.loss, nn.Module):  # which has its options already
            arguments |= self.term.options
        value = self.loss(pair.student, pair.target, **arguments)
        if not isinstance(value, Tensor) or value.ndim:
            gave = f"a tensor {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise UserError(f"loss '{self.term.loss}' returned {gave}, a scalar tensor is wanted")
        if self.term.adapter is not None and pair.target.requires_grad:
            # A loss gives its first argument alone a gradient: turned round, the teacher's adapter.
            turned = self.loss(pair.target, pair.student, **arguments)
            value = value + turned - turned.detach()
        return value

    def count(self, pair: Pair) -> Tensor:
        """Return the number of positions that count, which weighs this process among others; 1 without a mask
        and for a loss that sums."""
        if pair.mask is None or getattr(self.loss, "sums", False):
            return torch.ones((), dtype=torch.int64, device=pair.student.device)
        return pair.mask.sum()

    def _outputs(self, answers: Answers) -> list[tuple[Tensor, float]]:
        """Return the student's output, or its intermediate ones, and what each weighs."""
        if self.term.levels is None:
            return [(answers.student[self.key], 1.0)]
        if not self.student.training:
            return [(answers.student[self.key], self.term.levels[-1])]
        levels = [level[self.key] for level in answers.student.get("intermediate", []) if self.key in level]
        weighted = self._weighted(levels, "intermediate outputs")
        if any(level.shape[-2:] != answers.placement.size for level, _ in weighted):
            self._require_bare(answers, f"levels of '{self.of}' are coarser than images, and compared")
        return weighted

    def _heads(self, answers: Answers) -> list[tuple[Tensor, float]]:
        """Return the tensors of a tap that is compared with the ground truth, and what each weighs."""
        self._require_bare(answers, f"'{self.of}' is a tap, which is compared with the ground truth")
        return self._weighted(answers.taps[self.of], "tensors")

    def _require_bare(self, answers: Answers, what: str) -> None:
        """Refuse `what`, whose cells lie in the student's input and not in the sample, where these differ."""
        placement = answers.placement
        if placement.input_size != placement.size or any(placement.padding):
            (height, width), (rows, columns) = placement.size, placement.input_size
            raise UserError(
                f"{what} where nothing is padded or scaled, but the student sees samples of {width}x{height} "
                f"px as {columns}x{rows}; a crop in multiples of {self.spec.multiple} is not padded"
            )

    def _tap_pairs(self, answers: Answers, mask: Tensor | None) -> Iterator[Pair]:
        term, said = self.term, answers.teachers[self.term.to]
        students, teachers = answers.taps[self.of], said.get("taps", {}).get(self.to)
        if teachers is None:
            raise UserError(f"another objective reads '{term.to}' by now: give each a teacher of its own")
        if len(students) != len(teachers):
            raise UserError(
                f"the student has {len(students)} tensors at '{self.of}', '{term.to}' {len(teachers)} at "
                f"'{self.to}': select among them, as in '{self.of}[-1]'"
            )
        by_level = "max_disparity" in self.facts_wanted  # a loss over disparities cuts by itself
        check_places(answers.placement, said["placement"], term.to, by_level)
        if mask is not None:
            mask = place_mask(mask, answers.placement)
        compared = list(zip(range(len(students)), students, teachers, strict=True))
        for (index, student, teacher), weight in self._weighted(compared, "tensors"):
            if not by_level:
                student, teacher = share_levels(student, teacher, self.reach, self.teacher_reach)
            student, teacher = self._fit(index, student, teacher)
            small = mask
            if mask is not None and "size" not in self.facts_wanted:
                small = resize_mask(mask, student)
            yield Pair(student, teacher, weight, small)

    def _weighted(self, compared: Sequence[Compared], what: str) -> list[tuple[Compared, float]]:
        """Return each of `compared` with the weight of its level, those of weight 0 left out."""
        weights = self.term.levels or (1.0,) * len(compared)
        if len(weights) != len(compared):
            raise UserError(f"'levels' has {len(weights)} weights, the student gives {len(compared)} {what}")
        return [(one, weight) for one, weight in zip(compared, weights, strict=True) if weight]

    def _fit(self, index: int, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Return the pair after the term's adapter, if it has one; the first pair creates it."""
        term, same_shape = self.term, getattr(self.loss, "same_shape", False)
        if (same_shape or term.adapter is not None) and len(student) != len(teacher):
            raise UserError(
                f"the student's '{self.of}' is a batch of {len(student)}, that of '{term.to}' of "
                f"{len(teacher)}: one of them holds both views; name taps of the same views"
            )
        if term.adapter is not None:
            tensors = dict(zip(SIDES, (student, teacher), strict=True))
            side = term.adapter.get("on", "student")
            other = SIDES[1 - SIDES.index(side)]
            key = f"{term.name}_{index}"
            if key not in self.adapters:
                self.adapters[key] = make_adapter(term.adapter, tensors[side], tensors[other]).eval()
            tensors[side] = self.adapters[key](tensors[side], tuple(tensors[other].shape[2:]))
            return tensors["student"], tensors["teacher"]
        if same_shape and student.shape != teacher.shape:
            raise UserError(
                f"the student's '{self.of}' is {tuple(student.shape)}, "
                f"that of '{term.to}' {tuple(teacher.shape)}; give the term an adapter, such as conv1x1"
            )
        return student, teacher

    def _target(self, answers: Answers) -> Tensor:
        """Return the ground truth, where a batch has none something of its shape, or a teacher's output."""
        term = self.term
        if term.to == GROUND_TRUTH:
            target = answers.batch.get(self.truth)
            if target is not None:
                return target
            # Nothing of it counts; labels have no axis of channels.
            like, ignore = answers.student[self.key], self.task.ignore.get(self.truth)
            return torch.zeros_like(like) if ignore is None else torch.full_like(like[:, 0], ignore).long()
        return self._taught(answers)

    def _taught(self, answers: Answers) -> Tensor:
        """Return the teacher's output that is compared, or that a tap's mask goes by."""
        term, said = self.term, answers.teachers[self.term.to]
        if self.teacher_key not in said:
            raise UserError(f"teacher '{term.to}' has no output '{self.teacher_key}'")
        return said[self.teacher_key]

    def _mask(self, answers: Answers) -> Tensor | None:
        """Return which pixels of the sample count, bool (B, 1, H, W), of boxes (B, 1); None for all."""
        term = self.term
        mask: Tensor | None = None
        if term.mask in (GROUND_TRUTH, "both"):
            reaches = [reach for reach in (self.reach, self.teacher_reach) if reach]
            limit = term.max_disparity or min(reaches, default=None)
            ignore = self.task.ignore.get(self.truth)
            mask = measured(answers.batch, self.truth, answers.student[self.key], limit, ignore)
        if term.mask in ("teacher", "both"):
            taught = self._taught(answers)
            vouched = answer_validity(answers.teachers[term.to], self.teacher_key)
            if self.reach is not None and self.truth.startswith("disparity"):
                vouched = vouched & (taught < self.reach)  # beyond its range a student cannot learn to say it
            mask = vouched if mask is None else mask & vouched
        return mask

    def _facts(self, pair: Pair, answers: Answers, processes: int) -> dict[str, Any]:
        """Return what the loss asks of networks, batch and training."""
        facts = {
            "max_disparity": getattr(self.student, "max_disparity", None),
            "align_corners": getattr(self.student, "align_corners", False),
            "teacher_max_disparity": getattr(self.teacher, "max_disparity", None),
            "teacher_align_corners": getattr(self.teacher, "align_corners", False),
            "size": answers.placement.input_size,
            "processes": processes,
        }
        if "image" in self.facts_wanted:
            (facts["image"],), _ = self.spec.prepare(answers.batch[self.task.inputs[0]])
        if "box_classes" in self.facts_wanted:
            unknown = pair.target.new_full(pair.target.shape[:2], -1, dtype=torch.int64)
            facts["box_classes"] = answers.batch.get("classes", unknown)
        return {key: facts[key] for key in self.facts_wanted}


def _reach(network: nn.Module | None) -> float | None:
    """Return the range of disparities that `network` can tell, px of the image; None where it has none."""
    reach, spec = getattr(network, "max_disparity", None), getattr(network, "input_spec", None)
    return None if reach is None else reach / (1.0 if spec is None else spec.scale)
