"""The depth student that ships, beside a constant plane and an untrained network, on real images.

    python benchmarks/depth.py --json benchmarks/results/depth_icl.json
    python benchmarks/depth.py --weights runs/depth/student.safetensors

Five frames of ICL-NUIM's living room, which no training has seen. What is learnt from the procedural world
has no scale, so each network's depth is fitted to the ground truth of each image by scale and shift, of depth
and of its inverse. After that fit a constant is the mean depth of each image.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from study import write_study

import densedistill as dd
from densedistill.inference.images import to_batches
from densedistill.tasks import get_task

PROTOCOLS = ("images+aligned", "images+flip+aligned", "images+aligned_inverse")


class Plane:
    """A predictor that says 1 m everywhere."""

    name, task, precision = "constant plane", get_task("depth"), "float32"

    def __call__(self, *images: Any) -> dict[str, torch.Tensor]:
        (image,) = to_batches(*images)
        return {"depth": torch.ones(len(image), 1, *image.shape[-2:])}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", default="shipped", help="of depth_slim (default: those that ship)")
    parser.add_argument("--data", default="icl_nuim", help="data set (default icl_nuim, which ships)")
    parser.add_argument("--root", help="its folder")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    networks = {
        "depth_slim": dd.create_model("depth_slim", weights=arguments.weights),
        "untrained": dd.create_model("depth_slim", max_depth=20.0).eval(),
        "constant plane": Plane(),
    }
    protocols: dict[str, Any] = {}
    for protocol in PROTOCOLS:
        evaluation = dd.evaluate(networks, arguments.data, protocol=protocol, root=arguments.root)
        print(evaluation)
        protocols[protocol] = evaluation.rows
    write_study({"protocols": protocols}, arguments.json)


if __name__ == "__main__":
    main()
