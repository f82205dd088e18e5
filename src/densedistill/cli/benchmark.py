"""Measure latency, memory and cost of networks, in torch and other runtimes, side by side.

examples:
  densedistill benchmark dsnet_slim gwcnet_slim --size 256x512
  densedistill benchmark dsnet_slim --runtime torch,onnxruntime,openvino --data samples --html speed.html
  densedistill benchmark student.onnx student-int8.xml --size 384x1248 --json speed.json
"""

from __future__ import annotations

import argparse

from ._arguments import add_data_arguments, data_options, only_with, parse_size


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `benchmark`."""
    parser.add_argument(
        "networks",
        nargs="+",
        metavar="NETWORK",
        help="a network (random weights where none ship), NETWORK=WEIGHTS or a run, each with @SCALE behind "
        "its name to see images that much larger; an exported file; sgbm",
    )
    parser.add_argument("--size", default="384x1248", metavar="HxW", help="of the images (default 384x1248)")
    parser.add_argument("--batch", type=int, default=1, metavar="N", help="samples a call (default 1)")
    parser.add_argument(
        "--runtime",
        metavar="A,B",
        help="torch, onnxruntime, openvino, tensorrt: each network in each, a file in those that read it "
        "(default: torch, or a file's own)",
    )
    parser.add_argument(
        "--precision", default="float32", metavar="A,B", help="float32 (default), bfloat16, auto"
    )
    parser.add_argument(
        "--max-disparity",
        type=int,
        metavar="PX",
        help="how far the networks search; an exported file searches as far as it was exported for",
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1, … (default: an accelerator if there is one)")
    parser.add_argument("--threads", type=int, metavar="N", help="on the CPU (default: as torch chooses)")
    parser.add_argument("--rounds", type=int, default=30, metavar="N", help="timed calls (default 30)")
    parser.add_argument(
        "--seconds", type=float, default=120, metavar="S", help="begin no round after these (default 120)"
    )
    parser.add_argument("--no-memory", action="store_true", help="do not measure peak memory")
    parser.add_argument("--data", metavar="NAME", help="labelled data for accuracy, or 'samples'")
    parser.add_argument("--root", metavar="DIR", help="where that data lies")
    add_data_arguments(parser)
    parser.add_argument("--limit", type=int, metavar="N", help="only N samples of the data")
    parser.add_argument("--json", metavar="FILE", help="write every figure")
    parser.add_argument("--html", metavar="FILE", help="write a page: table, accuracy against latency")


def run(args: argparse.Namespace) -> int:
    """Measure, print the table, write what was asked for."""
    import torch

    from ..deployment.benchmark import benchmark
    from ..errors import as_count
    from ..files import require_writable
    from ..networks.device import find_device
    from ._console import say, table_console

    only_with(args.data, "--data", args, "root", "split", "data_option", "limit")
    if args.threads is not None:
        torch.set_num_threads(as_count("--threads", args.threads))
    require_writable(args.json, args.html)
    result = benchmark(
        args.networks,
        size=parse_size(args.size),
        batch=args.batch,
        runtimes=args.runtime.split(",") if args.runtime else (),
        precisions=args.precision.split(","),
        max_disparity=args.max_disparity,
        device=find_device(args.device),
        rounds=args.rounds,
        seconds=args.seconds,
        memory=not args.no_memory,
        data=args.data,
        root=args.root,
        split=args.split,
        options=data_options(args.data_option),
        limit=args.limit,
        on_progress=lambda stage: say(stage, stderr=True),
    )
    table_console().print(result, markup=False)  # names may have brackets in them
    if args.json:
        say(f"wrote {result.write_json(args.json)}")
    if args.html:
        from ..report.speed import write_speed

        say(f"wrote {write_speed(result, args.html)}")
    return 0
