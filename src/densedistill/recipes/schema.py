"""What a recipe may say: plain dataclasses, read strictly and without torch."""

from __future__ import annotations

import contextlib
import difflib
import math
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from typing import Any, Literal, TypeVar

from ..errors import UserError, if_close, nearest

T = TypeVar("T")

UNITS = ("epochs", "steps", "minutes")


def _at_least(group: str, config: Any, **bounds: float) -> None:
    """Raise UserError for a field of `config` that is below its bound, or no number; None is left alone."""
    for name, bound in bounds.items():
        value = getattr(config, name)
        if value is not None and not value >= bound:
            raise UserError(f"{group}.{name}: must be at least {bound:g}, not {value}")


def _at_most(group: str, config: Any, **bounds: int) -> None:
    """Raise UserError for a field of `config` that is above its bound, which no machine has a use for."""
    for name, bound in bounds.items():
        value = getattr(config, name)
        if value is not None and value > bound:
            raise UserError(f"{group}.{name}: must be at most {bound}, not {value}")


def _above_zero(group: str, config: Any, *names: str) -> None:
    """Raise UserError for a field of `config` that is not above 0; None is left alone."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not value > 0:
            raise UserError(f"{group}.{name}: must be above 0, not {value}")


@dataclass(kw_only=True)
class Student:
    """The network that is trained.

    Args:
        name: a registered network, or `package.module:Name`.
        weights: where training starts from: None, `shipped`, a file, `hf://…`, or `stage:NAME` inside a
            chain.
        borrow: path of a submodule to the teacher that training takes its weights from at the start.
        freeze: paths of submodules whose parameters are not trained (their batch norm statistics still move).
        frozen_bn: keep every batch norm in evaluation mode.
        options: everything else, given to the network's constructor (written beside `name`, not under
            `options`).
    """

    name: str
    weights: str | None = None
    borrow: dict[str, str] = field(default_factory=dict)
    freeze: list[str] = field(default_factory=list)
    frozen_bn: bool = False
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(kw_only=True)
class Teacher:
    """Whoever is learned from; `options` (written beside `name`) go to its constructor."""

    name: str
    weights: str | None = None
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(kw_only=True)
class DataSet:
    """One data set.

    Args:
        name: a registered data set, or `package.module:Name`.
        root: its folder; None where it needs none.
        split: the part of it.
        weight: its share of the training samples, relative to the others'; None: as many as it has.
        truth: False takes its ground truth away: what would be learned from frames that nobody labelled?
        crop: height and width of the random crop; short for `augment: {crop: …}`.
        augment: merged over `data.augment`; one word is the name of a preset. Its fields may also stand
            beside `name`.
        options: everything else, given to the data set (written beside `name`).
    """

    name: str
    root: str | None = None
    split: str | None = None
    weight: float | None = None
    truth: bool = True
    crop: list[int] | None = None
    augment: dict[str, Any] | str = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(kw_only=True)
class Data:
    """What is trained and validated on; `batch_size` counts the samples of one step over all processes.

    `protocol` is how validation measures: a protocol of the task; None for its plain one.
    `workers` are loading processes for each training process; None: none on a CPU, up to 8 beside a GPU.
    """

    train: list[DataSet]
    validate: list[DataSet] = field(default_factory=list)
    protocol: str | None = None
    batch_size: int = 8
    augment: dict[str, Any] | str = field(default_factory=dict)
    workers: int | None = None

    def __post_init__(self) -> None:
        _at_least("data", self, batch_size=1, workers=0)
        _at_most("data", self, batch_size=1 << 16, workers=256)
        for entry in self.train:
            _at_least("data.train", entry, weight=0)
        if self.train and all(entry.weight == 0 for entry in self.train):
            raise UserError("data.train: every data set has the weight 0; one must be above it")
        if math.isinf(sum(entry.weight or 0 for entry in self.train)):
            raise UserError("data.train: the weights of the data sets have no finite sum; divide them alike")
        if not all(entry.truth for entry in self.validate):
            raise UserError(
                "data.validate: nothing is measured without ground truth; leave out `truth: false`"
            )


@dataclass(kw_only=True)
class Optimizer:
    """The optimiser and its largest learning rate; `momentum` and `nesterov` are read by sgd alone."""

    name: Literal["adam", "adamw", "sgd"] = "adam"
    lr: float = 1e-3
    weight_decay: float = 0.0
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    eps: float = 1e-8
    momentum: float = 0.9
    nesterov: bool = False

    def __post_init__(self) -> None:
        _at_least("optimizer", self, lr=0, weight_decay=0, eps=0, momentum=0)
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise UserError(f"optimizer.betas: two numbers from 0 to below 1, not {self.betas}")
        if self.name == "sgd" and self.nesterov and not self.momentum:
            raise UserError("optimizer.nesterov: needs a momentum above 0")


@dataclass(kw_only=True)
class Schedule:
    """How long training lasts, in one of three units, and the course of the learning rate.

    Args:
        epochs, steps, minutes: the length. Minutes count training alone, not validation.
        name: `milestones` multiplies by `gamma` at each milestone and is constant without any; `cosine`
            falls to `final`; `poly` falls as a power of what is left; `one_cycle` rises for the `warmup`
            share (0.05 if not given), then falls linearly to `final`.
        milestones: in the unit of the length; in epochs it acts from the start of that epoch, counted from 0.
        gamma: factor at each milestone.
        power: of `poly`.
        warmup: share of the whole during which the rate rises linearly from nearly nothing.
        final: the last learning rate as a share of the largest.
        hold: share of the whole, at its end, with the last learning rate.
    """

    epochs: float | None = None
    steps: int | None = None
    minutes: float | None = None
    name: Literal["milestones", "cosine", "one_cycle", "poly"] = "milestones"
    milestones: list[float] = field(default_factory=list)
    gamma: float = 0.5
    power: float = 0.9
    warmup: float = 0.0
    final: float = 0.0
    hold: float = 0.0

    def __post_init__(self) -> None:
        lengths = [unit for unit in UNITS if getattr(self, unit) is not None]
        if len(lengths) != 1:
            said = "all of " + ", ".join(lengths) if lengths else "none"
            raise UserError(f"schedule: give one of epochs, steps and minutes; there is {said}")
        _above_zero("schedule", self, lengths[0])
        if math.isinf(self.length):
            raise UserError(f"schedule.{lengths[0]}: must have an end, not {self.length}")
        _at_least("schedule", self, gamma=0, power=0)
        if not all(milestone >= 0 for milestone in self.milestones):
            raise UserError(f"schedule.milestones: must be at least 0, not {self.milestones}")
        try:
            _ = self.gamma ** len(self.milestones)
        except OverflowError:
            raise UserError(
                f"schedule.gamma: {self.gamma:g} at {len(self.milestones)} milestones has no finite end"
            ) from None
        if not 0 <= self.final <= 1:
            raise UserError(f"schedule.final: a share of the largest rate, from 0 to 1, not {self.final}")
        if not 0 <= self.warmup < 1:
            raise UserError(f"schedule.warmup: a share of the whole, from 0 to below 1, not {self.warmup}")
        if not 0 <= self.hold < 1 - self.rise:
            raise UserError(f"schedule.hold: a share of the whole beside the warm-up, not {self.hold}")

    @property
    def unit(self) -> str:
        """`epochs`, `steps` or `minutes`."""
        return next(unit for unit in UNITS if getattr(self, unit) is not None)

    @property
    def length(self) -> float:
        """How many of the unit."""
        return float(getattr(self, self.unit))

    @property
    def rise(self) -> float:
        """The share of the whole during which the rate rises."""
        return self.warmup or (0.05 if self.name == "one_cycle" else 0.0)


@dataclass(kw_only=True)
class Trainer:
    """How training is run; nothing here changes what is computed but precision, clip, ema and accumulate.

    Args:
        precision: `auto` is bf16 where that is faster on this machine, else float32, as ever on Apple's GPU.
        accumulate: backward passes for one step; `batch_size` is that of the step.
        clip: largest norm of the gradient; null for none.
        ema: decay of the moving average of the weights, which is then what is validated and handed over.
        recompute: compute cheap activations again in the backward pass rather than keep them: a tenth to a
            third less memory for a few percent of the time, and the same gradients.
        compile: torch.compile the student, which then decides itself what is kept.
        channels_last: memory format of the weights; null: the student's is what trains faster here.
        devices: processes on each machine; null: as many as torchrun or srun started, else one for every GPU,
            or a single one on a CPU.
        nodes: machines; null: those on which torchrun or srun started processes, else this one.
        accelerator: `auto`, `cpu`, `gpu`, …
        threads: threads of one process; null leaves torch's choice.
        validate_every: steps between validations; null: each epoch, or ten times over steps or minutes.
        checkpoint_minutes, checkpoint_every: minutes, and steps, between checkpoints; null for none of that
            kind.
        log_every: steps between logged lines.
        pictures: validation samples shown in TensorBoard.
        select: whose weights `student.safetensors` holds, the `last` step's or the `best` validation's.
    """

    precision: Literal["auto", "float32", "bf16"] = "auto"
    accumulate: int = 1
    clip: float | None = None
    ema: float | None = None
    recompute: bool = True
    compile: bool = False
    channels_last: bool | None = None
    devices: int | None = None
    nodes: int | None = None
    accelerator: str = "auto"
    threads: int | None = None
    validate_every: int | None = None
    checkpoint_minutes: float | None = 10.0
    checkpoint_every: int | None = None
    log_every: int = 10
    pictures: int = 2
    select: Literal["last", "best"] = "last"

    def __post_init__(self) -> None:
        whole = dict.fromkeys(("accumulate", "devices", "nodes", "threads", "log_every"), 1)
        _at_least("trainer", self, **whole, validate_every=1, checkpoint_every=1)
        _at_least("trainer", self, checkpoint_minutes=0, pictures=0)
        _at_most("trainer", self, devices=1024, threads=1024)
        _above_zero("trainer", self, "clip")
        if self.ema is not None and not 0 <= self.ema < 1:
            raise UserError(f"trainer.ema: a decay from 0 to below 1, not {self.ema}")


@dataclass(kw_only=True)
class Recipe:
    """One training, in full.

    `objective` maps a term's name to its fields, which the objective itself checks.
    """

    task: str = "stereo"
    description: str = ""
    student: Student
    teachers: dict[str, Teacher] = field(default_factory=dict)
    data: Data
    objective: dict[str, dict[str, Any]]
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule
    seed: int = 1
    trainer: Trainer = field(default_factory=Trainer)
    name: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**63:  # what torch takes
            raise UserError(f"seed: must be at least 0 and below 2^63, not {self.seed}")
        if not self.objective:
            raise UserError("objective: there is no term; add one, for example ground_truth")
        if all(term.get("weight", 1) == 0 for term in self.objective.values()):
            raise UserError("objective: every term has weight 0: there is nothing to learn from")
        for name, term in self.objective.items():
            for wanted in ("loss", "of", "to"):
                if wanted not in term:
                    others = [other for other in self.objective if other != name]
                    raise UserError(f"objective.{name}: this term has no '{wanted}'{if_close(name, others)}")
            teacher = str(term["to"]).split(".")[0]
            if teacher not in ("ground_truth", *self.teachers):
                choices = ("ground_truth", *self.teachers)
                raise UserError(
                    f"objective.{name}.to: there is no teacher '{teacher}'{nearest(teacher, choices)}"
                )

    @property
    def taught_by(self) -> dict[str, Teacher]:
        """The teachers that a term of weight above 0 learns from."""
        terms = [term for term in self.objective.values() if term.get("weight", 1) != 0]
        asked = {str(term["to"]).split(".")[0] for term in terms}
        return {name: teacher for name, teacher in self.teachers.items() if name in asked}

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as plain values that `load_recipe` reads back."""
        return _plain(self)


