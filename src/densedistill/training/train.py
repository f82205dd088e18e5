"""`train`: a recipe, or the rest of a run, to a trained student."""

from __future__ import annotations

import contextlib
import copy
import logging
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..data.loader import default_workers, make_loader, open_mixture, shares
from ..distillation.objective import Objective
from ..distillation.teachers import NetworkTeacher, create_teacher
from ..distillation.terms import parse_terms
from ..errors import UserError, nearest
from ..files import locked
from ..inference.protocols import get_protocol
from ..machine import keep_freed_memory, torch_threads
from ..networks.precision import channels_last, fastest_dtype, trains_channels_last
from ..networks.published import save_weights
from ..networks.registry import MODELS, create_model
from ..recipes import Recipe, Stages, Trainer, load_recipe
from ..tasks import get_task, task_of
from .adversarial import AdversarialModule
from .callbacks import AtOnce, Interrupted, Pilot
from .checkpoint import Counters, load_checkpoint, restore
from .ema import WeightAverage
from .launch import check_launch, is_first_process, launched
from .log import RunLog
from .module import TrainingModule, seed_all
from .optimizer import freeze
from .run import Run, choose_directory, open_run
from .schedule import Course
from .stages import refuse_stage, stage_of, train_stages
from .synchronise import SynchronisedNorms
from .validation import Validator, open_validation, trained_on


def train(
    recipe: Recipe | Stages | str | Path | Mapping[str, Any] | None = None,
    run: str | Path | None = None,
    resume: str | Path | None = None,
    twin: bool = False,
    overrides: Mapping[str, Any] | None = None,
) -> Run:
    """Train what `recipe` says, or go on with the run in `resume`, and return the run, not evaluated.

    Arguments and errors are those of `densedistill.verbs.train`, which evaluates, too.
    """
    if resume is not None:
        directory = open_run(resume)
        chosen = load_recipe(directory.path / "recipe.yaml", overrides=overrides)
        refuse_stage(chosen)
    else:
        if recipe is None:
            raise UserError("there is nothing to train: give a recipe, or the run to resume")
        chosen = _chosen(recipe, twin, overrides)
        refuse_stage(chosen)
        directory = Run(run or choose_directory(chosen, twin))
        for name, one in chosen.recipes.items() if isinstance(chosen, Stages) else [("", chosen)]:
            rehearse(one, name)
    changed = bool(resume and overrides)
    if not is_first_process():
        return _train(chosen, directory, changed)
    with locked(directory.path, "training"):
        if resume is None:
            directory.create(chosen)
        # Processes that this one starts must write, and read, the same run.
        os.environ["DENSEDISTILL_RUN"] = str(directory.path)
        try:
            return _train(chosen, directory, changed)
        finally:
            os.environ.pop("DENSEDISTILL_RUN", None)


def _chosen(
    recipe: Recipe | Stages | str | Path | Mapping[str, Any], twin: bool, overrides: Mapping[str, Any] | None
) -> Recipe | Stages:
    if isinstance(recipe, Recipe | Stages):
        if not (twin or overrides):
            return recipe
        recipe = recipe.to_dict()
    return load_recipe(recipe, twin, overrides)


def _train(recipe: Recipe | Stages, run: Run, changed: bool) -> Run:
    if isinstance(recipe, Stages):
        return train_stages(recipe, run, changed)
    return train_one(recipe, run, [(run, recipe)] if changed else [])


