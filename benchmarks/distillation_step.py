"""One distillation step, and inference: the published formulation written out plainly, against this toolkit.

    python benchmarks/distillation_step.py            # ACVNet (small) to DSNet, 256x512, 192 px, batch 1
    python benchmarks/distillation_step.py --quick    # 128x256, disparity 64: a minute
    python benchmarks/distillation_step.py --scaling  # also over image size, disparity and batch: an hour

Both sides have the same networks, weights, inputs and objective (that of the recipe `dsnet/sceneflow`).
The plain side is float32, contiguous, loops over disparities, upsamples logits to full volumes and runs the
backbone once a view. Each variant runs in a process of its own, rounds alternate, and the best time counts;
peak memory is the process's, less what it held before the first step. The time of the convolutions alone, in
the formats that our side uses, is the limit.

Writes a table to the screen and all figures to `distillation_step.json`.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from densedistill.distillation.objective import Objective
from densedistill.inference.predictor import Predictor
from densedistill.networks import create_model
from densedistill.networks.layers.regression import regress_disparity_reference, upsample_logits
from densedistill.networks.precision import channels_last, fastest_dtype

# What is changed, one at a time, for the scaling curves.
SCALING: dict[tuple[str, ...], list[tuple[int, ...]]] = {
    ("height", "width"): [(128, 256), (192, 384), (256, 512), (320, 640)],
    ("max_disparity",): [(64,), (128,), (192,), (256,)],
    ("batch",): [(1,), (2,), (4,)],
}
STUDENT, TEACHER = "dsnet_bb21_ed2_n16", "acvnet_small"
LEVELS = (0.5, 0.7, 1.0)
TERMS = {
    "ground_truth": {
        "loss": "log_l1_published",
        "of": "disparity",
        "to": "ground_truth",
        "mask": "ground_truth",
        "levels": list(LEVELS),
    },
    "output": {
        "loss": "smooth_l1",
        "of": "disparity",
        "to": "teacher",
        "mask": "ground_truth",
        "weight": 0.1,
    },
    "features": {"loss": "cosine", "of": "features.early", "to": "teacher"},
    "volume": {"loss": "cosine", "of": "volume", "to": "teacher", "weight": 5.0},
    "aggregation": {"loss": "soft_kl", "of": "aggregation", "to": "teacher", "weight": 0.2},
}


def make_batch(options: argparse.Namespace) -> dict[str, Any]:
    """Return noise of the wanted size with ground truth."""
    generator = torch.Generator().manual_seed(0)
    shape = (options.batch, 3, options.height, options.width)
    truth = torch.rand(options.batch, 1, *shape[2:], generator=generator) * (options.max_disparity - 2) + 1
    return {
        "left": torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8),
        "right": torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8),
        "disparity": truth,
        "disparity_valid": torch.ones_like(truth, dtype=torch.bool),
    }


def make_networks(options: argparse.Namespace) -> tuple[nn.Module, nn.Module]:
    """Return student and teacher with random weights, the same in every process."""
    torch.manual_seed(0)
    student = create_model(STUDENT, max_disparity=options.max_disparity).train()
    teacher = create_model(TEACHER, max_disparity=options.max_disparity).eval().requires_grad_(False)
    with torch.no_grad():  # logits of a usual size, which random weights alone do not give
        for network in (student, teacher):
            for path in network.taps["aggregation"]:
                network.get_submodule(path).logits.weight.mul_(0.01)
    return student, teacher


# The published formulation.


def plain_correlation(left: Tensor, right: Tensor, levels: int, groups: int) -> Tensor:
    """Fill a group-wise correlation volume disparity by disparity."""
    batch, channels, height, width = left.shape
    volume = left.new_zeros(batch, groups, levels, height, width)
    for d in range(min(levels, width)):
        product = left[..., d:] * right[..., : width - d]
        volume[:, :, d, :, d:] = product.view(batch, groups, channels // groups, height, width - d).mean(2)
    return volume.contiguous()


def plain_concatenation(left: Tensor, right: Tensor, levels: int) -> Tensor:
    """Fill ACVNet's concatenation volume disparity by disparity."""
    batch, channels, height, width = left.shape
    volume = left.new_zeros(batch, 2 * channels, levels, height, width)
    for d in range(levels):
        volume[:, :channels, d] = left
        volume[:, channels:, d, :, d:] = right[..., : max(width - d, 0)]
    return volume.contiguous()


