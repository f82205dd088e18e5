"""Write one HTML page about one run, or about several side by side; it needs no other file.

examples:
  densedistill report runs/dsnet-sceneflow-twin
  densedistill report runs/dsnet-sceneflow-twin runs/acvnet-sceneflow-twin --out comparison.html
"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `report`."""
    parser.add_argument("runs", metavar="RUN", nargs="+", help="directory of a run")
    parser.add_argument(
        "--out", metavar="FILE", help="the page (default: report.html in the run; for several runs, here)"
    )
    parser.add_argument("--title", metavar="TEXT", help="its heading")


def run(args: argparse.Namespace) -> int:
    """Write the page and print where it is."""
    from ..verbs import report

    print(f"wrote {report(args.runs, args.out, args.title)}")
    return 0
