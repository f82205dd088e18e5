"""Write a network for another runtime, and check that it answers as in torch.

examples:
  densedistill export dsnet_slim --out student.onnx
  densedistill export runs/mine --out student.xml --size 384x1248 --weights float16
  densedistill export dsnet_bb21_ed2_n16=student.safetensors --out student.onnx --int8 data/frames
"""

from __future__ import annotations

import argparse
import sys

from ._arguments import add_data_arguments, data_options, only_with, parse_size


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `export`."""
    parser.add_argument(
        "network",
        metavar="NETWORK[@SCALE][=WEIGHTS]",
        help="a network with its shipped weights or those of a file, or the directory of a run; sees images "
        "SCALE times as large",
    )
    parser.add_argument(
        "--out",
        required=True,
        metavar="FILE",
        help="in .onnx, .xml (OpenVINO), .pt2 or .engine (TensorRT)",
    )
    parser.add_argument(
        "--size", metavar="HxW", help="of all images; scaling, padding and cropping go into the file then"
    )
    parser.add_argument("--batch", type=int, metavar="N", help="samples a call (default: any; 1 with --size)")
    parser.add_argument(
        "--weights",
        default="float32",
        metavar="FORMAT",
        help="float32 (default), float16 or bfloat16",
    )
    parser.add_argument(
        "--int8", metavar="IMAGES", help="8-bit integers, calibrated on this folder or list of your images"
    )
    parser.add_argument(
        "--data",
        metavar="NAME",
        help="with --int8: labelled data, for figures before and after ('samples')",
    )
    parser.add_argument("--root", metavar="DIR", help="where that data lies")
    add_data_arguments(parser)
    parser.add_argument("--max-disparity", type=int, metavar="PX", help="how far the network searches")
    parser.add_argument(
        "--tolerance",
        type=float,
        metavar="X",
        help="largest mean difference to torch, px, or where an output is not in px percent of its mean "
        "magnitude (default: 0.05; any with --int8)",
    )


def run(args: argparse.Namespace) -> int:
    """Export, print the difference, say what was written."""
    from pathlib import Path

    from ..deployment.export import check_format, export
    from ..errors import UserError, counted
    from ..inference.load import load_predictor
    from ..inference.predictor import Predictor
    from ._console import say, table_console

    path = Path(args.out)
    size = parse_size(args.size) if args.size else None
    if args.int8 and args.weights != "float32":
        raise UserError("--int8 says how weights are stored; leave --weights out")
    only_with(args.int8, "--int8", args, "data")
    only_with(args.data, "--data", args, "root", "split", "data_option")
    check_format(path)
    predict = load_predictor(args.network, args.max_disparity)
    if not isinstance(predict, Predictor) or not list(predict.net.parameters()):
        raise UserError(f"{args.network} is no network that could be exported")
    limit = {} if args.tolerance is None else {"limit": args.tolerance}
    if args.int8:
        from ..deployment.quantise import quantise

        given = {"root": args.root, "split": args.split, "options": data_options(args.data_option)}
        options = {**given, "max_disparity": args.max_disparity} if args.data else {}
        result = quantise(
            predict.net,
            path,
            args.int8,
            size,
            batch=args.batch,
            data=args.data,
            on_progress=say,
            progress=sys.stderr.isatty(),
            **limit,
            **options,
        )
        say(f"difference to torch in float32, on calibration images:\n{result.difference}")
        say(f"in float32 as before: {counted(len(result.kept), 'operation')}")
        if result.evaluation is not None:
            table_console().print(result.evaluation)
    else:
        difference = export(
            predict.net, path, size, batch=args.batch, weights=args.weights, on_progress=say, **limit
        )
        say(f"difference to torch in float32:\n{difference}")
    files = [path, path.with_suffix(".bin")] if path.suffix == ".xml" else [path]
    for file in files:
        say(f"wrote {file} ({file.stat().st_size / 1e6:.2f} MB)")
    return 0
