"""`densedistill predict`: disparity, depth and point clouds of your own pairs."""

from __future__ import annotations

import argparse

NAME = "predict"
HELP = "disparity, depth and point clouds of image pairs, as files"
EXAMPLE = """\
examples:
  densedistill predict dsnet_bb21_ed2_n16 --left a.png --right b.png --out predictions
  densedistill predict sgbm --folder data/pairs --out predictions --write png,color
  densedistill predict dsnet_bb21_ed2_n16=student.safetensors --list pairs.txt --out predictions
  densedistill predict dsnet_bb21_ed2_n16 --left l.png --right r.png --rectify stereo.yml \\
      --write ply --out predictions
kinds of output: png (KITTI's 16-bit), pfm, npy, color, depth (metres), ply (point cloud)
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments to `parser`."""
    parser.epilog = EXAMPLE
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "network",
        metavar="NETWORK[=WEIGHTS]",
        help="a network with its shipped weights, or with those of a file; the directory of a run; 'sgbm'",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--left", metavar="FILE", help="left view of one pair, with --right")
    source.add_argument(
        "--folder", metavar="DIR", help="left/ and right/, image_0/ and image_1/, SCENE/im0 and im1"
    )
    source.add_argument("--list", metavar="FILE", help="text file, a left and a right path on each line")
    parser.add_argument("--right", metavar="FILE", help="right view of one pair")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the outputs")
    parser.add_argument(
        "--write", default="png,color", metavar="A,B", help="kinds of output (default: png,color)"
    )
    parser.add_argument(
        "--calibration",
        nargs="+",
        metavar="FILE",
        help="of KITTI, Middlebury or OpenCV (one file or two), for depth; else looked for by the images",
    )
    parser.add_argument(
        "--rectify", nargs="+", metavar="FILE", help="OpenCV calibration of a raw rig: rectify first"
    )
    parser.add_argument("--max-disparity", type=int, metavar="PX", help="how far the network searches")
    parser.add_argument(
        "--color-max", type=float, metavar="PX", help="disparity drawn red (default: the largest)"
    )
    parser.add_argument(
        "--precision", default="float32", metavar="P", help="float32 (default), bfloat16 or auto"
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1, … (default: an accelerator if there is one)")
    parser.add_argument("--overwrite", action="store_true", help="predict again what is there already")


def run(args: argparse.Namespace) -> int:
    """Predict and say what was written."""
    from rich.console import Console

    from ..errors import UserError
    from ..inference.load import best_device
    from ..inference.pairs import pairs_from
    from ..inference.predict import predict

    if (args.left is None) != (args.right is None):
        raise UserError("one pair takes both --left and --right")
    say = Console(highlight=False, soft_wrap=True).print
    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    result = predict(
        args.network,
        pairs_from([(args.left, args.right)] if args.left else args.folder or args.list),
        args.out,
        write=args.write.split(","),
        calibration=args.calibration,
        rectify_by=args.rectify,
        max_disparity=args.max_disparity,
        device=args.device or best_device(),
        precision=args.precision,
        overwrite=args.overwrite,
        colour_max=args.color_max,
        progress=errors.is_terminal,
        on_warning=lambda message: errors.print(f"warning: {message}", style="yellow"),
    )
    for path in result.written[:6]:
        say(f"wrote {path}")
    if len(result.written) > 6:
        say(f"… and {len(result.written) - 6} more files in {args.out}")
    if result.skipped:
        say(f"{result.skipped} pairs were there already (--overwrite predicts them again)")
    return 0
