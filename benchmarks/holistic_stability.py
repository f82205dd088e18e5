"""Does the holistic term stay a number for 10,000 steps in bfloat16?

    python benchmarks/holistic_stability.py --kind hinge --steps 10000 --json benchmarks/results/holistic.json

A small student, whose convolutions run under autocast to bfloat16, learns from the adversarial term alone to
give a teacher's score maps, the worst case: nothing else holds it. Every 500 steps both losses and the
largest logit are printed; it stops at the first value that is no number and says where.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from study import write_study
from torch import nn

from densedistill.distillation.losses import Holistic

CLASSES, SIZE = 5, 33


def network(width: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, CLASSES, 3, padding=1),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kind", default="hinge", choices=("hinge", "wgan-gp"))
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    teacher, student = network(16).eval(), network(8)
    term = Holistic(classes=CLASSES, kind=arguments.kind, width=8)
    mine = torch.optim.SGD(student.parameters(), 1e-2, momentum=0.9, weight_decay=5e-4)
    its = torch.optim.SGD(term.adversary.parameters(), **term.adversary_options)
    curve, failed = [], None
    for step in range(1, arguments.steps + 1):
        image = torch.randn(2, 3, SIZE, SIZE)
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                wanted = 4 * teacher(image)
            logits = student(image)
            loss = term(logits, wanted)
        mine.zero_grad()
        (0.1 * loss).backward()
        mine.step()
        of_adversary = term.adversary_loss()
        its.zero_grad()
        (0.1 * of_adversary).backward()
        its.step()
        values = (loss.item(), of_adversary.item(), logits.abs().max().item())
        if not all(map(math.isfinite, values)):
            failed = step
            break
        if step % 500 == 0:
            curve.append({"step": step, "student": values[0], "adversary": values[1], "largest": values[2]})
            print(step, *(f"{value:.4g}" for value in values), flush=True)
    print(
        f"{arguments.kind}: "
        + (f"no number at step {failed}" if failed else f"{arguments.steps} steps finite")
    )
    found = {"kind": arguments.kind, "steps": arguments.steps, "failed": failed, "curve": curve}
    write_study(found, arguments.json)


if __name__ == "__main__":
    main()