def train_one(recipe: Recipe, run: Run, changed: Sequence[tuple[Run, Recipe | Stages]] = ()) -> Run:
    """Train a single recipe in `run`, from its last checkpoint when it has one.

    A finished run is left as it is, unless its recipe was `changed`: runs with what their `recipe.yaml` is to
    say, once it is known that the checkpoint fits.
    """
    if run.finished and not (changed and run.last.is_file()):
        return run
    state = load_checkpoint(run.last) if run.last.is_file() else None
    counters = Counters(**state["counters"]) if state else Counters()
    keep_freed_memory()
    with torch_threads(recipe.trainer.threads), _quiet():
        datasets = open_validation(recipe)
        if is_first_process():
            for warning in [*trained_on(recipe), *at_random(recipe), *in_float32(recipe)]:
                print(f"warning: {warning}", file=sys.stderr)
        log = RunLog(run.path, recipe.trainer.log_every, is_first_process(), counters.step)
        pictures, protocol = recipe.trainer.pictures, recipe.data.protocol
        pilot = Pilot(log, Validator(datasets, pictures, protocol) if datasets else None)
        trainer = _lightning(recipe, run, pilot)
        module, loader = _assemble(recipe, run, counters, trainer)
        if state:
            restore(module, state)
        if trainer.is_global_zero:
            run.forget_after(counters.step)
            for one, said in changed:
                one.write_recipe(said)
        # A run may have been cut off between its last step and the end, or its schedule made shorter.
        if module.course.finished(module.step, module.watch.seconds):
            if trainer.is_global_zero:
                unit, length = recipe.schedule.unit, recipe.schedule.length
                print(
                    f"nothing is left to train: the run is at step {module.step}, its schedule of "
                    f"{unit}: {length:g} is over; --schedule.{unit} makes it longer",
                    file=sys.stderr,
                )
        else:
            if trainer.is_global_zero:
                run.student.unlink(missing_ok=True)  # of a schedule that is longer now
            _fit(trainer, module, loader, pilot)
    if pilot.interrupted:
        raise Interrupted(f"stopped at step {module.step}; go on with: --resume {run.path}")
    if trainer.is_global_zero:
        _hand_over(module, run)
    trainer.strategy.barrier("handed over")
    return run


# How torch on a CPU, CUDA and Apple's GPUs, and cuDNN and cuBLAS say that memory is full.
_FULL = ("can't allocate memory", "out of memory", "ALLOC_FAILED")


def _fit(trainer: Any, module: TrainingModule, loader: Any, pilot: Pilot) -> None:
    try:
        with pilot.listening():
            trainer.fit(module, train_dataloaders=loader)
    except (AtOnce, RuntimeError) as error:  # torch.OutOfMemoryError, of a GPU, is the second, too
        # Lightning's clean-up, stopped half-way, is begun again and fails.
        if isinstance(error, AtOnce) or isinstance(error.__context__, AtOnce):
            run = module.run
            there = "go on from the last checkpoint with" if run.last.is_file() else "begin again with"
            raise Interrupted(f"stopped at once; {there}: --resume {run.path}") from None
        if isinstance(error, torch.distributed.DistError) or "gloo" in str(error):
            reason = " ".join(str(error).split())[:100]
            raise UserError(
                f"step {module.step}: another process has stopped, and may say why ({reason})"
            ) from None
        if str(error).startswith("DataLoader worker"):
            raise UserError(
                f"step {module.step}: a loading process has died ({' '.join(str(error).split())}), as where "
                "memory is full; take fewer data.workers, or 0"
            ) from None
        if not isinstance(error, torch.OutOfMemoryError) and not any(how in str(error) for how in _FULL):
            raise
        config = module.recipe.trainer
        ways = [f"trainer.accumulate: {2 * config.accumulate}, the same batch in more parts", "smaller crops"]
        if not config.recompute:
            ways.insert(0, "trainer.recompute: true")
        raise UserError(f"step {module.step}: memory is full; what helps: {'; '.join(ways)}") from None


def _assemble(recipe: Recipe, run: Run, counters: Counters, trainer: Any) -> tuple[TrainingModule, Any]:
    """Return the module and this process's loader, both standing where `counters` says."""
    objective = _build_objective(recipe)
    if objective.own_losses:
        objective.check()  # parameters that a loss makes in its first call are there for the optimiser
    mixture = open_mixture(recipe.data.train, recipe.data.augment, recipe.task, recipe.seed)
    for teacher in objective.teachers.values():
        mixture.suit(teacher.suit)
    student: Any = objective.student
    names = mixture.classes if get_task(recipe.task).ignore else ()  # of tasks that tell classes apart
    if names and getattr(student, "classes", len(names)) == len(names):
        student.class_names = names
    weights = [entry.weight for entry in recipe.data.train]
    config, cuda = recipe.trainer, trainer.strategy.root_device.type == "cuda"
    workers = recipe.data.workers
    loader, sampler = make_loader(
        mixture,
        recipe.data.batch_size,
        recipe.seed,
        shares(weights),
        start_step=counters.step,
        rank=trainer.global_rank,
        world_size=trainer.world_size,
        parts=config.accumulate,
        workers=default_workers(cuda) if workers is None else workers,
        pin_memory=cuda,
    )
    for loss in objective.own_losses.values():
        if getattr(loss, "intervenes", False):
            setattr(loss, "parts", config.accumulate)  # noqa: B010
    course = Course(recipe.schedule, sampler.steps_per_epoch)
    average = WeightAverage(objective.student, config.ema) if config.ema else None
    if trainer.world_size > 1:
        # DistributedDataParallel waits for a gradient of every parameter that asks for one.
        for name in objective.unreachable_parameters():
            objective.student.get_parameter(name).requires_grad_(False)
    _fold(objective)  # after that rehearsal, which is not under autocast
    if config.compile:
        objective.student.compile()
    kind = TrainingModule
    if objective.adversaries:
        kind = AdversarialModule
        trainer.accumulate_grad_batches = 1  # it accumulates itself
    return kind(objective, recipe, course, run, counters, average), loader


