"""Store a teacher's answers for frames without ground truth, filtered; resumable.

examples:
  densedistill label gwcnet_slim --frames data/pairs --out labels --filter left_right
  densedistill label sgbm --frames data/pairs --out labels --write files --teacher-option max_disparity=128
  densedistill label parts --teacher-option stereo=sgbm flow=dis --data kitti2015_multiview \\
      --root data/KITTI2015 --out labels --filter left_right forward_backward texture:threshold=1
  densedistill label teachers.yaml --frames pairs.txt --out labels --filter agreement:over=upside_down+0.75
  densedistill label gwcnet_g=teacher.ckpt --data sceneflow --root data/SceneFlow --out labels --taps volume
  densedistill label gwcnet_slim --frames data/pairs --out labels --dry-run --total 1000000 --workers 64
filters: left_right, forward_backward, agreement, photometric, texture, range, confidence
Killed and started again with the same arguments it goes on; a `store` teacher reads what it writes.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ._arguments import data_options, only_with


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments to `parser`."""
    parser.add_argument(
        "teacher",
        metavar="TEACHER[=WEIGHTS]",
        help="a network, a run, an exported file, sgbm, dis, raft, parts, store; or a YAML file with a "
        "teacher's fields",
    )
    parser.add_argument(
        "--teacher-option", nargs="+", default=[], metavar="KEY=VALUE", help="of the teacher, as in a recipe"
    )
    parser.add_argument("--task", help="what is labelled (default: what the teacher predicts)")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--frames", metavar="PATH", help="a folder, a list file, a video, or a store with images"
    )
    source.add_argument("--data", metavar="NAME", help="a data set, with --root")
    parser.add_argument("--root", metavar="DIR", help="folder of the data set")
    parser.add_argument("--split", help="of the data set")
    parser.add_argument("--option", nargs="+", default=[], metavar="KEY=VALUE", help="of the data set")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the labels")
    parser.add_argument(
        "--filter", nargs="+", default=[], metavar="NAME[:KEY=VALUE,…]", help="where answers are believed"
    )
    parser.add_argument(
        "--write",
        choices=("shards", "files"),
        default="shards",
        help="shards (default), or the benchmarks' own files",
    )
    parser.add_argument("--shard-size", type=int, default=32, metavar="N", help="frames a shard (default 32)")
    parser.add_argument("--mirrored", action="store_true", help="store answers to mirrored frames, too")
    parser.add_argument("--taps", nargs="+", default=[], metavar="TAP", help="of the teacher, to be stored")
    parser.add_argument("--images", action="store_true", help="store the frames themselves, too")
    parser.add_argument(
        "--workers", type=int, default=1, metavar="N", help="processes, or workers of a cluster"
    )
    parser.add_argument("--cluster", metavar="ADDRESS", help="of Ray ('local' starts one here)")
    parser.add_argument("--device", help="cpu, cuda, … (default: an accelerator if there is one)")
    parser.add_argument(
        "--dry-run", action="store_true", help="measure a few frames and estimate time and bytes"
    )
    parser.add_argument(
        "--total", type=int, metavar="N", help="frames of the estimate (default: those there are)"
    )


def run(args: argparse.Namespace) -> int:
    """Label, and say what was written and kept."""
    from ..errors import UserError, counted
    from ..labelling.engine import Settings
    from ..labelling.filters import parse_filter
    from ..networks.device import find_device
    from ._console import say

    for flag, count in (("--workers", args.workers), ("--total", args.total)):
        if count is not None and count < 1:
            raise UserError(f"{flag}: must be at least 1, not {count}")
    only_with(args.data, "--data", args, "root", "split", "option")
    only_with(args.dry_run, "--dry-run", args, "total")
    frames: dict[str, Any] = {"frames": args.frames} if args.frames else {"data": args.data}
    if args.data:
        given = {"root": args.root, "split": args.split, **data_options(args.option, "--option")}
        frames |= {key: value for key, value in given.items() if value is not None}
    settings = Settings(
        teacher=_teacher(args.teacher, data_options(args.teacher_option, "--teacher-option")),
        frames=frames,
        out=args.out,
        task=args.task,
        filters=[parse_filter(text) for text in args.filter],
        write=args.write,
        shard_size=args.shard_size,
        mirrored=args.mirrored,
        taps=args.taps,
        images=args.images,
        device=str(find_device(args.device)),
    )
    if args.dry_run:
        from ..labelling.estimate import estimate

        say(estimate(settings, args.total, args.workers))
        return 0
    from ..verbs import label

    done = label(settings, processes=args.workers, cluster=args.cluster, progress=True)
    mended = f", {done.mended} of them in place of damaged ones" if done.mended else ""
    shards = counted(done.found, "shard")
    say(f"{counted(done.frames, 'frame')}: {shards} there before, {done.made} made{mended}")
    for key, counts in done.manifest["counts"]["outputs"].items():
        shares = [
            f"{name} {counts['filters'][name] / max(counts['pixels'], 1):.1%}" for name in counts["filters"]
        ]
        alone = f" ({', '.join(shares)} alone)" if shares else ""
        say(f"{key}: {counts['kept'] / max(counts['pixels'], 1):.1%} of pixels kept{alone}")
    for path in (done.out / "manifest.json", done.out / "summary.html"):
        say(f"wrote {path}")
    return 0


def _teacher(text: str, options: dict[str, Any]) -> dict[str, Any]:
    from ..errors import UserError
    from ..recipes.load import read_yaml

    if text.endswith((".yaml", ".yml")):
        fields = read_yaml(Path(text))
        if not isinstance(fields, dict) or "name" not in fields:
            raise UserError(f"{text} describes no teacher: it needs a field 'name'")
        return {**fields, **options}
    from ..networks.published import shipped_weights
    from ..networks.registry import MODELS
    from ..runtimes import is_exported

    name, _, weights = (text, "", "") if is_exported(text) else text.partition("=")
    if not weights and "weights" not in options and ":" not in name and name in MODELS:
        if "shipped" not in shipped_weights(name):
            raise UserError(f"no weights ship for network '{name}', so name a file: {name}=FILE")
        weights = "shipped"
    return {"name": name, **({"weights": weights} if weights else {}), **options}