def plain_features(network: Any, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the stem, the first stage, and the features of one view."""
    features = network.features
    stem = features.stem(image)
    first = features.stage1(stem)
    outputs = [features.stage2(first)]
    outputs.append(features.stage3(outputs[-1]))
    outputs.append(features.stage4(outputs[-1]))
    return stem, first, torch.cat(outputs, 1)


def plain_student(network: Any, left: Tensor, right: Tensor, all_heads: bool) -> dict[str, Any]:
    """Run DSNet as published."""
    lefts, rights = plain_features(network, left), plain_features(network, right)
    volume = plain_correlation(lefts[2], rights[2], network.max_disparity // 4, network.volume.groups)
    return _plain_outputs(network, lefts, rights, volume, network.aggregation(volume, all_heads), left)


def plain_teacher(network: Any, left: Tensor, right: Tensor, all_heads: bool) -> dict[str, Any]:
    """Run ACVNet as published."""
    lefts, rights = plain_features(network, left), plain_features(network, right)
    levels = network.max_disparity // 4
    volume = plain_correlation(lefts[2], rights[2], levels, network.volume.groups)
    attention = network.attention_branch(volume).softmax(2)
    joined = plain_concatenation(network.compress(lefts[2]), network.compress(rights[2]), levels)
    logits = network.aggregation(attention * joined, all_heads)
    return _plain_outputs(network, lefts, rights, volume, logits, left)


def _plain_outputs(network, lefts, rights, volume, logits, image) -> dict[str, Any]:
    size = image.shape[-2:]
    full = [upsample_logits(one, network.max_disparity, size) for one in logits]
    levels = torch.arange(network.max_disparity, dtype=torch.float32).view(1, -1, 1, 1)
    disparities = [(one.softmax(1) * levels).sum(1, keepdim=True) for one in full]
    early = [view[i] for i in range(2) for view in (lefts, rights)]
    return {"early": early, "volume": volume, "logits": full, "disparities": disparities}


def plain_loss(student: dict[str, Any], teacher: dict[str, Any], batch: dict[str, Any], limit: int) -> Tensor:
    """Return the objective of `TERMS`, written out."""
    truth = batch["disparity"]
    mask = batch["disparity_valid"] & (truth > 0) & (truth < limit)
    total = torch.zeros(())
    for weight, disparity in zip(LEVELS, student["disparities"], strict=True):
        total = total + weight * ((disparity[mask] - truth[mask]).abs() + 0.5).log().mean()
    target = teacher["disparities"][-1]
    total = total + 0.1 * F.smooth_l1_loss(student["disparities"][-1][mask], target[mask])
    for ours, theirs in zip(student["early"], teacher["early"], strict=True):
        total = total + (1 - F.cosine_similarity(ours, theirs)).mean() / 2
    total = total + 5 * (1 - F.cosine_similarity(student["volume"], teacher["volume"])).mean()
    for ours, theirs in zip(student["logits"], teacher["logits"], strict=True):
        cross = -(theirs.softmax(1) * ours.log_softmax(1)).sum()
        total = total + 0.2 * cross / (ours.shape[-1] * ours.shape[-2])
    return total


# Both sides as (step, inference), functions without arguments.


def plain_side(options: argparse.Namespace) -> tuple[Callable[[], Tensor], Callable[[], Tensor], nn.Module]:
    """Return the published step and inference, and the student."""
    student, teacher = make_networks(options)
    for module in (*student.modules(), *teacher.modules()):
        if isinstance(module, nn.Conv3d):
            module.__class__ = nn.Conv3d  # without what this toolkit does about small volumes
        elif isinstance(module, nn.ConvTranspose3d):
            module.__class__ = nn.ConvTranspose3d
    batch = make_batch(options)
    (left, right), _ = student.input_spec.prepare(batch["left"], batch["right"])
    optimizer = torch.optim.Adam(student.parameters(), 1e-4)

    def loss() -> Tensor:
        answer = plain_student(student, left, right, True)
        with torch.no_grad():
            target = plain_teacher(teacher, left, right, True)
        return plain_loss(answer, target, batch, options.max_disparity)

    def infer() -> Tensor:
        logits = plain_student_inference(student, left, right)
        return regress_disparity_reference(logits, options.max_disparity, left.shape[-2:])

    return _step(loss, optimizer), infer, student


def plain_student_inference(network: Any, left: Tensor, right: Tensor) -> Tensor:
    """Return DSNet's last logits as published."""
    lefts, rights = plain_features(network, left)[2], plain_features(network, right)[2]
    volume = plain_correlation(lefts, rights, network.max_disparity // 4, network.volume.groups)
    return network.aggregation(volume, False)[-1]


def our_side(options: argparse.Namespace) -> tuple[Callable[[], Tensor], Callable[[], Tensor], nn.Module]:
    """Return this toolkit's step and inference, and the student."""
    student, teacher = (channels_last(network) for network in make_networks(options))
    batch = make_batch(options)
    objective = Objective(TERMS, student, {"teacher": teacher})
    optimizer = torch.optim.Adam(student.parameters(), 1e-4)
    dtype = _dtype(options)
    predict = Predictor(student, precision=str(dtype).removeprefix("torch."))

    def loss() -> Tensor:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            return objective(batch)[0]

    return _step(loss, optimizer), lambda: predict(batch["left"], batch["right"])["disparity"], student


SIDES = {"plain": plain_side, "ours": our_side}


def _step(loss: Callable[[], Tensor], optimizer: torch.optim.Optimizer) -> Callable[[], Tensor]:
    def step() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        value = loss()
        value.backward()
        optimizer.step()
        return value.detach()

    step.loss = loss  # type: ignore[attr-defined]
    return step


def _dtype(options: argparse.Namespace) -> torch.dtype:
    return fastest_dtype("cpu") if options.precision == "auto" else getattr(torch, options.precision)


# What a child process measures.


def seconds(function: Callable[[], Any], repeats: int) -> dict[str, float]:
    """Return the least wall-clock and processor time of `repeats` calls after one to warm up."""
    function()
    walls, processors = [], []
    for _ in range(repeats):
        wall, processor = time.perf_counter(), time.process_time()
        function()
        walls.append(time.perf_counter() - wall)
        processors.append(time.process_time() - processor)
    return {"wall": min(walls), "cpu": min(processors), "median": statistics.median(walls)}


def measure(variant: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return step and inference times and peak memory of one side."""
    step, infer, student = SIDES[variant](options)
    before = _resident()
    figures: dict[str, Any] = {"step": seconds(step, options.repeats)}
    figures["memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    student.eval()
    with torch.inference_mode():
        figures["inference"] = seconds(infer, options.repeats + 1)
    return figures


def check(options: argparse.Namespace) -> dict[str, float]:
    """Return both sides' loss with batch normalisation at rest, where they must agree."""
    values = {}
    for name, side in SIDES.items():
        step, _, student = side(options)
        for module in student.modules():
            if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
                module.eval()
        with torch.no_grad():
            values[name] = step.loss().item()  # type: ignore[attr-defined]
    return values


def convolutions_alone(options: argparse.Namespace) -> dict[str, Any]:
    """Return the time of all convolutions of a step and of inference, on noise of the right shape."""
    student, teacher = (channels_last(network) for network in make_networks(options))
    dtype = _dtype(options)
    calls: list[tuple[nn.Module, torch.Size, bool]] = []

    def record(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls.append((module, inputs[0].shape, module.weight.requires_grad))

    for network in (student, teacher):
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose3d):
                module.register_forward_hook(record)
    batch = make_batch(options)
    objective = Objective(TERMS, student, {"teacher": teacher})
    with torch.no_grad():
        objective(batch)
        step_calls, calls[:] = list(calls), []
        student.eval()
        Predictor(student)(batch["left"], batch["right"])
    for network in (student, teacher):
        for module in network.modules():
            module._forward_hooks.clear()
    step: dict[str, float] = {"wall": 0.0, "cpu": 0.0, "median": 0.0}
    inference = dict(step)
    for sums, chosen, backward in ((step, step_calls, True), (inference, calls, False)):
        for module, shape, trained in chosen:
            form = torch.channels_last if len(shape) == 4 else torch.channels_last_3d
            image = torch.randn(shape).contiguous(memory_format=form).to(dtype)
            image.requires_grad_(backward and trained and shape[1] != 3)
            module.to(dtype)

            def run(module: Any = module, image: Tensor = image, learn: bool = backward and trained) -> None:
                with torch.set_grad_enabled(learn):
                    output = module(image)
                if learn:
                    output.backward(torch.empty_like(output))

            for key, value in seconds(run, options.repeats).items():
                sums[key] += value
    return {"step": step, "inference": inference}


def _resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# The parent.


def main() -> None:
    """Measure, print, write."""
    options = parse()
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.variant:
        kinds = {"convolutions": convolutions_alone, "check": check}
        kind = kinds.get(options.variant)
        print(json.dumps(kind(options) if kind else measure(options.variant, options)))
        return
    losses = child("check", options)
    if abs(losses["plain"] - losses["ours"]) > 1e-2 * abs(losses["plain"]):
        sys.exit(f"the two sides do not compute the same loss: {losses}")
    rounds = [{name: child(name, options) for name in SIDES} for _ in range(options.rounds)]
    limit = child("convolutions", options)
    figures = {name: best([one[name] for one in rounds]) for name in SIDES}
    result = {
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "options": vars(options),
        "losses": losses,
        "figures": figures,
        "convolutions": limit,
        "ratios": {
            "step": figures["plain"]["step"]["wall"] / figures["ours"]["step"]["wall"],
            "memory": figures["plain"]["memory"] / figures["ours"]["memory"],
            "inference": figures["plain"]["inference"]["wall"] / figures["ours"]["inference"]["wall"],
        },
    }
    report(result)
    if options.scaling:
        result["scaling"] = scaling(options)
    with open(options.output, "w") as file:
        json.dump(result, file, indent=1)
    print(f"wrote {options.output}")


def scaling(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure both sides over `SCALING`, print the curves, and return their points."""
    points = []
    headings = ("step: plain", "ours", "ratio", "inference", "ratio", "memory")
    print("\n" + " " * 24 + "".join(f"{heading:>14}" for heading in headings))
    for names, values in SCALING.items():
        for value in values:
            changed = dict(zip(names, value, strict=True))
            variant = argparse.Namespace(**{**vars(options), **changed})
            figures = {name: child(name, variant) for name in SIDES}
            plain, ours = figures["plain"], figures["ours"]
            ratios = {key: plain[key]["wall"] / ours[key]["wall"] for key in ("step", "inference")}
            ratios["memory"] = plain["memory"] / ours["memory"]
            points.append({**changed, "figures": figures, "ratios": ratios})
            label = f"{' x '.join(names)} {'x'.join(map(str, value))}"
            step, inference = (ours[key]["wall"] for key in ("step", "inference"))
            cells = [f"{plain['step']['wall']:.2f} s", f"{step:.2f} s", f"{ratios['step']:.1f}x"]
            cells += [f"{inference:.3f} s", f"{ratios['inference']:.1f}x", f"{ratios['memory']:.1f}x"]
            print(f"{label:24}" + "".join(f"{cell:>14}" for cell in cells), flush=True)
    return points


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--height", type=int, default=256)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--max-disparity", type=int, default=192)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument(
        "--precision", default="auto", choices=["auto", "float32", "bfloat16"], help="of our side"
    )
    parser.add_argument("--threads", type=int, default=0, help="0: as torch chooses")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="128x256, disparity 64, one round")
    parser.add_argument("--scaling", action="store_true", help="also curves over size, disparity and batch")
    parser.add_argument("--output", default="distillation_step.json")
    parser.add_argument("--variant", choices=[*SIDES, "check", "convolutions"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.height, options.width, options.max_disparity, options.rounds = 128, 256, 64, 1
    return options


def child(variant: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run one variant in a process of its own and return what it measured."""
    flags = []
    for name in ("height", "width", "max_disparity", "batch", "precision", "threads", "repeats"):
        flags += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    command = [sys.executable, __file__, "--variant", variant, *flags]
    print(f"measuring {variant} …", file=sys.stderr)
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(answer.splitlines()[-1])


def best(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the least time and the largest memory over rounds."""
    return {
        "step": min((run["step"] for run in runs), key=lambda x: x["wall"]),
        "inference": min((run["inference"] for run in runs), key=lambda x: x["wall"]),
        "memory": max(run["memory"] for run in runs),
    }


def machine() -> dict[str, Any]:
    """Return what the figures were taken on."""
    return {
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "amx": torch.cpu._is_amx_tile_supported(),
        "torch": torch.__version__,
    }


def report(result: dict[str, Any]) -> None:
    """Print the table."""
    options, figures, ratios = result["options"], result["figures"], result["ratios"]
    limit = result["convolutions"]
    print(
        f"{TEACHER} to {STUDENT}, {options['height']}x{options['width']}, {options['max_disparity']} levels, "
        f"batch {options['batch']}, ours in {_dtype(argparse.Namespace(**options))}, {result['machine']}"
    )
    print(f"{'':12}{'plain':>12}{'ours':>12}{'ratio':>8}{'convolutions alone':>22}{'share of ours':>16}")
    for key in ("step", "inference"):
        ours, alone = figures["ours"][key]["wall"], limit[key]["wall"]
        print(
            f"{key:12}{figures['plain'][key]['wall']:10.3f} s{ours:10.3f} s{ratios[key]:7.2f}x"
            f"{alone:20.3f} s{alone / ours:15.0%}"
        )
    memory = [figures[name]["memory"] / 2**20 for name in SIDES]
    print(f"{'peak memory':12}{memory[0]:9.0f} MB{memory[1]:9.0f} MB{ratios['memory']:7.2f}x")


if __name__ == "__main__":
    main()
