"""The objective of a distillation: named, weighted terms over a student, its teachers and the truth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..errors import UserError
from ..networks.input_spec import InputSpec, Placement
from ..tasks import Task, get_task
from .adapters import SIDES, make_adapter
from .answers import input_spec, run_network
from .dry_run import tiny_batch, unchanged
from .masks import measured, place_mask, resize_mask
from .places import check_places, pad_alike, share_levels
from .taps import Taps, resolve_tap, tap_key, unwrap
from .teachers import Teacher, answer_validity, as_teacher
from .terms import GROUND_TRUTH, Term, facts_wanted, is_output, parse_terms


class Answers(NamedTuple):
    """What student and teachers said to a batch."""

    batch: Mapping[str, Any]
    student: Mapping[str, Any]
    placement: Placement
    teachers: Mapping[str, Mapping[str, Any]]


class Pair(NamedTuple):
    """Two tensors that a loss compares, their weight within the term, and which positions count.

    `target_learns` says that the target comes from an adapter that is trained.
    """

    student: Tensor
    target: Tensor
    weight: float
    mask: Tensor | None
    target_learns: bool = False


class Objective(nn.Module):
    """Compare a student with its teachers and the ground truth: `total, parts = objective(batch)`.

    A call prepares the batch as each network wants it, runs the student in the mode it is in (training mode
    gives its intermediate outputs) and the teachers (in evaluation mode, without gradient) that a term of
    weight above 0 needs. Masked losses are means over what counts in all processes: each process scales its
    own so that the mean of gradients, which data-parallel training takes, is the gradient of the global mean.

    Student and teachers are not submodules: `parameters()` and `state_dict()` hold what the terms own
    (adapters, losses with parameters), which an optimiser takes beside the student's. `to()` moves the
    teachers, too. Create the objective before the student is compiled. The student may be wrapped in
    `DistributedDataParallel`.

    Args:
        terms: name to a mapping as in a recipe, or to a `Term`, which says what may stand in it.
        student: the network that learns.
        teachers: name to a teacher (see `create_teacher`) or a network.

    Raises:
        UserError: a term that names what does not exist, or compares what cannot match.
    """

    def __init__(
        self, terms: Mapping[str, Any], student: nn.Module, teachers: Mapping[str, nn.Module] | None = None
    ):
        super().__init__()
        self.task: Task = get_task(getattr(unwrap(student), "task", None) or "stereo")
        for name, teacher in (teachers or {}).items():
            if unwrap(teacher) is unwrap(student):
                raise UserError(
                    f"teacher '{name}' is the student, and teachers do not learn: give a copy of it"
                )
        made = {name: as_teacher(teacher) for name, teacher in (teachers or {}).items()}
        self.terms, self._losses = parse_terms(terms, self.task.outputs, list(made))
        self.own_losses = nn.ModuleDict(
            {name: loss for name, loss in self._losses.items() if isinstance(loss, nn.Module)}
        )
        self.adapters = nn.ModuleDict()
        # In a tuple, out of sight of `nn.Module`: neither belongs to the objective's state or parameters.
        self._hidden = (student, made)
        self._active = [term for term in self.terms if term.weight]
        self._spec = self._agree_on_places()
        self._attach(self.terms).remove()  # names are checked of terms of weight 0, too
        self._intervene()
        self._taps = self._attach(self._active)
        self._taps.pause()
        self._rehearsing = self._compared = False
        if any(term.adapter is not None for term in self._active):
            self.check()

    @property
    def student(self) -> nn.Module:
        """The network that learns."""
        return self._hidden[0]

    @property
    def teachers(self) -> Mapping[str, Teacher]:
        """The teachers by name."""
        return self._hidden[1]

    @property
    def adversaries(self) -> dict[str, Any]:
        """The active terms that own an adversary, by name: `adversary_loss()` is what that learns by."""
        active = {term.name for term in self._active}
        return {n: loss for n, loss in self.own_losses.items() if n in active and hasattr(loss, "adversary")}

    def forward(
        self, batch: Mapping[str, Any], epoch: float = 0, parts: int = 1
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted sum of the terms, and each term's own value, without its weight and gradient.

        Args:
            batch: as the task has it, on the student's device. Ground truth may be missing for some samples
                or all: terms to it skip those.
            epoch: for terms whose weight decays; the first is 0.
            parts: batches that make a step, of whose totals the step takes the mean: a loss that sums over
                samples, as some published ones do, then counts as that of all of them.
        """
        with self._taps.step():
            answers = self._ask(batch)
            terms, weights, values, counts = [], [], [], []
            for term in self._active:
                grows = getattr(self._losses[term.name], "grows", False)
                with _named(term):
                    for pair in self._pairs(term, answers):
                        terms.append(term.name)
                        weights.append(pair.weight * (parts * self._processes() if grows else 1))
                        values.append(self._compare(term, pair, answers))
                        counts.append(_count(pair, getattr(self._losses[term.name], "sums", False)))
        self._compared = True
        shares = self._shares(torch.stack(counts))
        own: dict[str, Tensor] = {}
        for name, weight, value, share in zip(terms, weights, values, shares, strict=True):
            weighted = weight * value * share.to(value.dtype)
            own[name] = own[name] + weighted if name in own else weighted
        total = torch.stack([term.weight_at(epoch) * own[term.name] for term in self._active]).sum()
        return total, {name: value.detach() for name, value in own.items()}

    def check(self, batch: Mapping[str, Any] | None = None) -> None:
        """Compare once without learning from it, and create the adapters; the student stays as it is.

        Args:
            batch: two samples of it are used; by default two small images of noise.

        Raises:
            UserError: naming the term that cannot be computed, and why.
        """
        with torch.no_grad(), self._rehearsal(batch) as rehearsed:
            self(rehearsed)
        # New ones were in evaluation mode, for the sake of their statistics.
        self.adapters.train(self.training)

    def unreachable_parameters(self, batch: Mapping[str, Any] | None = None) -> list[str]:
        """Return the names of the student's trainable parameters that no term can reach.

        Freeze them before data-parallel training, which waits for a gradient of each trainable parameter.

        Args:
            batch: as `check` takes it.
        """
        named = {name: p for name, p in unwrap(self.student).named_parameters() if p.requires_grad}
        with torch.enable_grad(), self._rehearsal(batch) as rehearsed:
            total, _ = self(rehearsed)
            if not total.requires_grad:
                return list(named)
            gradients = torch.autograd.grad(total, list(named.values()), allow_unused=True)
        return [name for name, gradient in zip(named, gradients, strict=True) if gradient is None]

    def _ask(self, batch: Mapping[str, Any]) -> Answers:
        # Teachers first: what they need and drop is then not needed on top of all that the student keeps.
        needed = {term.to for term in self._active}
        teachers = {name: teacher(batch) for name, teacher in self.teachers.items() if name in needed}
        root = unwrap(self.student)
        # A rehearsal goes round the data-parallel wrapper, which would wait for the other processes.
        network = root if self._rehearsing else self.student
        evaluating = not root.training and hasattr(root, "all_heads")
        if evaluating:
            setattr(root, "all_heads", True)  # noqa: B010
        try:
            with self._interventions(teachers):
                outputs, placement = run_network(network, batch, self.task, self._spec)
        finally:
            if evaluating:
                setattr(root, "all_heads", False)  # noqa: B010
        return Answers(batch, outputs, placement, teachers)

    def _pairs(self, term: Term, answers: Answers) -> Iterator[Pair]:
        """Yield what the term compares: as many pairs in every process, whatever its batch holds."""
        mask = self._mask(term, answers)
        if is_output(term, self.task.outputs):
            target = self._target(term, answers)
            for prediction, weight in self._predictions(term, answers):
                yield Pair(prediction, target, weight, mask)
            return
        if term.to == GROUND_TRUTH:
            yield from self._truth_pairs(term, answers, mask)
            return
        of, to = tap_key(term.student_spec), tap_key(term.teacher_spec)
        students, teachers = self._taps[of], answers.teachers[term.to].get("taps", {}).get(to)
        if teachers is None:
            raise UserError(f"another objective reads '{term.to}' by now: give each a teacher of its own")
        if len(students) != len(teachers):
            raise UserError(
                f"the student has {len(students)} tensors at '{of}', '{term.to}' {len(teachers)} at '{to}': "
                f"select among them, as in '{of}[-1]'"
            )
        by_level = "max_disparity" in facts_wanted(self._losses[term.name])
        check_places(answers.placement, answers.teachers[term.to]["placement"], term.to, by_level)
        if mask is not None:
            mask = place_mask(mask, answers.placement)
        weights = _level_weights(term, len(students), "tensors")
        for index, (student, teacher, weight) in enumerate(zip(students, teachers, weights, strict=True)):
            if weight:
                if not by_level:  # a loss over disparities cuts by itself
                    student, teacher = share_levels(student, teacher, *self._reaches(term))
                student, teacher = self._fit(term, index, student, teacher)
                small = mask
                if mask is not None and "size" not in facts_wanted(self._losses[term.name]):
                    small = resize_mask(mask, student)
                learns = term.adapter is not None and teacher.requires_grad
                yield Pair(student, teacher, weight, small, learns)

    def _truth_pairs(self, term: Term, answers: Answers, mask: Tensor | None) -> Iterator[Pair]:
        """Yield each tensor of the student's tap with the ground truth of the task's main output."""
        placement = answers.placement
        if any(placement.padding) or placement.scaled_size != placement.size:
            raise UserError(
                "a tap is compared with the ground truth on a crop that needs no padding or scaling"
            )
        students, target = self._taps[tap_key(term.student_spec)], self._target(term, answers)
        for student, weight in zip(students, _level_weights(term, len(students), "tensors"), strict=True):
            if weight:
                yield Pair(student, target, weight, mask)

    def _target(self, term: Term, answers: Answers) -> Tensor:
        key = str(term.of) if is_output(term, self.task.outputs) else self.task.outputs[0]
        if term.to == GROUND_TRUTH:
            target = answers.batch.get(self.task.targets[key])
            if target is not None:
                return target
            # Nothing of it counts; labels have no axis of channels.
            like, ignore = answers.student[key], self.task.ignore.get(self.task.targets[key])
            return torch.zeros_like(like) if ignore is None else torch.full_like(like[:, 0], ignore).long()
        wanted = key if term.to_tap is None else str(term.to_tap)
        if wanted not in answers.teachers[term.to]:
            raise UserError(f"teacher '{term.to}' has no output '{wanted}'")
        return answers.teachers[term.to][wanted]

    def _predictions(self, term: Term, answers: Answers) -> Iterator[tuple[Tensor, float]]:
        key = str(term.of)
        if term.levels is None:
            yield answers.student[key], 1.0
        elif not unwrap(self.student).training:
            yield answers.student[key], term.levels[-1]
        else:
            levels = [level[key] for level in answers.student.get("intermediate", []) if key in level]
            weights = _level_weights(term, len(levels), "intermediate outputs")
            yield from ((level, weight) for level, weight in zip(levels, weights, strict=True) if weight)

    def _mask(self, term: Term, answers: Answers) -> Tensor | None:
        key = str(term.of) if is_output(term, self.task.outputs) else self.task.outputs[0]
        mask: Tensor | None = None
        if term.mask in (GROUND_TRUTH, "both"):
            limit = term.max_disparity or min((r for r in self._reaches(term) if r), default=None)
            target = self.task.targets[key]
            ignore = self.task.ignore.get(target)
            mask = measured(answers.batch, target, answers.student[key], limit, ignore)
        if term.mask in ("teacher", "both"):
            vouched = answer_validity(answers.teachers[term.to], key)
            own, _ = self._reaches(term)
            if own is not None and self.task.targets[key].startswith("disparity"):
                # What lies beyond the student's range it cannot learn to say.
                vouched = vouched & (answers.teachers[term.to][key] < own)
            mask = vouched if mask is None else mask & vouched
        return mask

    def _reaches(self, term: Term) -> tuple[float | None, float | None]:
        """Return the range of disparities, px of the image, of the student and of the term's teacher."""
        found = []
        for network, spec in (
            (unwrap(self.student), self._spec),
            (self.teachers.get(term.to), getattr(self.teachers.get(term.to), "input_spec", None)),
        ):
            reach = getattr(network, "max_disparity", None)
            found.append(None if reach is None else reach / (1.0 if spec is None else spec.scale))
        return found[0], found[1]

    def _agree_on_places(self) -> InputSpec:
        """Return how the student's images are prepared; teachers whose taps are compared pad like it."""
        own = input_spec(self.student)
        tapped = {term.to for term in self.terms if not is_output(term, self.task.outputs)}
        teachers = [t for name, t in self.teachers.items() if name in tapped and t.input_spec is not None]
        specs = pad_alike([own, *(teacher.input_spec for teacher in teachers if teacher.input_spec)])
        for teacher, spec in zip(teachers, specs[1:], strict=True):
            teacher.input_spec = spec
        return specs[0]

    def _fit(self, term: Term, index: int, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Return the pair after the term's adapter, if it has one; a rehearsal creates it."""
        if term.adapter is not None:
            tensors = dict(zip(SIDES, (student, teacher), strict=True))
            side = term.adapter.get("on", "student")
            other = SIDES[1 - SIDES.index(side)]
            key = f"{term.name}_{index}"
            if key not in self.adapters:
                self.adapters[key] = make_adapter(term.adapter, tensors[side], tensors[other]).eval()
            tensors[side] = self.adapters[key](tensors[side], tuple(tensors[other].shape[2:]))
            return tensors["student"], tensors["teacher"]
        if getattr(self._losses[term.name], "same_shape", False) and student.shape != teacher.shape:
            raise UserError(
                f"the student's '{tap_key(term.student_spec)}' is {tuple(student.shape)}, "
                f"that of '{term.to}' {tuple(teacher.shape)}; give the term an adapter, such as conv1x1"
            )
        return student, teacher

    def _compare(self, term: Term, pair: Pair, answers: Answers) -> Tensor:
        loss = self._losses[term.name]
        wanted = facts_wanted(loss)
        facts = self._facts(term, answers.placement) if wanted else {}
        if "image" in wanted:
            (facts["image"],), _ = self._spec.prepare(answers.batch[self.task.inputs[0]])
        if "box_classes" in wanted:
            unknown = pair.target.new_full(pair.target.shape[:2], -1, dtype=torch.int64)
            facts["box_classes"] = answers.batch.get("classes", unknown)
        arguments: dict[str, Any] = {key: facts[key] for key in wanted}
        if pair.mask is not None:
            arguments["mask"] = pair.mask
        if not isinstance(loss, nn.Module):  # which has its options already
            arguments |= term.options
        try:
            value = loss(pair.student, pair.target, **arguments)
            if (
                pair.target_learns
            ):  # a loss gives its first argument alone a gradient: turned round, the other
                turned = loss(pair.target, pair.student, **arguments)
                value = value + turned - turned.detach()
            return value
        except (RuntimeError, ValueError, TypeError) as error:
            # Without a rehearsal it is the first comparison that tells an option of the wrong kind.
            first = not (self._compared or isinstance(error, RuntimeError) or ":" in term.loss)
            if self._rehearsing or first:
                reason = next(iter(str(error).splitlines()), type(error).__name__)
                raise UserError(f"loss '{term.loss}' failed: {reason}") from error
            raise

    def _facts(self, term: Term, placement: Placement) -> dict[str, Any]:
        """Return what a loss over disparities must know of the networks."""
        student, teacher = unwrap(self.student), self.teachers.get(term.to)
        left, right, top, bottom = placement.padding
        height, width = placement.scaled_size
        return {
            "max_disparity": getattr(student, "max_disparity", None),
            "align_corners": getattr(student, "align_corners", False),
            "teacher_max_disparity": getattr(teacher, "max_disparity", None),
            "teacher_align_corners": getattr(teacher, "align_corners", False),
            "size": (height + top + bottom, width + left + right),
            "processes": self._processes(),
        }

    def _processes(self) -> int:
        """Return how many processes compare together; a rehearsal is each one's own."""
        together = dist.is_available() and dist.is_initialized() and not self._rehearsing
        return dist.get_world_size() if together else 1

    def _shares(self, counts: Tensor) -> Tensor:
        """Return, per count, this process's share of all processes' counts, times their number."""
        world = self._processes()
        if world == 1:
            return torch.ones_like(counts, dtype=torch.float32)
        everywhere = counts.clone()
        dist.all_reduce(everywhere)
        return counts * world / everywhere.clamp(min=1)

    def _attach(self, terms: list[Term]) -> Taps:
        """Attach the taps that `terms` read, the student's and each teacher's."""
        of_taps = [term for term in terms if not is_output(term, self.task.outputs)]
        for name, teacher in self.teachers.items():
            specs = [term.teacher_spec for term in of_taps if term.to == name]
            if specs:
                try:
                    teacher.watch(specs)
                except UserError as error:
                    raise UserError(f"teacher '{name}': {error}") from None
        return Taps(self.student, [term.student_spec for term in of_taps])

    def _intervene(self) -> None:
        """Let losses that change what the student computes do so, before its taps read it."""
        for term in self._active:
            loss: Any = self._losses[term.name]
            if getattr(loss, "intervenes", False):
                if is_output(term, self.task.outputs):
                    raise UserError(f"objective.{term.name}: loss '{term.loss}' is for taps, not outputs")
                for path in resolve_tap(self.student, term.student_spec).paths:
                    module = unwrap(self.student).get_submodule(path)
                    module.register_forward_hook(loss.hook, prepend=True)

    @contextmanager
    def _interventions(self, teachers: Mapping[str, Mapping[str, Any]]) -> Iterator[None]:
        """Hand the teachers' tensors to the losses that intervene, while the student runs."""
        found: list[tuple[Any, Any]] = [
            (self._losses[term.name], teachers[term.to]["taps"][tap_key(term.teacher_spec)])
            for term in self._active
            if getattr(self._losses[term.name], "intervenes", False)
        ]
        try:
            for loss, tensors in found:
                loss.begin(tensors)
            yield
        finally:
            for loss, _ in found:
                loss.end()

    @contextmanager
    def _rehearsal(self, batch: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
        """Give two samples to compare, with the student in training mode; leave everything as it was."""
        root = unwrap(self.student)
        parameter = next(root.parameters(), None)
        device = torch.device("cpu") if parameter is None else parameter.device
        specs = [
            self._spec,
            *(t.input_spec for t in self.teachers.values() if t.input_spec is not None),
        ]
        with unchanged(root, self):
            root.train()
            self._rehearsing = True
            try:
                yield tiny_batch(self.task, specs, device, batch)
            finally:
                self._rehearsing = False

    def _apply(self, fn: Any, recurse: bool = True) -> Objective:
        for teacher in self.teachers.values():
            teacher._apply(fn, recurse)
        return super()._apply(fn, recurse)


def _level_weights(term: Term, count: int, what: str) -> tuple[float, ...]:
    if term.levels is None:
        return (1.0,) * count
    if len(term.levels) != count:
        raise UserError(f"'levels' has {len(term.levels)} weights, the student gives {count} {what}")
    return term.levels


def _count(pair: Pair, sums: bool) -> Tensor:
    """Return the number of positions that count, which weighs this process among others; 1 without a mask and
    for a loss that sums."""
    if pair.mask is None or sums:
        return torch.ones((), dtype=torch.int64, device=pair.student.device)
    return pair.mask.sum()


@contextmanager
def _named(term: Term) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise UserError(f"objective.{term.name}: {error}") from None
