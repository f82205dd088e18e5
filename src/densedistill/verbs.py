"""Verbs that join rooms: `train` trains and evaluates, `distill` reports, too, `label` labels and sums up."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import DataWarning, UserError
from .files import require_writable
from .recipes import Recipe, Stages

if TYPE_CHECKING:
    from .labelling import Labelling, Settings
    from .training import Run
    from .training.final import Final


def train(
    recipe: Recipe | Stages | str | Path | Mapping[str, Any] | None = None,
    run: str | Path | None = None,
    resume: str | Path | None = None,
    twin: bool = False,
    overrides: Mapping[str, Any] | None = None,
) -> Run:
    """Train the student of `recipe` and evaluate it on the validation data: `distill` without the teachers'
    figures and without the report.

    Args:
        recipe: a recipe's name, the path of a YAML file, its fields, or a resolved recipe.
        run: the run's directory; None for `runs/RECIPE`, numbered when taken.
        resume: go on with the run in this directory by its own recipe; figures that it has already stay.
        twin: the recipe at CPU size, on the procedural world.
        overrides: dotted fields to values, also for a resumed run: other devices, a longer schedule, by which
            a finished one goes on, too.

    Returns:
        The run: its `student` is the trained network's file, `metrics` holds the figures, `path` is its
            directory.

    Raises:
        UserError: the recipe, its data or weights have a fault, the loss is no number any more, or another
            training is at work in the directory.
        Interrupted: Ctrl-C, a termination signal or a closed terminal; everything up to then is in the
            checkpoint.
    """
    from . import training
    from .training.launch import is_first_process

    done = training.train(recipe, run, resume, twin, overrides)
    if is_first_process() and not done.metrics:
        from .training.final import finish

        _evaluate(done, finish(done, teachers=False))
    return done


def distill(
    recipe: Recipe | Stages | str | Path | Mapping[str, Any] | None = None,
    twin: bool = False,
    run: str | Path | None = None,
    resume: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    **fields: Any,
) -> Run:
    """Train the student of `recipe`, evaluate it beside its teachers on the validation data, and write the
    report.

    Args:
        recipe: a recipe's name, the path of a YAML file, its fields, or a resolved recipe.
        twin: the recipe at CPU size, on the procedural world.
        run: the run's directory; None for `runs/RECIPE`, numbered when taken.
        resume: go on with the run in this directory; a chain's finished stages are not repeated.
        overrides: dotted fields of the recipe to values, for example `{"objective.volume.weight": 0}`.
        **fields: whole fields to override, for example `seed=2`.

    Returns:
        The run: its `student` is the trained network's file, `evaluation` holds the figures, `path` is its
            directory.

    Raises:
        UserError: the recipe, its data or weights have a fault, or the loss is no number any more.
        Interrupted: Ctrl-C; everything up to then is in the checkpoint.
    """
    from . import training
    from .training.launch import is_first_process

    done = training.train(recipe, run, resume, twin, overrides={**(overrides or {}), **fields})
    if is_first_process():
        from .training.final import finish

        final = finish(done)
        _evaluate(done, final)
        _report(done, final, done.path / "report.html")
    return done


def label(
    settings: Settings | Mapping[str, Any],
    processes: int = 1,
    cluster: str | None = None,
    progress: bool = False,
) -> Labelling:
    """Label frames by a teacher, and write `summary.html` beside the labels.

    Args:
        settings: `densedistill.labelling.Settings`, or a mapping of its fields.
        processes: on this machine, or workers on a cluster.
        cluster: of Ray: `local`, or its address.
        progress: draw a bar on stderr.

    Returns:
        What was found, made and mended; `manifest` has the counts.

    Raises:
        UserError: see `densedistill.labelling.label`.
    """
    from .inference.progress import progress_bar
    from .labelling import Settings, engine
    from .report.labels import write_summary
    from .tasks import get_task

    chosen = settings if isinstance(settings, Settings) else Settings(**settings)
    with progress_bar(progress) as advance:
        done = engine.label(chosen, processes, cluster, lambda now, total: advance("shards", str(now), total))
    frames = engine.open_frames(chosen.frames, get_task(done.manifest["task"]), done.out)
    write_summary(done.out, done.manifest, frames)
    return done


def report(runs: Sequence[str | Path], out: str | Path | None = None, title: str | None = None) -> Path:
    """Write one page about `runs` and return its path; of a single run that has final figures the page
    that `distill` writes, pictures included. Where their data or weights are gone, a `DataWarning` stands for
    them.

    Args:
        runs: directories.
        out: the page; None for `report.html`, in the run where there is but one.
        title: its heading; None for one made from the names.

    Raises:
        UserError: a directory is no run.
    """
    from .report import write_report

    single = Path(runs[0]) if len(runs) == 1 else None
    target = Path(out or (single / "report.html" if single else "report.html"))
    if single is None or not all((single / file).is_file() for file in ("recipe.yaml", "metrics.json")):
        return write_report(runs, target, title=title)
    from .training.final import finish
    from .training.run import Run

    run = Run(single)
    try:
        final = finish(run)
    except UserError as error:
        warnings.warn(f"the report has no pictures: {error}", DataWarning, stacklevel=2)
        final = None
    return _report(run, final, target, title)


def _evaluate(run: Run, final: Final | None) -> None:
    """Evaluate a finished run and write its `metrics.json`, where there is validation data."""
    if final:
        require_writable(run.path / "metrics.json")
        run.evaluation = final.evaluate()
        run.evaluation.write_json(run.path / "metrics.json")


def _report(run: Run, final: Final | None, target: Path, title: str | None = None) -> Path:
    """Write the report; of several trainings one table, and the curves of each."""
    from .report import write_report
    from .report.scenes import scenes_of
    from .training.stages import stage_of, stage_runs

    recipe, found = run.recipe, run.metrics
    pictures = scenes_of(final.predictors, final.datasets, found["samples"]) if final else []
    if isinstance(recipe, Recipe):
        return write_report([run], target, pictures=pictures, title=title)
    stages = stage_runs(recipe, run)
    notes = []
    for name, stage in recipe.recipes.items():
        last = stages[name].history[-1]
        taught = ", ".join(stage_of(teacher) or teacher.name for teacher in stage.taught_by.values())
        notes.append(
            f"{name}: {stage.student.name}{f' taught by {taught}' if taught else ''}, "
            f"{last['step']} steps in {last['time'] / 60:.1f} minutes"
        )
    return write_report(
        [run, *stages.values()],
        target,
        rows=found.get("rows"),
        pictures=pictures,
        title=title or recipe.name,
        notes=notes,
    )
