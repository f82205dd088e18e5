"""Verbs that join rooms: `distill` trains, evaluates and reports, `label` labels and sums up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .recipes import Recipe, Stages, Teacher

if TYPE_CHECKING:
    from .labelling import Labelling, Settings
    from .report.pictures import Scene
    from .training import Run


def distill(
    recipe: Recipe | Stages | str | Path | Mapping[str, Any] | None = None,
    twin: bool = False,
    run_dir: str | Path | None = None,
    resume: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    **fields: Any,
) -> Run:
    """Train the student of `recipe`, evaluate it beside its teachers on the validation data, and write the
    report.

    Args:
        recipe: a recipe's name, the path of a YAML file, its fields, or a resolved recipe.
        twin: the recipe at CPU size, on the procedural world.
        run_dir: the run's directory; None for `runs/RECIPE`, numbered when taken.
        resume: go on with the run in this directory; a chain's finished stages are not repeated.
        overrides: dotted fields of the recipe to values, for example `{"objective.volume.weight": 0}`.
        **fields: whole fields to override, for example `seed=2`.

    Returns:
        The run: `run.student` is the trained network's file, `run.evaluation` holds the figures, `run.path`
            is its
        directory.

    Raises:
        UserError: the recipe, its data or weights have a fault, or the loss is no number any more.
        Interrupted: Ctrl-C; everything up to then is in the checkpoint.
    """
    from .training import train
    from .training.run import is_first_process

    run = train(recipe, run=run_dir, resume=resume, twin=twin, overrides={**(overrides or {}), **fields})
    if is_first_process():
        from .report.scenes import scenes_of
        from .training.final import finish

        pictures = []
        if final := finish(run):
            run.evaluation = final.evaluate()
            run.evaluation.write_json(run.path / "metrics.json")
            pictures = scenes_of(final.predictors, final.datasets, run.evaluation.samples)
        _report(run, pictures)
    return run


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
    frames = engine.open_frames(chosen.frames, get_task(done.manifest["task"]))
    write_summary(done.out, done.manifest, frames)
    return done


def _report(run: Run, pictures: Sequence[Scene]) -> None:
    """Write the report; of several trainings one table, and the curves of each."""
    from .report import write_report
    from .training.stages import stage_runs

    recipe, target = run.recipe, run.path / "report.html"
    if isinstance(recipe, Recipe):
        write_report([run], target, pictures=pictures)
        return
    stages = stage_runs(recipe, run)
    notes = []
    for name, stage in recipe.recipes.items():
        last = stages[name].history[-1]
        taught = ", ".join(_teacher(teacher) for teacher in stage.teachers.values())
        notes.append(
            f"{name}: {stage.student.name}{f' taught by {taught}' if taught else ''}, "
            f"{last['step']} steps in {last['time'] / 60:.1f} minutes"
        )
    rows = run.evaluation.rows if run.evaluation is not None else None
    write_report(
        [run, *stages.values()], target, rows=rows, pictures=pictures, title=recipe.name, notes=notes
    )


def _teacher(teacher: Teacher) -> str:
    source = (teacher.weights or "").removeprefix("stage:")
    return source if source != teacher.weights else teacher.name
