"""Write what a network predicts for your own images, or the test set of a benchmark, as files.

examples:
  densedistill predict dsnet_bb21_ed2_n16 --left a.png --right b.png --out predictions
  densedistill predict sgbm --folder data/pairs --out predictions --write png,color
  densedistill predict dsnet_bb21_ed2_n16=student.safetensors --list pairs.txt --out predictions
  densedistill predict dsnet_bb21_ed2_n16 --left l.png --right r.png --rectify stereo.yml \\
      --write ply --out predictions
  densedistill predict runs/depth --image photo.jpg --out predictions
  densedistill predict runs/segmentation --video drive.mp4 --out predictions --write png,overlay
  densedistill predict dsnet_slim=mine.safetensors --submission kitti2015 --root data/KITTI2015 \\
      --out submission

kinds of output:
  stereo        png (KITTI's 16-bit), pfm, npy, color, depth (metres), ply (point cloud)
  depth         png (KITTI's 16-bit), pfm, npy, color, ply
  sceneflow     disp_0, disp_1, flow (KITTI's), flo, npy, color, color_disparity, color_change, motion
  segmentation  png (numbers of the classes), color, overlay, npy, labelids (Cityscapes')
  detection     json, color (boxes drawn)
"""

from __future__ import annotations

import argparse
import math
import sys
from typing import Any

