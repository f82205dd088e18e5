"""Check a data set on disk, or make procedural data.

examples:
  densedistill data check kitti2015 /data/KITTI2015
  densedistill data check sceneflow /data/SceneFlow --fast
  densedistill data check middleburyeval3 /data/MiddEval3 --option resolution=Q
  densedistill data list kitti2015 /data/KITTI2015 --split published-train --out lists/kitti15_train.txt
  densedistill data make /data/world --length 1000 --size 256 512
  densedistill data make nyu-official /data/NYU --source nyu_depth_v2_labeled.mat
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError, counted
from ._arguments import data_options

if TYPE_CHECKING:
    from ..data.check import Survey

_SHOWN = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `data check` and `data make`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="{check,list,make}")
    check = actions.add_parser("check", help="say what is there, what is missing and what is broken")
    check.add_argument(
        "name", metavar="NAME", help="the data set: sceneflow, kitti2012, kitti2015, eth3d, folder, …"
    )
    check.add_argument("root", metavar="ROOT", nargs="?", help="its folder; none for the pairs that ship")
    check.add_argument("--split", help="only this split")
    check.add_argument("--fast", action="store_true", help="list the files without opening them")
    check.add_argument(
        "--option", action="append", default=[], metavar="KEY=VALUE", help="an option of the data set"
    )
    split = actions.add_parser(
        "list", help="write a split as a list file: left, right and disparity on a line"
    )
    split.add_argument("name", metavar="NAME", help="the data set")
    split.add_argument("root", metavar="ROOT", help="its folder, which the paths are relative to")
    split.add_argument("--split", help="which part (default: the data set's first)")
    split.add_argument("--out", metavar="FILE", help="the list file (default: the screen)")
    split.add_argument(
        "--option", action="append", default=[], metavar="KEY=VALUE", help="an option of the data set"
    )
    make = actions.add_parser("make", help="write procedural scenes in SceneFlow's layout, or NYU's split")
    make.add_argument(
        "out", nargs="+", metavar="OUT", help="the folder to write; before it, nyu-official for NYU's split"
    )
    make.add_argument("--source", metavar="FILE", help="NYU's labelled file, splits.mat beside it")
    make.add_argument("--length", type=int, default=200, metavar="N", help="number of pairs (default 200)")
    make.add_argument("--seed", type=int, default=0, help="number of the first scene (default 0)")
    make.add_argument(
        "--size",
        type=int,
        nargs=2,
        default=(256, 512),
        metavar=("HEIGHT", "WIDTH"),
        help="px (default 256 512)",
    )
    make.add_argument("--max-disparity", type=float, default=96, metavar="PX", help="at most (default 96)")
    make.add_argument("--split", default="train", help="train (default) or test")
    make.add_argument("--workers", type=int, default=0, metavar="N", help="processes; 0: this one (default)")


def run(args: argparse.Namespace) -> int:
    """Do it; 2 when the data set cannot be used as it is."""
    return {"check": _check, "list": _list, "make": _make}[args.action](args)


def _list(args: argparse.Namespace) -> int:
    import sys

    from ..data.lists import list_lines, overlap
    from ..files import write_text

    options = data_options(args.option, "--option")
    lines = list_lines(args.name, args.root, args.split, **options)
    warning = overlap(args.name, args.root, args.split or "", **options)
    if warning:
        print(f"warning: {warning}", file=sys.stderr)
    text = "".join(f"{line}\n" for line in lines)
    if args.out is None:
        print(text, end="")
    else:
        write_text(args.out, text)
        print(f"wrote {counted(len(lines), 'sample')} to {args.out}")
    return 0


def _check(args: argparse.Namespace) -> int:
    from ..data.check import check_dataset
    from ._console import progress_display, table_console

    console = table_console()
    options = data_options(args.option, "--option")
    if args.split:
        options["split"] = args.split
    with progress_display() as bar:
        task = bar.add_task("reading", start=False, visible=not args.fast)

        def progress(split: str, done: int, total: int) -> None:
            bar.start_task(task)
            bar.update(task, description=f"reading {split}", completed=done, total=total)

        surveys = check_dataset(args.name, args.root, fast=args.fast, progress=progress, **options)
    if all(survey.absent or survey.fault for survey in surveys):
        raise UserError(next((survey.fault for survey in surveys if survey.fault), surveys[0].absent))
    where = args.root or "the pairs that ship"
    table = _table(surveys, f"{args.name} in {where}", Path(args.root or ".").expanduser())
    console.print(table, markup=False)  # paths may have brackets in them
    for survey in surveys:
        lines = [(f"broken: {survey.split} {name}: {reason}", "red") for name, reason in survey.broken or []]
        if survey.doubt:
            lines.append((f"doubtful: {survey.split}: {survey.doubt}", "yellow"))
        for line, style in lines:
            console.print(line, style=style, markup=False, soft_wrap=True)
    return _verdict(surveys, args)


def _table(surveys: list[Survey], title: str, root: Path) -> Any:
    from rich.markup import escape
    from rich.table import Table

    from ..data.datasets._base import ROLES

    table = Table(title=escape(title), title_justify="left")
    for heading in ("split", "what", "found", "missing", "where the first of them should be"):
        table.add_column(
            heading, justify="right" if heading in ("found", "missing") else "left", overflow="fold"
        )
    absent: dict[str, list[str]] = {}
    for survey in surveys:
        if survey.absent or survey.fault:
            reason = (survey.absent or survey.fault).replace(f" of split '{survey.split}'", "")
            absent.setdefault(reason, []).append(survey.split)
            continue
        of_all = f" of {survey.expected}" if survey.expected else ""
        table.add_row(survey.split, "samples", f"{survey.samples}{of_all}", "", "", style="bold")
        for name, role in survey.roles.items():
            first = [_below(path, root) for path in role.missing[:_SHOWN]] + ["…"] * (
                len(role.missing) > _SHOWN
            )
            missing = str(len(role.missing)) if role.missing else ""
            style = "red" if role.required and role.missing else "yellow" if role.missing else ""
            table.add_row("", ROLES[name], str(role.found), missing, "\n".join(first), style=style)
        if survey.broken is not None:
            table.add_row(
                "", "broken samples", str(len(survey.broken)), "", "", style="red" * bool(survey.broken)
            )
        table.add_section()
    for reason, splits in absent.items():
        table.add_row(", ".join(splits), "nothing", "0", "", reason)
    return table


def _below(path: Path, root: Path) -> str:
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


def _verdict(surveys: list[Survey], args: argparse.Namespace) -> int:
    there = [survey for survey in surveys if not survey.absent]
    bad = [survey.split for survey in there if not survey.usable]
    if bad:
        raise UserError(
            f"data set '{args.name}' is not usable as it is ({', '.join(bad)}); mend what is named above"
        )
    opened = "listed, not opened" if args.fast else "read"
    print(f"{args.name} is usable: {counted(sum(survey.samples for survey in there), 'sample')} {opened}")
    return 0


def _make(args: argparse.Namespace) -> int:
    if args.out[0] == "nyu-official":
        return _make_nyu(args)
    if len(args.out) > 1:
        raise UserError(f"data make writes one folder, got {', '.join(args.out)}")
    return _make_world(args)


def _make_nyu(args: argparse.Namespace) -> int:
    from ..data.nyu_labelled import LabelledFile, write_official
    from ._console import progress_display

    if len(args.out) != 2 or not args.source:
        raise UserError("data make nyu-official takes OUT and --source nyu_depth_v2_labeled.mat")
    with progress_display() as bar:
        task = bar.add_task("writing")
        counts = write_official(
            LabelledFile(args.source),
            args.out[1],
            lambda done, total: bar.update(task, completed=done, total=total),
        )
    written = ", ".join(f"{counted(count, 'image')} of split {split}" for split, count in counts.items())
    print(f"wrote {written} to {args.out[1]}; read them as data set nyu")
    return 0


def _make_world(args: argparse.Namespace) -> int:
    from ..data.world.write import write_dataset
    from ._console import progress_display

    with progress_display() as bar:
        task = bar.add_task("writing", total=args.length)
        out = write_dataset(
            args.out[0],
            length=args.length,
            seed=args.seed,
            size=args.size,
            split=args.split,
            workers=args.workers,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
            max_disparity=args.max_disparity,
        )
    pairs = counted(args.length, "pair")
    print(f"wrote {pairs} to {out}; read them as data set sceneflow, split {args.split}")
    return 0
