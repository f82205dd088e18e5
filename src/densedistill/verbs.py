"""Verbs that join rooms: `distill` trains, evaluates and reports, `label` labels and sums up."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .recipes import Recipe, Stages
from .training import Run, train
from .training.run import is_first_process

if TYPE_CHECKING:
    from .labelling import Labelling, Settings


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
    run = train(recipe, run=run_dir, resume=resume, twin=twin, overrides={**(overrides or {}), **fields})
    if is_first_process():
        from .report import write_report
        from .training.final import evaluate_run

        run.evaluation = evaluate_run(run)
        if run.evaluation is not None:
            run.evaluation.write_json(run.path / "metrics.json")
        write_report([run], run.path / "report.html")
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
