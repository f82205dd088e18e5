"""What `train` and `distill` share: a recipe, a directory, recipe fields as flags, and what they print."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..recipes import load_recipe, parse_value

if TYPE_CHECKING:
    from ..training import Run


def add_recipe_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of a verb that trains."""
    parser.add_argument(
        "recipe", metavar="RECIPE", nargs="?", help="a name (see densedistill recipes) or a YAML file"
    )
    parser.add_argument("--twin", action="store_true", help="the same at CPU size, on the procedural world")
    parser.add_argument(
        "--run", metavar="DIR", help="directory of the run (default: runs/RECIPE, numbered when taken)"
    )
    parser.add_argument("--resume", metavar="RUN", help="go on with a run that was stopped")
    parser.add_argument(
        "--devices", type=int, metavar="N", help="processes on this machine (recipe: trainer.devices)"
    )
    parser.add_argument(
        "--nodes", type=int, metavar="N", help="machines, started by torchrun (recipe: trainer.nodes)"
    )


def what_to_train(args: argparse.Namespace) -> dict[str, Any]:
    """Return `recipe` and `run` of what is begun, or `resume` and `overrides` of what is gone on with.

    A recipe is read before torch is imported, so that a misspelt field is told at once.

    Raises:
        UserError: the arguments contradict each other, or the recipe has a fault.
    """
    overrides = read_flags(args.recipe_flags)
    for name in ("devices", "nodes"):
        if getattr(args, name) is not None:
            overrides[f"trainer.{name}"] = getattr(args, name)
    if args.resume and args.recipe:
        raise UserError(f"--resume goes on with the run's own recipe; leave out '{args.recipe}'")
    if args.resume and (args.run or args.twin):
        raise UserError("--resume goes on with a run as it was begun; leave out --run and --twin")
    if not (args.resume or args.recipe):
        raise UserError("which recipe? Name one (densedistill recipes lists them), or --resume RUN")
    if args.resume:
        return {"resume": args.resume, "overrides": overrides}
    recipe = load_recipe(args.recipe, twin=args.twin, overrides=overrides)
    from ..training.run import choose_directory

    return {"recipe": recipe, "run": args.run or choose_directory(recipe, args.twin)}


def print_run(run: Run, *more: str) -> None:
    """Print what was reached and written, `more` files of the run included, once for all processes."""
    from ..training.launch import is_first_process

    if is_first_process():
        if run.evaluation is not None:
            print(run.evaluation)
        paths = [run.student, *(run.path / file for file in ("metrics.json", *more))]
        for path in [path for path in paths if path.is_file()] or [run.path]:
            print(f"wrote {path}")


def read_flags(rest: list[str]) -> dict[str, Any]:
    """Return `{"data.train.root": …}` from what is left of the command line: `--field value` or
    `--field=value`."""
    overrides: dict[str, Any] = {}
    position = 0
    while position < len(rest):
        flag, joined, text = rest[position].partition("=")
        position += 1
        if not flag.startswith("--"):
            raise UserError(f"what is '{flag}'? A recipe's field is set with --field value")
        if not joined:
            if position == len(rest):
                raise UserError(f"{flag} lacks a value")
            text = rest[position]
            position += 1
        overrides[flag[2:]] = parse_value(text)
    return overrides
