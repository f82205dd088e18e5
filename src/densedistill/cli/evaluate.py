"""Measure networks on a data set by a benchmark's protocol.

examples:
  densedistill evaluate dsnet_slim dsnet_slim@1.5 sgbm --data samples
  densedistill evaluate acvnet=acvnet.ckpt --data kitti2015 --root data/KITTI2015 --protocol kitti2015
  densedistill evaluate --run runs/mine sgbm --data sceneflow --root data/SceneFlow --json out.json
  densedistill evaluate acvnet=acvnet.ckpt --protocol generalisation --root kitti2015=/d/k15 --root eth3d=/d/e
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ._arguments import add_data_arguments, add_running_arguments, data_options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments to `parser`."""
    parser.add_argument(
        "networks",
        nargs="*",
        metavar="NETWORK[@SCALE][=WEIGHTS]",
        help="a network with its shipped weights or those of a file, or a run, which sees images SCALE times "
        "as large; an exported file; 'sgbm' is OpenCV's",
    )
    parser.add_argument(
        "--run",
        dest="runs",
        action="append",
        default=[],
        metavar="DIR",
        help="a run, as among the networks; may be repeated",
    )
    parser.add_argument(
        "--data",
        action="append",
        metavar="NAME",
        help="a data set, or 'samples' for the pairs that ship; may be repeated",
    )
    parser.add_argument(
        "--root",
        action="append",
        default=[],
        metavar="[NAME=]DIR",
        help="where the data lies; may be repeated",
    )
    add_data_arguments(parser)
    parser.add_argument(
        "--protocol", metavar="NAME", help="what is measured and how it is averaged (default: plain)"
    )
    parser.add_argument(
        "--metrics", metavar="A,B", help="in place of the protocol's, for example epe,d1,bad1.5"
    )
    parser.add_argument(
        "--max-disparity",
        type=float,
        metavar="PX",
        help="do not count ground truth at or beyond it; networks and runs search that far",
    )
    average = parser.add_mutually_exclusive_group()
    average.add_argument(
        "--per-image", dest="per_image", action="store_true", default=None, help="average over images"
    )
    average.add_argument(
        "--pooled", dest="per_image", action="store_false", help="average over all pixels of the set"
    )
    add_running_arguments(parser)
    parser.add_argument(
        "--limit", type=int, metavar="N", help="only N samples of each data set, spread evenly"
    )
    parser.add_argument("--json", metavar="FILE", help="write every figure, also of each sample")


def run(args: argparse.Namespace) -> int:
    """Evaluate, print the table, write the JSON."""
    from rich.console import Console

    from ..errors import UserError
    from ..files import require_writable
    from ..inference.evaluate import evaluate
    from ..networks.device import find_device
    from ._console import say, table_console

    networks = [*args.networks, *map(Path, args.runs)]
    if not networks:
        raise UserError("name at least one network, for example: densedistill evaluate sgbm --data samples")
    require_writable(args.json)
    result = evaluate(
        networks,
        args.data,
        args.protocol,
        root=_roots(args.root),
        split=args.split,
        options=data_options(args.data_option),
        max_disparity=args.max_disparity,
        metrics=args.metrics.split(",") if args.metrics else None,
        per_image=args.per_image,
        device=find_device(args.device),
        precision=args.precision,
        runtime=args.runtime,
        limit=args.limit,
        progress=sys.stderr.isatty(),
    )
    Console(width=result.width(table_console().width)).print(result)
    if args.json:
        say(f"wrote {result.write_json(args.json)}")
    return 0


def _roots(given: list[str]) -> str | dict[str, str] | None:
    """Return one directory, or a mapping from data set to directory."""
    from ..errors import UserError

    plain = [root for root in given if "=" not in root or Path(root).is_dir()]
    named = dict(root.split("=", 1) for root in given if root not in plain)
    if len(plain) > 1 or (plain and named):
        raise UserError(
            "several roots need the name of their data set: --root kitti2015=DIR --root eth3d=DIR"
        )
    return named or (plain[0] if plain else None)
