"""One term of an objective: what a recipe says about it, checked."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields
from typing import Any, cast

from torch import Tensor

from ..errors import UserError, nearest, unknown
from ..registry import construct
from .adapters import check_adapter
from .losses import LOSSES
from .taps import Spec

Loss = Callable[..., Tensor]

GROUND_TRUTH = "ground_truth"
MASKS = ("none", "ground_truth", "teacher", "both")

# Keyword parameters of a loss that the objective fills in, because they are facts of the networks, of the
# batch or of the training.
FACTS = (
    *("max_disparity", "size", "align_corners", "teacher_max_disparity", "teacher_align_corners"),
    *("image", "box_classes", "processes"),
)


@dataclass(frozen=True)
class Term:
    """A named, weighted loss between something of the student and the ground truth or something of a teacher.

    Args:
        name: in flags and in logs.
        loss: a registered loss or `package.module:Name`.
        of: an output of the student (`disparity`) or one of its taps (see `Taps`).
        to: `ground_truth`, or a teacher's name, or `TEACHER.TAP` where the teacher's tap is called otherwise.
        to_tap: the teacher's tap where it is called otherwise, or cannot be written in one word.
        weight: factor in the total; at 0 the term is checked, but not computed.
        mask: which pixels count: `none`, `ground_truth`, `teacher` (where the teacher vouches) or `both`. The
            default is `ground_truth` for a term to the ground truth, `teacher` for another of an output,
            `none` for one of a tap.
        levels: a weight for each of the student's intermediate outputs, coarse to final, or for each pair of
            a tap's tensors; 0 leaves one out. Without it an output is compared in its final form, and pairs
            weigh 1.
        adapter: what makes the student's tensors fit the teacher's: see `Adapter`.
        clone: copy tapped tensors, for a network that changes them in place.
        max_disparity: ground truth from here on does not count, px; default the student's.
        decay: `{epochs: [...], factor: f}`: from each of these epochs on the weight is multiplied by f once
            more.
        options: the loss's own.
    """

    name: str
    loss: str
    of: Spec
    to: str
    to_tap: Spec | None = None
    weight: float = 1.0
    mask: str = "none"
    levels: tuple[float, ...] | None = None
    adapter: Mapping[str, Any] | None = None
    clone: bool = False
    max_disparity: float | None = None
    decay: Mapping[str, Any] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def student_spec(self) -> Spec:
        """The tap of the student."""
        return self._cloned(self.of)

    @property
    def teacher_spec(self) -> Spec:
        """The tap of the teacher."""
        return self._cloned(self.of if self.to_tap is None else self.to_tap)

    def _cloned(self, spec: Spec) -> Spec:
        if not self.clone:
            return spec
        return {**spec, "clone": True} if isinstance(spec, Mapping) else {"path": spec, "clone": True}

    def weight_at(self, epoch: float) -> float:
        """Return the weight in `epoch` (the first is 0)."""
        if self.decay is None:
            return self.weight
        passed = sum(epoch >= start for start in self.decay["epochs"])
        return self.weight * self.decay.get("factor", 0.1) ** passed


def parse_terms(
    terms: Mapping[str, Any], outputs: Sequence[str], teachers: Sequence[str]
) -> tuple[list[Term], dict[str, Loss]]:
    """Return the terms of a recipe's `objective` and the loss of each.

    Args:
        terms: name to a `Term` or to a mapping of its arguments; what is none of them is an option of the
            loss.
        outputs: the task's outputs.
        teachers: names of the teachers.

    Raises:
        UserError: naming the term and the nearest valid word.
    """
    if not terms:
        raise UserError("the objective has no terms")
    parsed: list[Term] = []
    losses: dict[str, Loss] = {}
    for name, given in terms.items():
        with named(name):
            if "." in name:
                raise UserError("a term's name has no dot")
            term = given if isinstance(given, Term) else _term(name, given, outputs)
            losses[name] = _loss(term)
            _check(term, losses[name], outputs, teachers)
        parsed.append(term)
    if not any(term.weight for term in parsed):
        raise UserError("every term of the objective has weight 0: there is nothing to learn from")
    return parsed, losses


@contextmanager
def named(term: str) -> Iterator[None]:
    """Have a UserError say which term it is about."""
    try:
        yield
    except UserError as error:
        raise UserError(f"objective.{term}: {error}") from None


def is_output(term: Term, outputs: Sequence[str]) -> bool:
    """Return whether the term compares an output rather than a tap."""
    return isinstance(term.of, str) and term.of in outputs


_FIELDS = {f.name for f in fields(Term)} - {"name", "options"}


def _term(name: str, given: Any, outputs: Sequence[str]) -> Term:
    if not isinstance(given, Mapping):
        raise UserError(f"a term is a mapping of loss, of, to, weight, …, got {given!r}")
    values = {key: value for key, value in given.items() if key in _FIELDS}
    options = {key: value for key, value in given.items() if key not in _FIELDS}
    for key in ("loss", "of", "to"):
        if values.get(key) is None:
            hint = next(
                (f" ('{o}' looks like it)" for o in options if nearest(o, [key]).startswith("; did")), ""
            )
            raise UserError(f"'{key}' is missing{hint}")
    if not isinstance(values["loss"], str):
        raise UserError(f"a loss is its name, got {values['loss']!r}")
    if isinstance(values["to"], str) and "." in values["to"]:
        values["to"], _, values["to_tap"] = values["to"].partition(".")
    if values.get("mask") is None:
        of_output = isinstance(values["of"], str) and values["of"] in outputs
        maskable = of_output and takes_mask(LOSSES[values["loss"]])
        values["mask"] = GROUND_TRUTH if values["to"] == GROUND_TRUTH else "teacher" if maskable else "none"
    if values.get("levels") is not None:
        if not isinstance(values["levels"], list | tuple):
            raise UserError(f"levels is a list of weights, got {values['levels']!r}")
        values["levels"] = tuple(_number("a level", level) for level in values["levels"])
    if isinstance(values.get("adapter"), str):
        values["adapter"] = {"kind": values["adapter"]}
    values["weight"] = _number("the weight", values.get("weight", 1.0))
    if values.get("max_disparity") is not None:
        values["max_disparity"] = _number("max_disparity", values["max_disparity"])
    if not isinstance(values.get("clone", False), bool):
        raise UserError(f"clone is true or false, got {values['clone']!r}")
    return Term(name=name, options=options, **values)


def _number(what: str, value: Any) -> float:
    with suppress(OverflowError):  # of a whole number that no float holds
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    raise UserError(f"{what} is a number, got {value!r}")


def _loss(term: Term) -> Loss:
    loss = LOSSES[term.loss]
    accepted = inspect.signature(loss).parameters
    open_ended = any(p.kind is p.VAR_KEYWORD for p in accepted.values())
    # What a class is made with is its own; a function gets these at each call.
    given = () if inspect.isclass(loss) else ("student", "teacher", "mask", *FACTS)
    own = [key for key in accepted if key not in given]
    for option in term.options:
        if option not in own and not open_ended:
            hint = nearest(option, [*_FIELDS, *own])
            raise UserError(f"neither a term nor loss '{term.loss}' has a field '{option}'{hint}")
    if not inspect.isclass(loss):
        return loss
    return cast(Loss, construct("loss", term.loss, loss, term.options))


def _check(term: Term, loss: Loss, outputs: Sequence[str], teachers: Sequence[str]) -> None:
    if term.to != GROUND_TRUTH and term.to not in teachers:
        raise unknown("teacher", term.to, [GROUND_TRUTH, *teachers])
    if term.to == GROUND_TRUTH:
        _check_truth(term, loss, outputs)
    if term.mask not in MASKS:
        raise UserError(
            f"mask is one of {', '.join(MASKS)}, got '{term.mask}'{nearest(str(term.mask), MASKS)}"
        )
    if term.to == GROUND_TRUTH and term.mask != GROUND_TRUTH:
        raise UserError(f"a term to the ground truth has mask: ground_truth, got '{term.mask}'")
    if term.mask != "none" and not takes_mask(loss):
        to_truth = term.to == GROUND_TRUTH
        way = "give it a parameter 'mask', of what was measured" if to_truth else "set mask: none"
        raise UserError(f"loss '{term.loss}' takes no mask; {way}")
    if getattr(loss, "intervenes", False) and is_output(term, outputs):
        raise UserError(f"loss '{term.loss}' is for taps, not outputs")
    if term.weight < 0:
        raise UserError(f"the weight is at least 0, got {term.weight:g}")
    if term.max_disparity is not None and term.max_disparity <= 0:
        raise UserError(f"max_disparity is above 0 px, got {term.max_disparity:g}")
    compared = str(term.of) if is_output(term, outputs) else outputs[0]  # a tap goes by the main one's truth
    if term.max_disparity is not None and not (
        term.mask in (GROUND_TRUTH, "both") and compared.startswith("disparity")
    ):
        raise UserError(
            f"max_disparity bounds true disparities, and mask: {term.mask} of '{compared}' does not ask for "
            "these; leave it out, or set mask: both"
        )
    if term.adapter is not None:
        if is_output(term, outputs):
            raise UserError("an adapter is for taps; outputs have one shape already")
        check_adapter(term.adapter)
    if term.levels is not None and not any(term.levels):
        raise UserError("every level has weight 0")
    if any(level < 0 for level in term.levels or ()):
        raise UserError(f"the weight of a level is at least 0, got {min(term.levels or ()):g}")
    if term.decay is not None:
        _check_decay(term.decay, term.weight)


def _check_truth(term: Term, loss: Loss, outputs: Sequence[str]) -> None:
    if not (is_output(term, outputs) or getattr(loss, "takes_truth", False)):
        raise UserError(f"the ground truth has no tap '{term.of}'{nearest(str(term.of), outputs)}")
    if term.to_tap is not None:
        raise UserError(f"the ground truth has nothing to choose, got '{term.to_tap}'; 'of' says which it is")


def _check_decay(decay: Any, weight: float) -> None:
    epochs = decay.get("epochs") if isinstance(decay, Mapping) else None
    if not isinstance(epochs, list | tuple) or set(decay) - {"epochs", "factor"}:
        raise UserError(f"decay is {{epochs: [...], factor: 0.1}}, got {decay}")
    factor = decay.get("factor", 0.1)
    for number in (*epochs, factor):
        _number("an epoch or factor of decay", number)
    if not factor >= 0:
        raise UserError(f"the factor of decay is at least 0, got {factor}")
    try:
        last = weight * float(factor) ** len(epochs)
    except OverflowError:
        last = math.inf
    if math.isinf(last):
        raise UserError(f"decay by a factor of {factor:g} in {len(epochs)} epochs ends at no finite weight")


def takes_mask(loss: Loss) -> bool:
    """Return whether `loss`, a function, a module or a class of modules, has a parameter `mask`."""
    return "mask" in _parameters(loss)


def facts_wanted(loss: Loss) -> list[str]:
    """Return which facts of the networks `loss` has parameters for."""
    return [key for key in FACTS if key in _parameters(loss)]


def _parameters(loss: Loss) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(getattr(loss, "forward", loss)).parameters
