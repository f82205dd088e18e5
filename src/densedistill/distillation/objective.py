"""The objective of a distillation: named, weighted terms over a student, its teachers and the truth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..errors import UserError
from ..networks.input_spec import InputSpec
from ..tasks import Task, task_of
from .answers import all_heads, input_spec, run_network
from .comparison import Answers, Comparison, Pair
from .dry_run import tiny_batch, unchanged
from .exact import exact_gradients
from .places import pad_alike
from .taps import Taps, resolve_tap, unwrap
from .teachers import Teacher, as_teacher
from .terms import Term, is_output, named, parse_terms


class Objective(nn.Module):
    """Compare a student with its teachers and the ground truth: `total, parts = objective(batch)`.

    A call prepares the batch as each network wants it, runs the student in the mode it is in (training mode
    gives its intermediate outputs) and the teachers (in evaluation mode, without gradient) that a term of
    weight above 0 needs. Masked losses are means over what counts in all processes: each process scales its
    own so that the mean of gradients, which data-parallel training takes, is the gradient of the global mean.
    Under autocast in bfloat16 on a CPU gradients are exact (see `exact_gradients`) where nothing is compiled.

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
        for what, given in (("terms", terms), ("teachers", teachers or {})):
            if not hasattr(given, "items"):
                raise UserError(
                    f"an objective takes its {what} by name, in a mapping, got {type(given).__name__}"
                )
        if not isinstance(student, nn.Module):
            raise UserError(
                f"the student is a network (nn.Module), which create_model returns, got {student!r}"
            )
        self.task: Task = task_of(unwrap(student))
        for name, teacher in (teachers or {}).items():
            if unwrap(teacher) is unwrap(student):
                raise UserError(
                    f"teacher '{name}' is the student, and teachers do not learn: give a copy of it"
                )
        made = {name: as_teacher(teacher) for name, teacher in (teachers or {}).items()}
        self.terms, losses = parse_terms(terms, self.task.outputs, list(made))
        self.own_losses = nn.ModuleDict(
            {name: loss for name, loss in losses.items() if isinstance(loss, nn.Module)}
        )
        self.adapters = nn.ModuleDict()
        # In a tuple, out of sight of `nn.Module`: neither belongs to the objective's state or parameters.
        self._hidden = (student, made)
        self._spec = self._agree_on_places()
        self._attach(self.terms).remove()  # names are checked of terms of weight 0, too
        root, spec = unwrap(student), self._spec
        self._comparisons = [
            Comparison(term, losses[term.name], self.task, root, spec, made.get(term.to), self.adapters)
            for term in self.terms
            if term.weight
        ]
        self._intervene()
        self._taps = self._attach([comparison.term for comparison in self._comparisons])
        self._taps.pause()
        self._rehearsing = self._compared = False
        if any(comparison.term.adapter is not None for comparison in self._comparisons):
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
        """The active terms that own an adversary, by name: `adversary_loss()` is what that learns by, on what
        each saw since its last call or its last `forget()`."""
        return {one.term.name: one.loss for one in self._comparisons if hasattr(one.loss, "adversary")}

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
        with self._taps.step(), exact_gradients(not self._is_compiled()):
            answers = self._ask(batch)
            compared = []
            for comparison in self._comparisons:
                with named(comparison.term.name):
                    for pair in comparison.pairs(answers):
                        value, count = self._value(comparison, pair, answers), comparison.count(pair)
                        compared.append((comparison, pair.weight, value, count))
        self._compared = True
        shares = self._shares(torch.stack([count for *_, count in compared]))
        own: dict[str, Tensor] = {}
        for (comparison, weight, value, _), share in zip(compared, shares, strict=True):
            if comparison.grows:
                weight *= parts * self._processes()
            name, weighted = comparison.term.name, weight * value * share.to(value.dtype)
            own[name] = own[name] + weighted if name in own else weighted
        terms = [comparison.term for comparison in self._comparisons]
        total = torch.stack([term.weight_at(epoch) * own[term.name] for term in terms]).sum()
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
        own = {name: p for name, p in unwrap(self.student).named_parameters() if p.requires_grad}
        with torch.enable_grad(), self._rehearsal(batch) as rehearsed:
            total, _ = self(rehearsed)
            if not total.requires_grad:
                return list(own)
            gradients = torch.autograd.grad(total, list(own.values()), allow_unused=True)
        return [name for name, gradient in zip(own, gradients, strict=True) if gradient is None]

    def _ask(self, batch: Mapping[str, Any]) -> Answers:
        # Teachers first: what they need and drop is then not needed on top of all that the student keeps.
        needed = {comparison.term.to for comparison in self._comparisons}
        teachers = {name: teacher(batch) for name, teacher in self.teachers.items() if name in needed}
        root = unwrap(self.student)
        # A rehearsal goes round the data-parallel wrapper, which would wait for the other processes.
        network = root if self._rehearsing else self.student
        with all_heads(root, not root.training), self._interventions(teachers):
            outputs, placement = run_network(network, batch, self.task, self._spec)
        return Answers(batch, outputs, self._taps, placement, teachers)

    def _agree_on_places(self) -> InputSpec:
        """Return how the student's images are prepared; teachers whose taps are compared pad like it."""
        tapped = {term.to for term in self.terms if not is_output(term, self.task.outputs)}
        declared = {n: t.input_spec for n, t in self.teachers.items() if n in tapped and t.input_spec}
        own, *theirs = pad_alike([input_spec(self.student), *declared.values()])
        for name, spec in zip(declared, theirs, strict=True):
            self.teachers[name].input_spec = spec
        return own

    def _value(self, comparison: Comparison, pair: Pair, answers: Answers) -> Tensor:
        """Return the loss of `pair`; what fails for the recipe's sake is the user's error."""
        try:
            return comparison.value(pair, answers, self._processes())
        except (RuntimeError, ValueError, TypeError) as error:
            loss = comparison.term.loss
            # Without a rehearsal it is the first comparison that tells an option of the wrong kind.
            first = not (self._compared or isinstance(error, RuntimeError) or ":" in loss)
            if self._rehearsing or first:
                reason = next(iter(str(error).splitlines()), type(error).__name__)
                raise UserError(f"loss '{loss}' failed: {reason}") from error
            raise

    def _is_compiled(self) -> bool:
        """Return whether a compiler decides what is computed how."""
        modules = unwrap(self.student).modules()
        return torch.compiler.is_compiling() or any(one._compiled_call_impl is not None for one in modules)

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
        """Let losses that change what the student computes do so; taps, attached later, read the change."""
        for comparison in self._comparisons:
            loss: Any = comparison.loss
            if getattr(loss, "intervenes", False):
                for path in resolve_tap(self.student, comparison.term.student_spec).paths:
                    module = unwrap(self.student).get_submodule(path)
                    module.register_forward_hook(loss.hook)

    @contextmanager
    def _interventions(self, teachers: Mapping[str, Mapping[str, Any]]) -> Iterator[None]:
        """Hand the teachers' tensors to the losses that intervene, while the student runs."""
        found: list[tuple[Any, Any]] = [
            (one.loss, teachers[one.term.to]["taps"][one.to])
            for one in self._comparisons
            if getattr(one.loss, "intervenes", False)
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
                for term in self.adversaries.values():
                    term.forget()

    def _apply(self, fn: Any, recurse: bool = True) -> Objective:
        for teacher in self.teachers.values():
            teacher._apply(fn, recurse)
        return super()._apply(fn, recurse)