from ._arguments import add_running_arguments, data_options, only_with


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments to `parser`."""
    parser.add_argument(
        "network",
        metavar="NETWORK[@SCALE][=WEIGHTS]",
        help="a network with its shipped weights or those of a file, or a run, which sees images SCALE times "
        "as large; an exported file; 'sgbm'",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--left", metavar="FILE", help="left view of one pair, with --right")
    source.add_argument("--image", nargs="+", metavar="FILE", help="single images")
    source.add_argument(
        "--folder",
        metavar="DIR",
        help="images; for pairs left/ and right/, image_0/ and image_1/, SCENE/im0 and im1",
    )
    source.add_argument(
        "--list",
        metavar="FILE",
        help="text file: an image, a left and a right path, or these and the next, on each line",
    )
    source.add_argument(
        "--video",
        metavar="FILE|N",
        help="frames of a video, or of camera number N until Ctrl-C; pairs lie side by side in them",
    )
    source.add_argument(
        "--submission",
        metavar="NAME",
        help="the test set of kitti2012, kitti2015, kitti2015_sceneflow, middlebury, eth3d or cityscapes, "
        "below --root, as its server wants",
    )
    parser.add_argument("--root", metavar="DIR", help="where the submission's data set lies")
    parser.add_argument("--split", metavar="A,B", help="of the submission's data set (default: test)")
    parser.add_argument("--method", metavar="NAME", help="in Middlebury's file names (default: densedistill)")
    parser.add_argument(
        "--data-option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="of the submission's data set, for example resolution=H; may be repeated",
    )
    parser.add_argument("--right", metavar="FILE", help="right view of one pair")
    parser.add_argument("--left-next", metavar="FILE", help="the pair at the next time, for scene flow")
    parser.add_argument("--right-next", metavar="FILE", help="the pair at the next time, for scene flow")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the outputs")
    parser.add_argument("--write", metavar="A,B", help="kinds of output (default for stereo: png,color)")
    geometry = parser.add_mutually_exclusive_group()
    geometry.add_argument(
        "--calibration",
        nargs="+",
        metavar="FILE",
        help="of KITTI, Middlebury or OpenCV (one file or two), for depth; else looked for by the images",
    )
    geometry.add_argument(
        "--intrinsics", metavar="FX,FY,CX,CY", help="of a single camera, px, for point clouds"
    )
    parser.add_argument(
        "--rectify", nargs="+", metavar="FILE", help="OpenCV calibration of a raw rig: rectify first"
    )
    parser.add_argument("--max-disparity", type=int, metavar="PX", help="how far the network searches")
    parser.add_argument(
        "--color-max",
        type=float,
        metavar="N",
        help="where colours end: px of disparity drawn red, metres of depth drawn blue, the farthest, px of "
        "flow in full colour (default: the picture's own)",
    )
    add_running_arguments(parser)
    parser.add_argument("--overwrite", action="store_true", help="predict again what is there already")


def run(args: argparse.Namespace) -> int:
    """Predict and say what was written."""
    from ..errors import UserError, counted
    from ..inference.load import task_of_network
    from ..inference.predict import predict
    from ..networks.device import find_device
    from ._console import say

    if args.color_max is not None and not args.color_max > 0:
        raise UserError(f"--color-max: must be above 0, not {args.color_max:g}")
    only_with(args.submission, "--submission", args, "root", "split", "method", "data_option")
    of_own = (
        "right",
        "left_next",
        "right_next",
        "write",
        "calibration",
        "intrinsics",
        "rectify",
        "color_max",
    )
    only_with(not args.submission, "images of your own", args, *of_own)
    if args.submission:
        say(f"ready: {_submit(args)}")
        return 0
    result = predict(
        args.network,
        _source(args),
        args.out,
        write=args.write.split(",") if args.write else None,
        calibration=_intrinsics(args) or args.calibration,
        rectify_by=args.rectify,
        max_disparity=args.max_disparity,
        device=find_device(args.device),
        precision=args.precision,
        runtime=args.runtime,
        overwrite=args.overwrite,
        colour_max=args.color_max,
        progress=sys.stderr.isatty(),
        on_warning=lambda message: say(f"warning: {message}", stderr=True),
    )
    for path in result.written[:6]:
        say(f"wrote {path}")
    if len(result.written) > 6:
        say(f"… and {counted(len(result.written) - 6, 'more file')} in {args.out}")
    if result.skipped:
        kinds = {"image": "image", "pair": "pair", "sequence": "frame"}
        skipped = counted(result.skipped, kinds[task_of_network(args.network).takes])
        say(f"there already: {skipped} (--overwrite predicts again)")
    return 0


def _submit(args: argparse.Namespace) -> Any:
    from ..errors import UserError
    from ..inference.submissions import write_submission
    from ..networks.device import find_device

    if args.root is None:
        raise UserError("a submission takes --root, the folder of its data set")
    return write_submission(
        args.network,
        args.submission,
        args.root,
        args.out,
        split=args.split or "test",
        method=args.method or "densedistill",
        options=data_options(args.data_option),
        max_disparity=args.max_disparity,
        device=find_device(args.device),
        precision=args.precision,
        runtime=args.runtime,
        overwrite=args.overwrite,
        progress=sys.stderr.isatty(),
    )


def _source(args: argparse.Namespace) -> Any:
    """Return what to predict; UserError where views are missing, or the network takes something else."""
    from ..errors import UserError
    from ..inference.load import task_of_network

    if (args.left is None) != (args.right is None) or (args.left_next is None) != (args.right_next is None):
        raise UserError("one pair takes both --left and --right")
    takes = task_of_network(args.network).takes
    given = "image" if args.image else "pair" if args.left else takes
    given = "sequence" if args.left_next else "pair" if args.video and takes == "sequence" else given
    if given != takes:
        flags = {
            "image": "--image, --folder, --list or --video",
            "pair": "--left and --right, --folder, --list or --video",
            "sequence": "--left, --right, --left-next and --right-next, --folder or --list",
        }
        raise UserError(f"{args.network} takes {flags[takes]}")
    if args.left:
        return [[path for path in (args.left, args.right, args.left_next, args.right_next) if path]]
    if args.video:
        return int(args.video) if args.video.isdecimal() else args.video
    return args.image or args.folder or args.list


def _intrinsics(args: argparse.Namespace) -> Any:
    from ..data.calibration import Calibration
    from ..errors import UserError
    from ..inference.load import task_of_network

    if args.intrinsics is None:
        return None
    if task_of_network(args.network).takes != "image":
        raise UserError("--intrinsics is of a single camera; a pair takes --calibration, with its baseline")
    try:
        fx, fy, cx, cy = (float(number) for number in args.intrinsics.split(","))
    except ValueError:
        fx = fy = cx = cy = math.nan
    if not (0 < fx < math.inf and 0 < fy < math.inf and math.isfinite(cx) and math.isfinite(cy)):
        raise UserError(
            f"--intrinsics is four numbers, FX,FY,CX,CY, the first two above 0, got '{args.intrinsics}'"
        )
    return Calibration(fx, fy, cx, cy, baseline_m=0.0)