@dataclass
class Stages:
    """Several recipes of one: a chain, whose later stages use what earlier ones trained, or a ladder of
    variants.

    `recipes` maps a stage's name to its recipe; `kind` is `chain` or `ladder`.
    """

    kind: Literal["chain", "ladder"]
    recipes: dict[str, Recipe]
    name: str = ""
    description: str = ""

    @property
    def task(self) -> str:
        """The task of the last stage."""
        return list(self.recipes.values())[-1].task

    def to_dict(self) -> dict[str, Any]:
        """Return the stages as plain values that `load_recipe` reads back."""
        head = {"name": self.name, "description": self.description}
        stages = {name: recipe.to_dict() for name, recipe in self.recipes.items()}
        if self.kind == "chain":
            return {**head, "chain": [{"as": name, **stage} for name, stage in stages.items()]}
        return {**head, "ladder": {"rungs": stages}}


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        # What is written beside `name` goes back there.
        plain = {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
        return {**{k: v for k, v in plain.items() if k != "options"}, **plain.get("options", {})}
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value


def _hints(cls: Any) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def build(cls: type[T], value: Any, path: str = "") -> T:
    """Return dataclass `cls` from the mapping `value`.

    A class with a field `options` takes what it does not know into it, unless that looks like a misspelt
    field.

    Raises:
        UserError: a field that does not exist (named with its dotted path and the nearest valid one), is
            missing, or is of the wrong kind.
    """
    if isinstance(value, str) and "name" in _hints(cls) and "options" in _hints(cls):
        value = {"name": value}
    if not isinstance(value, Mapping):
        raise UserError(f"{path or 'the recipe'}: fields are wanted here, not {value!r}")
    known = [f.name for f in fields(cls) if f.name != "options"]  # type: ignore[arg-type]
    open_ended = "options" in _hints(cls)
    options, kept = dict(value.get("options") or {}) if open_ended else {}, {}
    for key, given in value.items():
        where = f"{path}.{key}" if path else str(key)
        if key == "options" and open_ended:
            continue
        if key in known:
            kept[key] = convert(_hints(cls)[key], given, where)
        elif open_ended and not difflib.get_close_matches(str(key), known, n=1, cutoff=0.8):
            options[key] = given
        else:
            raise UserError(f"the recipe has no field '{where}'{_nearest_path(where, known)}")
    for f in fields(cls):  # type: ignore[arg-type]
        if f.name not in kept and f.default is MISSING and f.default_factory is MISSING:
            raise UserError(f"the recipe lacks the field '{path + '.' if path else ''}{f.name}'")
    return cls(**kept, **({"options": options} if open_ended else {}))


def _nearest_path(where: str, known: Iterable[str]) -> str:
    head, _, last = where.rpartition(".")
    hint = nearest(last, known)
    return hint.replace("mean '", f"mean '{head}.") if head else hint


_KINDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false", dict: "fields"}


def convert(kind: Any, value: Any, path: str) -> Any:
    """Return `value` as `kind` (a type annotation); UserError naming `path` when it is something else."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        first, *others = (a for a in arguments if a is not type(None))
        return value if type(value) in others else convert(first, value, path)
    if origin is Literal:
        if value not in arguments:
            raise UserError(f"{path}: there is no '{value}'{nearest(str(value), map(str, arguments))}")
        return value
    if origin is list:
        # One data set is as good as a list of one; a crop of one number is a mistake.
        values = value if isinstance(value, list | tuple) else [value] if is_dataclass(arguments[0]) else None
        if values is None:
            raise UserError(f"{path}: a list is wanted, not {value!r}")
        single = not isinstance(value, list | tuple)
        return [convert(arguments[0], v, path if single else f"{path}.{i}") for i, v in enumerate(values)]
    if origin is dict:
        if not isinstance(value, Mapping):
            raise UserError(f"{path}: fields are wanted here, not {value!r}")
        return {str(k): convert(arguments[1], v, f"{path}.{k}") for k, v in value.items()}
    if is_dataclass(kind):
        return build(kind, value, path)  # type: ignore[arg-type]
    return _scalar(kind, value, path)


def _scalar(kind: type, value: Any, path: str) -> Any:
    if kind is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        with contextlib.suppress(ValueError, OverflowError):
            number = float(value)  # YAML reads 1e-4, without a point, as text
            if math.isfinite(number):
                return number
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if kind is str and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if kind is not float and isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    raise UserError(f"{path}: {_KINDS.get(kind, kind.__name__)} is wanted, not {value!r}")
