"""Teach a student by its teachers, evaluate both, and write a report.

examples:
  densedistill distill dsnet/sceneflow --twin
  densedistill distill dsnet/sceneflow --data.train.root /data/SceneFlow \\
      --data.validate.root /data/SceneFlow --teachers.teacher.weights acvnet_sceneflow.ckpt
  densedistill distill --resume runs/dsnet-sceneflow

Every field of the recipe is a flag too: --objective.volume.weight 0 --schedule.steps 1000 --seed 2
"""

from __future__ import annotations

import argparse

from ._recipe import add_recipe_arguments, print_run, what_to_train

TAKES_RECIPE_FLAGS = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `distill`."""
    add_recipe_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Distil, and print what was reached and written."""
    wanted = what_to_train(args)
    from ..verbs import distill

    print_run(distill(**wanted), "report.html")
    return 0