def _hand_over(module: TrainingModule, run: Run) -> None:
    """Write `student.safetensors`, which also says that the run is finished."""
    student = module.student
    if module.recipe.trainer.select == "best" and run.best.is_file():
        state = load_checkpoint(run.best)["student"]
    else:
        state = module.average.state if module.average else student.state_dict()
    student.load_state_dict(state)
    counters = module.counters
    save_weights(
        student,
        run.student,
        {"recipe": module.recipe.name, "seed": str(module.recipe.seed), "steps": str(counters.step)},
    )


def _lightning(recipe: Recipe, run: Run, pilot: Pilot) -> Any:
    """Return Lightning's trainer: what steps, on which machines, and nothing of what we do ourselves.

    Raises:
        UserError: this machine has no such accelerator, or not so many of them.
    """
    import lightning as L
    from lightning.pytorch.plugins.environments import SLURMEnvironment
    from lightning.pytorch.utilities.exceptions import MisconfigurationException

    config = recipe.trainer
    accelerator = config.accelerator
    gpu = on_gpu(accelerator)
    if accelerator == "auto":
        accelerator = "gpu" if gpu else "cpu"
    start = launched()
    devices = config.devices or (start.each if start else torch.cuda.device_count() if gpu else 1)
    nodes = config.nodes or (start.machines if start else 1)
    check_launch(nodes, devices)
    several = nodes > 1 or devices > 1
    plugins: list[Any] = [SynchronisedNorms()] if several and gpu and not recipe.student.frozen_bn else []
    try:
        if start and start.by == "srun":  # a run goes on from its own checkpoint, not from Lightning's
            plugins.append(SLURMEnvironment(auto_requeue=False))
        return L.Trainer(
            accelerator=accelerator,
            devices=devices,
            num_nodes=nodes,
            strategy="ddp" if several else "auto",
            precision="bf16-mixed" if _bfloat16(config) else "32-true",
            plugins=plugins,
            accumulate_grad_batches=config.accumulate,
            max_epochs=1,
            callbacks=[pilot],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            default_root_dir=run.path,
        )
    except (ValueError, RuntimeError, MisconfigurationException) as error:  # the second of SLURM's settings
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"trainer: there is no {accelerator} with {devices} devices here: {reason}") from None


def on_gpu(accelerator: str) -> bool:
    """Return whether a recipe's `trainer.accelerator` means CUDA here."""
    return accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()


def _bfloat16(config: Trainer) -> bool:
    if _on_mps(config.accelerator):
        return False
    if config.precision == "auto":
        return fastest_dtype("cuda" if on_gpu(config.accelerator) else "cpu") is torch.bfloat16
    return config.precision == "bf16"


def _on_mps(accelerator: str) -> bool:
    """Return whether `accelerator` means Apple's GPU here."""
    return accelerator == "mps" or (accelerator == "gpu" and torch.backends.mps.is_available())


def rehearse(recipe: Recipe, stage: str = "") -> None:
    """Compare the recipe's student and teachers once, untrained, so that what cannot match is said at once.

    Raises:
        UserError: naming the `stage`, if there is one, and the term; nothing was written.
    """
    try:
        task = get_task(recipe.task)
        get_protocol(recipe.data.protocol, task)
        if recipe.teachers:
            recipe = copy.deepcopy(recipe)
            users: list[Any] = [recipe.student, *recipe.teachers.values()]
            for user in users:
                if stage_of(user):
                    user.weights = None
            _build_objective(recipe).check()
        parse_terms(recipe.objective, task.outputs, list(recipe.teachers))  # those of weight 0, too
    except UserError as error:
        raise UserError(f"stage '{stage}': {error}" if stage else str(error)) from None


