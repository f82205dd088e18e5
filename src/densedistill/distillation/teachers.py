"""Teachers: whatever returns predictions and, if it can, taps for a batch."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..data.augment import Options
from ..errors import UserError, nearest, unknown
from ..inference.load import is_run, student_of
from ..networks import InputSpec, create_model, list_models
from ..networks.folding import fold_batch_norm
from ..networks.input_spec import search_range
from ..networks.precision import pack_weights
from ..networks.published import load_weights
from ..networks.registry import name_of
from ..registry import Registry, construct
from ..runtimes import is_exported, load_runtime
from ..tasks import Task, task_of
from .answers import all_heads, input_spec, inputs_of, run_network
from .taps import Spec, Taps, unwrap

TEACHERS = Registry(
    "teacher",
    tuple(
        f"densedistill.distillation.{module}"
        for module in ("teachers", "hub_depth", "motion", "remembering", "stored")
    ),
)


class Teacher(nn.Module):
    """What answers for a teacher: `teacher(batch)` returns a mapping of outputs at the sample's size.

    Beside the outputs it may give `KEY_valid` (B, 1, H, W; bool) where it vouches for an output, and, if it
    was asked to `watch`, `taps`: a mapping of tuples of tensors, with `placement`, where the images lay in
    its input. It is always in evaluation mode and never gives a gradient.

    Attributes:
        max_disparity: number of disparities it can tell, None where that means nothing.
        align_corners: how it upsamples logits over disparities.
        input_spec: what sizes it takes, None where it takes any.
    """

    max_disparity: int | None
    align_corners: bool
    input_spec: InputSpec | None

    def __init__(self) -> None:
        super().__init__()
        self.max_disparity, self.align_corners, self.input_spec = None, False, None
        super().train(False)

    def train(self, mode: bool = True) -> Teacher:
        """Stay in evaluation mode whatever `mode` says."""
        return self

    def watch(self, taps: Iterable[Spec]) -> None:
        """Read `taps` from now on; UserError when this teacher has none."""
        raise UserError("this teacher is not a network: it has outputs, but no taps")

    def suit(self, augmentation: Options, names: Sequence[str] | None = None) -> Options:
        """Return `augmentation` so that this teacher can answer; a live one answers to whatever it sees.

        Args:
            augmentation: of a training data set.
            names: of its samples, where it knows them.

        Raises:
            UserError: an augmentation or a sample for which it has no answer.
        """
        return augmentation


class NetworkTeacher(Teacher):
    """A network as a teacher.

    Args:
        network: called as its task says; put into evaluation mode, and its parameters frozen. One that runs
            some heads in training mode only has an attribute `all_heads`, which is set while a watched tap
            needs them.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        root = unwrap(network)
        self.name = name_of(root)
        self.task: Task = task_of(root)
        self.max_disparity = getattr(root, "max_disparity", None)
        self.align_corners = getattr(root, "align_corners", False)
        self.input_spec = input_spec(network)
        self._all_heads = False
        self._taps: Taps | None = None

    def watch(self, taps: Iterable[Spec]) -> None:
        """Read `taps` from now on; attach before compiling the network."""
        if self._taps is not None:
            self._taps.remove()
        self._taps = Taps(self.network, taps)
        self._taps.pause()
        self._all_heads = False

    def fold(self) -> None:
        """Fold the network's batch normalisation, and keep its weights as autocast wants them.

        Its answers and its watched taps stay. For a network that nobody else uses.
        """
        pack_weights(fold_batch_norm(self.network, in_place=True))

    @torch.no_grad()
    def forward(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        if self._taps is None:
            outputs, placement = run_network(self.network, batch, self.task, self.input_spec)
            return {**outputs, "placement": placement}
        taps = self._taps
        with taps.step(), all_heads(self.network, self._all_heads):
            outputs, placement = run_network(self.network, batch, self.task, self.input_spec)
            can_more = not self._all_heads and hasattr(unwrap(self.network), "all_heads")
            if not can_more or all(map(taps.fired_all, taps)):
                return {**outputs, "taps": {key: taps[key] for key in taps}, "placement": placement}
        self._all_heads = True
        return NetworkTeacher.forward(self, batch)


class EnsembleTeacher(Teacher):
    """The mean or median of several teachers' outputs.

    Beside an output stands `KEY_spread`, the mean distance of its members from it.

    Args:
        members: teachers of one task.
        reduce: "mean" or "median" over the members that vouch for a pixel, or "confidence", their mean
            weighted by the `KEY_confidence` that they give (1 where they give none).
    """

    def __init__(self, members: Iterable[nn.Module], reduce: str = "mean"):
        super().__init__()
        if reduce not in ("mean", "median", "confidence"):
            raise UserError(f"an ensemble's reduce is 'mean', 'median' or 'confidence', got '{reduce}'")
        teachers = [as_teacher(member) for member in members]
        if not teachers:
            raise UserError("an ensemble needs members")
        self.members, self.reduce = nn.ModuleList(teachers), reduce
        self.task: Task = task_of(next((t for t in teachers if getattr(t, "task", None)), None))
        self.max_disparity = min((t.max_disparity for t in teachers if t.max_disparity), default=None)

    def suit(self, augmentation: Options, names: Sequence[str] | None = None) -> Options:
        """Return `augmentation` as every member can follow it."""
        for member in self.members:
            assert isinstance(member, Teacher)
            augmentation = member.suit(augmentation, names)
        return augmentation

    @torch.no_grad()
    def forward(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        answers = [member(batch) for member in self.members]
        keys = [
            key
            for key, value in answers[0].items()
            if isinstance(value, Tensor)
            and not key.endswith(("_valid", "_confidence", "_spread"))
            and all(key in a for a in answers)
        ]
        combined: dict[str, Any] = {}
        for key in keys:
            values = torch.stack([answer[key].float() for answer in answers])
            valid = torch.stack([answer_validity(answer, key) for answer in answers])
            broken = (valid & ~values.isfinite()).any(0)
            combined[f"{key}_valid"] = valid.any(0)
            values = torch.where(valid, values, torch.nan)
            if self.reduce == "confidence":
                sure = torch.stack([_confidence(answer, key) for answer in answers])
                weights = torch.where(valid, sure, 0)  # unsure of what it does not vouch for is no number
                reduced = (values.nan_to_num() * weights).sum(0) / weights.sum(0)
            else:
                reduced = values.nanmean(0) if self.reduce == "mean" else _nanmedian(values)
            # What a member vouches for and is no number is not hidden by the others.
            combined[key] = torch.where(valid.any(0), reduced, 0).masked_fill(broken, torch.nan)
            combined[f"{key}_spread"] = (values - combined[key]).abs().nanmean(0).nan_to_num()
        return combined


def _confidence(answer: Mapping[str, Any], key: str) -> Tensor:
    given = answer.get(f"{key}_confidence")
    return torch.ones_like(answer[key][:, :1]) if given is None else given.float().clamp(min=1e-6)


def answer_validity(answer: Mapping[str, Any], key: str) -> Tensor:
    """Return where `answer` vouches for its output `key`, (B, 1, H, W); everywhere if it does not say."""
    valid = answer.get(f"{key}_valid")
    if valid is None:
        return torch.ones_like(answer[key][:, :1], dtype=torch.bool)
    return valid


def as_teacher(teacher: nn.Module) -> Teacher:
    """Return `teacher`, a network wrapped as one; UserError when it is neither."""
    if not isinstance(teacher, nn.Module):
        raise UserError(
            f"a teacher is a network (nn.Module), or what create_teacher returns, got {teacher!r}"
        )
    return teacher if isinstance(teacher, Teacher) else NetworkTeacher(teacher)


def _nanmedian(values: Tensor) -> Tensor:
    """Return the median over the first axis without NaN, the mean of the middle two for an even count."""
    ordered = values.sort(0).values  # NaN sorts last
    count = (~values.isnan()).sum(0, keepdim=True)
    low, high = ((count - 1) // 2).clamp(min=0), (count // 2).clamp(max=len(values) - 1)
    return ((ordered.gather(0, low) + ordered.gather(0, high)) / 2)[0]


def _is_network(make: Callable[..., Any]) -> bool:
    """Return whether `make` is the class of a network, which is made, and gets its weights, as a student."""
    return isinstance(make, type) and issubclass(make, nn.Module) and not issubclass(make, Teacher)


class PredictorTeacher(Teacher):
    """Anything that is called like a `Predictor` as a teacher: a classical matcher, an exported network.

    Args:
        predict: takes the task's images (B, 3, H, W; uint8, or float in [0, 1]) and returns outputs of their
            size.
        holes: an output of 0 or below means that there is no answer.
    """

    def __init__(self, predict: Callable[..., Mapping[str, Tensor]], holes: bool = False):
        super().__init__()
        self.predict, self.holes = predict, holes
        self.task = task_of(predict)
        self.max_disparity = search_range(getattr(predict, "net", predict))

    @torch.no_grad()
    def forward(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        images = inputs_of(batch, self.task)
        outputs = {key: value.to(images[0].device) for key, value in self.predict(*images).items()}
        if self.holes:
            outputs |= {f"{key}_valid": outputs[key] > 0 for key in self.task.outputs if key in outputs}
        return outputs


@TEACHERS.register("ensemble")
def _ensemble(members: Iterable[Mapping[str, Any]], reduce: str = "mean") -> Teacher:
    return EnsembleTeacher([create_teacher(**member) for member in members], reduce)


@TEACHERS.register("torchvision")
def _torchvision(
    detector: str = "fcos_resnet50_fpn",
    classes: int = 91,
    numbers: list[int] | None = None,
    **options: Any,
) -> nn.Module:
    from ..networks.zoo import torchvision_detector

    weights = options.pop("weights", None)
    network = torchvision_detector(detector, classes, numbers, **options)
    if weights is not None:
        load_weights(network.module, weights)
    return network


@TEACHERS.register("sgbm")
def _sgbm(max_disparity: int = 192, fill: bool = False) -> Teacher:
    from ..inference.classical import SGBM

    return PredictorTeacher(SGBM(max_disparity=max_disparity, fill=fill), holes=not fill)


def _exported(file: str, options: Mapping[str, Any]) -> Teacher:
    from ..inference.predictor import Predictor

    _, *accepted = inspect.signature(load_runtime).parameters
    _check_options(file, options, accepted)
    return PredictorTeacher(Predictor(load_runtime(file, **options)))


def _check_options(name: str, options: Iterable[str], accepted: Iterable[str]) -> None:
    for option in options:
        if option not in accepted:
            raise UserError(f"teacher '{name}' takes no option '{option}'{nearest(option, accepted)}")


def create_teacher(name: str, weights: str | None = None, **options: Any) -> Teacher:
    """Return the teacher called `name`.

    Args:
        name: a registered network; `sgbm`, OpenCV's matcher, which vouches for what it matched (options
            `max_disparity`, and `fill` to have its holes filled); `store`, answers that `label` wrote (option
            `path`); `dis` and `raft`, optical flow; `parts`, scene flow from `stereo` and `flow`;
            `package.module:Name` for a class or function of your own that returns a teacher or a network; the
            directory of a run, whose student teaches; the path of an exported file (.onnx, .xml, .pt2,
            .engine; options `runtime`, `device`, `precision`, `threads`); `depth_anything`, a depth network
            of the Hugging Face hub (options `model`, a folder or hub id, `kind`, `align`); `ensemble`, with
            options `members` (a list of mappings of this function's arguments) and `reduce` (mean, median or
            confidence).
        weights: of a network, as `create_model` takes them.
        **options: to the network or the teacher, for example `max_disparity=192`.

    Raises:
        UserError: no such teacher, an option it does not take, or weights that do not fit.
    """
    if is_exported(name):
        if weights is not None:
            raise UserError(f"teacher '{name}' brings its own weights; leave 'weights' out")
        return _exported(name, options)
    if is_run(name):
        student, trained, made_with = student_of(Path(name))
        return create_teacher(student, weights or trained, **{**made_with, **options})
    if ":" not in name and name not in TEACHERS:
        networks = list_models()
        if name not in networks:
            raise unknown("teacher", name, [*networks, *TEACHERS])
        return NetworkTeacher(create_model(name, weights=weights, **options))
    make = TEACHERS[name]
    accepted = inspect.signature(make).parameters
    if ":" in name and "weights" not in accepted and _is_network(make):
        return NetworkTeacher(create_model(name, weights=weights, **options))
    open_ended = any(p.kind is p.VAR_KEYWORD for p in accepted.values())
    if weights is not None and ("weights" in accepted or open_ended):
        options["weights"], weights = weights, None
    if not open_ended:
        _check_options(name, options, accepted)
    made = construct("teacher", name, make, options)
    if not isinstance(made, nn.Module):
        raise UserError(f"teacher '{name}' is a {type(made).__name__}; a torch.nn.Module is wanted")
    if weights is not None:  # of a network that leaves loading to us
        if isinstance(made, Teacher):
            raise UserError(f"teacher '{name}' takes no option 'weights'")
        load_weights(made, weights)
    return as_teacher(made)
