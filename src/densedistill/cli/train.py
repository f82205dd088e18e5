"""Train a network and evaluate it: a teacher, a baseline, anything a recipe says.

examples:
  densedistill train gwcnet/sceneflow --data.train.root /data/SceneFlow --data.validate.root /data/SceneFlow
  densedistill train acvnet/sceneflow --twin
  densedistill train --resume runs/gwcnet-sceneflow

Every field of the recipe is a flag too: --optimizer.lr 1e-4 --schedule.epochs 16 --trainer.precision bf16
"""

from __future__ import annotations

import argparse

from ._recipe import add_recipe_arguments, print_run, what_to_train

TAKES_RECIPE_FLAGS = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `train`."""
    add_recipe_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Train, and print what was reached and written."""
    wanted = what_to_train(args)
    from ..verbs import train

    print_run(train(**wanted))
    return 0