def at_random(recipe: Recipe) -> list[str]:
    """Return a warning for each teacher that a term asks, is a network here and was given no weights."""
    return [
        f"teachers.{name}: '{teacher.name}' was given no weights and answers at random"
        for name, teacher in recipe.taught_by.items()
        if teacher.weights is None and ":" not in teacher.name and teacher.name in MODELS
    ]


def in_float32(recipe: Recipe) -> list[str]:
    """Return a warning where bf16 is wanted of Apple's GPU, for which Lightning has no such arithmetic."""
    config = recipe.trainer
    if config.precision != "bf16" or not _on_mps(config.accelerator):
        return []
    return [f"trainer.precision: on {config.accelerator} training is in float32; bf16 is for CPUs and CUDA"]


def make_objective(recipe: Recipe) -> Objective:
    """Return the recipe's objective over its new student and the teachers that its terms name, whose first
    answer settles how they compute: under autocast or not."""
    objective = _build_objective(recipe)
    _fold(objective)
    return objective


def _build_objective(recipe: Recipe) -> Objective:
    seed_all(recipe.seed)
    config = recipe.student
    student = create_model(config.name, weights=config.weights, **config.options)
    if task_of(student).name != recipe.task:
        raise UserError(
            f"task: the recipe is of {recipe.task}, its student '{config.name}' of {task_of(student).name}"
        )
    student.requires_grad_(True)
    freeze(student, config.freeze)
    # A term that is switched off costs nothing, its teacher included.
    terms = {name: term for name, term in recipe.objective.items() if term.get("weight", 1) != 0}
    used = {*recipe.taught_by, *config.borrow.values()}
    teachers = {
        name: create_teacher(teacher.name, weights=teacher.weights, **teacher.options)
        for name, teacher in recipe.teachers.items()
        if name in used
    }
    sees = get_task(recipe.task).inputs
    for name, answering in teachers.items():
        theirs = getattr(answering, "task", None)
        if theirs is not None and not set(theirs.inputs) <= set(sees):
            raise UserError(
                f"teachers.{name}: it is of {theirs.name} and sees {', '.join(theirs.inputs)}; "
                f"the recipe is of {recipe.task}, which has {', '.join(sees)}"
            )
    borrow(student, config.borrow, teachers)
    _lay_out(recipe, student, teachers)
    return Objective(terms, student, teachers)


def _fold(objective: Objective) -> None:
    """Fold its teachers, but where taps are attached."""
    for teacher in objective.teachers.values():
        for module in teacher.modules():
            if isinstance(module, NetworkTeacher):
                module.fold()


def _lay_out(recipe: Recipe, student: Any, teachers: Mapping[str, Any]) -> None:
    config = recipe.trainer
    gpu = on_gpu(config.accelerator)
    dtype = torch.bfloat16 if _bfloat16(config) else torch.float32
    learning = config.channels_last
    if learning is None:
        learning = trains_channels_last(student, dtype, "cuda" if gpu else "cpu")
    if learning:
        channels_last(student)
    if config.channels_last is not False:
        for teacher in teachers.values():
            channels_last(teacher)


def borrow(student: Any, parts: Mapping[str, str], teachers: Mapping[str, Any]) -> None:
    """Copy the weights of the student's submodules `parts` (path to teacher) from these teachers.

    Raises:
        UserError: no such teacher or submodule, or one of another shape.
    """
    for path, name in parts.items():
        if name not in teachers:
            raise UserError(f"student.borrow.{path}: there is no teacher '{name}'{nearest(name, teachers)}")
        network = getattr(teachers[name], "network", None)
        try:
            own, others = student.get_submodule(path), network.get_submodule(path)  # type: ignore[union-attr]
            own.load_state_dict(others.state_dict())
        except (AttributeError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:160]
            raise UserError(
                f"student.borrow.{path}: teacher '{name}' has nothing that fits: {reason}"
            ) from None


@contextlib.contextmanager
def _quiet() -> Any:
    """Keep Lightning's and DDP's advice, which is about what is ours, off the screen."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            # Of a 1x1 convolution such as an adapter: in memory its two layouts are the same.
            warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
            yield
    finally:
        logger.setLevel(level)
