"""List the networks, with parameters, multiply-accumulates (MACs) and the weights that ship.

examples:
  densedistill models
  densedistill models "dsnet*" --size 512x960
  densedistill models --task stereo --json
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from ..errors import UserError, nearest
from ._arguments import parse_size


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `models`."""
    parser.add_argument("pattern", metavar="PATTERN", nargs="?", default="*", help='shell-style, as "dsnet*"')
    parser.add_argument("--task", help="networks of this task only")
    parser.add_argument(
        "--size", default="256x512", metavar="HxW", help="image at which MACs are counted (default 256x512)"
    )
    parser.add_argument(
        "--json", action="store_true", help="print JSON, with MACs by the DSNet paper's rule, too"
    )


def run(args: argparse.Namespace) -> int:
    """Print the table, or JSON."""
    import json

    from ..inference.progress import progress_bar
    from ..networks import list_models

    size = parse_size(args.size)
    names = list_models(args.pattern, task=args.task)
    if not names:
        raise UserError(
            f"no network matches '{args.pattern}'{nearest(args.pattern, list_models(task=args.task))}"
        )
    rows = []
    with progress_bar(sys.stderr.isatty()) as advance:
        for name in names:
            advance("counting", name, len(names))
            rows.append(_row(name, size))
    if args.json:
        print(json.dumps(rows, indent=1))
    else:
        _print_table(rows, args.size)
    return 0


def _row(name: str, size: tuple[int, int]) -> dict[str, Any]:
    from ..networks.counting import count_model
    from ..networks.published import shipped_weights
    from ..networks.registry import task_of

    row = {"name": name, "task": task_of(name), "size": list(size), "weights": list(shipped_weights(name))}
    try:
        counts = count_model(name, size)
    except UserError as error:  # it is made by a package that is not installed
        return {**row, "needs": str(error)}
    return {
        **row,
        "params": counts.parameters,
        "params_paper": counts.parameters_paper,
        "macs_true": counts.macs,
        "macs_paper": counts.macs_paper,
    }


def _print_table(rows: list[dict[str, Any]], size: str) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from ._console import table_console

    stereo = any(row["task"] == "stereo" for row in rows)
    caption = "stereo: GMACs with the default search range, most often 192 px" if stereo else None
    table = Table(box=SIMPLE_HEAD, pad_edge=False, caption=caption, caption_justify="left")
    table.add_column("network", no_wrap=True)
    table.add_column("task", no_wrap=True)
    for heading in ("params M", f"GMACs at {size}"):
        table.add_column(heading, justify="right")
    table.add_column("weights")
    for row in rows:
        table.add_row(
            str(row["name"]),
            str(row["task"]),
            f"{row['params'] / 1e6:.2f}" if "params" in row else "",
            f"{row['macs_true'] / 1e9:.2f}" if "macs_true" in row else "",
            row.get("needs") or ", ".join(row["weights"]),
        )
    table_console().print(table)
