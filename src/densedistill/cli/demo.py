"""Distil a small stereo network from the teacher that ships, and see what came of it; minutes, no download.

Of 384 procedural scenes 16 have ground truth. The same student is trained twice, by the same steps: with its
teacher, which answers for the others, and without, on the 16 alone. Both are then compared with the teacher,
the student that ships and OpenCV's SGBM, on held-out scenes and on two photographed pairs. Stopped with
Ctrl-C, the same command goes on where it was.

examples:
  densedistill demo
  densedistill demo --minutes 20 --out long-demo
  densedistill demo --steps 300 --seed 2 --out second
"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `demo`."""
    parser.add_argument(
        "--out", metavar="DIR", default="demo", help="folder of runs and report (default: demo)"
    )
    length = parser.add_mutually_exclusive_group()
    length.add_argument(
        "--minutes",
        type=float,
        metavar="M",
        help="about how long it takes; a short trial finds the steps (default: 8)",
    )
    length.add_argument(
        "--steps", type=int, metavar="N", help="steps of both trainings, for the same on any machine"
    )
    parser.add_argument(
        "--seed", type=int, metavar="N", help="of first weights and order of pairs (default: 1)"
    )


def run(args: argparse.Namespace) -> int:
    """Run the demo; it prints tables and where the report is."""
    from ..report.demo import run_demo

    run_demo(args.out, minutes=args.minutes, steps=args.steps, seed=args.seed)
    return 0
