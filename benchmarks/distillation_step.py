"""One distillation step, and inference: the published formulation written out plainly, against this toolkit.

    python benchmarks/distillation_step.py                  # ACVNet (small) to DSNet, 256x512, 192 px
    python benchmarks/distillation_step.py --system tsnnet  # or dwarf, spatialkd, pspnet
    python benchmarks/distillation_step.py --quick          # 128x256, disparity 64: a minute
    python benchmarks/distillation_step.py --scaling        # over size, disparity and batch, too

Both sides have the same networks, weights, inputs and objective (that of the system's recipe). The plain
side, `formulations/`, is float32, contiguous, and does as the published code does. Each variant runs in a
process of its own, rounds alternate, and the best time counts; peak memory is the process's, less what it
held before the first step, and that of its tensors, which no allocator adds to. Two more figures say where
the limit is: the time of the convolutions alone, in the formats that our side uses, and the time of both
sides with convolutions that compute nothing.

Writes a table to the screen and all figures to --output.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from formulations import NAMES, get_system
from no_convolutions import no_convolutions
from torch import Tensor, nn
from torch.profiler import ProfilerActivity

from densedistill.distillation.objective import Objective
from densedistill.distillation.recompute import recomputed_activations
from densedistill.inference.predictor import Predictor
from densedistill.machine import cpu_model, keep_freed_memory
from densedistill.networks.precision import (
    channels_last,
    fastest_dtype,
    trains_channels_last,
)
from densedistill.tasks import task_of

# What is changed, one at a time, for the scaling curves, and around what.
SCALING: dict[tuple[str, ...], list[tuple[int, ...]]] = {
    ("height", "width"): [(128, 256), (192, 384), (256, 512), (320, 640)],
    ("max_disparity",): [(64,), (128,), (192,), (256,)],
    ("batch",): [(1,), (2,), (4,)],
}
AROUND = {"height": 128, "width": 256}
FLAGS = ("system", "height", "width", "max_disparity", "batch", "precision", "threads", "repeats")
CONVOLUTIONS = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)


# Both sides as (step, inference, student), the former two functions without arguments.


def plain_side(options: argparse.Namespace) -> tuple[Callable[[], Tensor], Callable[[], Tensor], nn.Module]:
    """Return the published step and inference, and the student."""
    system = get_system(options.system)
    student, teacher = system.networks(options)
    system.undo(student, teacher)
    batch = system.batch(options)
    images, _ = student.input_spec.prepare(*(batch[key] for key in task_of(student).inputs))
    optimizer = torch.optim.Adam([p for p in student.parameters() if p.requires_grad], 1e-4)
    return (
        _step(lambda: system.loss(student, teacher, images, batch, options), optimizer),
        lambda: system.infer(student, images, options),
        student,
    )


def our_side(options: argparse.Namespace) -> tuple[Callable[[], Tensor], Callable[[], Tensor], nn.Module]:
    """Return this toolkit's step and inference, and the student."""
    keep_freed_memory()
    system = get_system(options.system)
    student, teacher = system.networks(options)
    if trains_channels_last(student, _dtype(options)):
        channels_last(student)
    teachers = {} if teacher is None else {"teacher": channels_last(teacher)}
    batch = system.batch(options)
    objective = Objective(system.terms, student, teachers)
    for answering in objective.teachers.values():
        answering.fold()
    for own in objective.own_losses.values():
        if hasattr(own, "steps"):  # a schedule: measured after its first steps
            own.steps.fill_(2)
    learned = [p for p in student.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(learned, 1e-4, fused=True)
    dtype = _dtype(options)
    predict = Predictor(student, precision=str(dtype).removeprefix("torch."), fold=True)
    task = task_of(student)

    def loss() -> Tensor:
        autocast = torch.autocast("cpu", dtype, enabled=dtype != torch.float32)
        with autocast, recomputed_activations():
            return objective(batch)[0]

    return (
        _step(loss, optimizer),
        lambda: predict(*(batch[key] for key in task.inputs))[task.outputs[0]],
        student,
    )


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


def rest(options: argparse.Namespace) -> dict[str, Any]:
    """Return step and inference times of both sides when convolutions cost nothing."""
    figures: dict[str, Any] = {}
    with no_convolutions():
        for name, side in SIDES.items():
            step, infer, student = side(options)
            figures[name] = {"step": seconds(step, options.repeats + 2)}
            student.eval()
            with torch.inference_mode():
                figures[name]["inference"] = seconds(infer, options.repeats + 2)
    return figures


def measure(variant: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return step and inference times and peak memory of one side."""
    step, infer, student = SIDES[variant](options)
    before = _resident()
    figures: dict[str, Any] = {"step": seconds(step, options.repeats)}
    figures["memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    figures["tensors"] = peak_of_tensors(step)
    student.eval()
    with torch.inference_mode():
        figures["inference"] = seconds(infer, options.repeats + 1)
    return figures


def peak_of_tensors(step: Callable[[], Any]) -> int:
    """Return the most bytes that tensors made in a step hold at once."""
    with torch.profiler.profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    return max(itertools.accumulate(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())))


def check(options: argparse.Namespace) -> dict[str, float]:
    """Return both sides' loss with batch normalisation and dropout at rest, where they must agree."""
    values = {}
    for name, side in SIDES.items():
        step, _, student = side(options)
        for module in student.modules():
            if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d | nn.Dropout2d):
                module.eval()
        torch.manual_seed(0)  # of what the step draws
        with torch.no_grad():
            values[name] = step.loss().item()  # type: ignore[attr-defined]
    return values


def convolutions_alone(options: argparse.Namespace) -> dict[str, Any]:
    """Return the time of all convolutions of a step and of inference, on noise of the right shape."""
    step, infer, student = our_side(options)
    dtype = _dtype(options)
    calls: list[tuple[nn.Module, list[Tensor], bool]] = []

    def record(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        # Of the inputs their shapes, strides and whether they want a gradient; not their numbers.
        kept = [torch.empty_like(x, device="meta").requires_grad_(x.requires_grad) for x in inputs]
        calls.append((module, kept, torch.is_grad_enabled()))

    step.loss()  # type: ignore[attr-defined]  # a teacher's first answer takes two runs
    hook = nn.modules.module.register_module_forward_hook(
        lambda module, inputs, output: record(module, inputs) if isinstance(module, CONVOLUTIONS) else None
    )
    step.loss()  # type: ignore[attr-defined]
    step_calls, calls[:] = list(calls), []
    student.eval()
    with torch.inference_mode():
        infer()
    hook.remove()
    sums: list[dict[str, float]] = []
    for chosen in (step_calls, calls):
        sums.append({"wall": 0.0, "cpu": 0.0, "median": 0.0})
        for module, inputs, learns in chosen:
            images = [torch.randn_like(x, dtype=dtype, device="cpu") for x in inputs]
            images = [x.requires_grad_(y.requires_grad) for x, y in zip(images, inputs, strict=True)]
            module.to(dtype)

            def run(module: Any = module, images: Any = images, learns: bool = learns) -> None:
                with torch.set_grad_enabled(learns):
                    outputs = module(*images)
                outputs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
                if outputs[0].requires_grad:
                    torch.autograd.backward(outputs, [torch.empty_like(output) for output in outputs])

            for key, value in seconds(run, options.repeats).items():
                sums[-1][key] += value
    return {"step": sums[0], "inference": sums[1]}


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
        kinds = {"convolutions": convolutions_alone, "rest": rest, "check": check}
        kind = kinds.get(options.variant)
        print(json.dumps(kind(options) if kind else measure(options.variant, options)))
        return
    losses = child("check", options)
    if abs(losses["plain"] - losses["ours"]) > 1e-2 * abs(losses["plain"]):
        sys.exit(f"the two sides do not compute the same loss: {losses}")
    rounds = [{name: child(name, options) for name in SIDES} for _ in range(options.rounds)]
    limit, others = child("convolutions", options), child("rest", options)
    figures = {name: best([one[name] for one in rounds]) for name in SIDES}
    result = {
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "options": vars(options),
        "losses": losses,
        "figures": figures,
        "convolutions": limit,
        "rest": others,
        "ratios": {
            "step": figures["plain"]["step"]["wall"] / figures["ours"]["step"]["wall"],
            "memory": figures["plain"]["memory"] / figures["ours"]["memory"],
            "tensors": figures["plain"]["tensors"] / figures["ours"]["tensors"],
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
    """Measure both sides over `SCALING`, print the curves, and return their points; disparity and batch at
    the size of `AROUND`, one round and one repeat each."""
    points, measured = [], {}
    headings = ("step: plain", "ours", "ratio", "inference", "ratio", "memory", "tensors")
    print("\n" + " " * 24 + "".join(f"{heading:>14}" for heading in headings))
    searches = hasattr(get_system(options.system).networks(options)[0], "max_disparity")
    for names, values in SCALING.items():
        for value in values if searches or names != ("max_disparity",) else []:
            changed = dict(zip(names, value, strict=True))
            variant = argparse.Namespace(**{**vars(options), "repeats": 1, **AROUND, **changed})
            point = tuple(getattr(variant, flag) for flag in FLAGS)
            if point not in measured:
                measured[point] = {name: child(name, variant) for name in SIDES}
            figures = measured[point]
            plain, ours = figures["plain"], figures["ours"]
            ratios = {key: plain[key]["wall"] / ours[key]["wall"] for key in ("step", "inference")}
            ratios |= {key: plain[key] / ours[key] for key in ("memory", "tensors")}
            points.append({**AROUND, **changed, "figures": figures, "ratios": ratios})
            label = f"{' x '.join(names)} {'x'.join(map(str, value))}"
            step, inference = (ours[key]["wall"] for key in ("step", "inference"))
            cells = [f"{plain['step']['wall']:.2f} s", f"{step:.2f} s", f"{ratios['step']:.1f}x"]
            cells += [
                f"{inference:.3f} s",
                *(f"{ratios[key]:.1f}x" for key in ("inference", "memory", "tensors")),
            ]
            print(f"{label:24}" + "".join(f"{cell:>14}" for cell in cells), flush=True)
    return points


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--system", choices=NAMES, default="dsnet")
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
    parser.add_argument(
        "--variant", choices=[*SIDES, "check", "convolutions", "rest"], help=argparse.SUPPRESS
    )
    options = parser.parse_args()
    if options.quick:
        options.height, options.width, options.max_disparity, options.rounds = 128, 256, 64, 1
    return options


def child(variant: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run one variant in a process of its own and return what it measured."""
    flags = []
    for name in FLAGS:
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
        **{key: max(run[key] for run in runs) for key in ("memory", "tensors")},
    }


def machine() -> dict[str, Any]:
    """Return what the figures were taken on."""
    return {
        "processor": cpu_model(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def report(result: dict[str, Any]) -> None:
    """Print the table."""
    options, figures, ratios = result["options"], result["figures"], result["ratios"]
    limit = result["convolutions"]
    print(
        f"{get_system(options['system']).title}, {options['height']}x{options['width']}, "
        f"{options['max_disparity']} px, batch {options['batch']}, "
        f"ours in {_dtype(argparse.Namespace(**options))}, {result['machine']}"
    )
    print(f"{'':12}{'plain':>12}{'ours':>12}{'ratio':>8}{'convolutions alone':>22}{'share of ours':>16}")
    for key in ("step", "inference"):
        ours, alone = figures["ours"][key]["wall"], limit[key]["wall"]
        print(
            f"{key:12}{figures['plain'][key]['wall']:10.3f} s{ours:10.3f} s{ratios[key]:7.2f}x"
            f"{alone:20.3f} s{alone / ours:15.0%}"
        )
    for key in ("step", "inference"):
        plain, ours = (result["rest"][name][key]["wall"] for name in SIDES)
        print(
            f"{'rest of ' + key:18}{plain:6.3f} s{ours:10.3f} s{plain / ours:7.2f}x  (without convolutions)"
        )
    for key in ("memory", "tensors"):
        plain, ours = (figures[name][key] / 1e6 for name in SIDES)
        print(f"{f'peak {key}':12}{plain:9.0f} MB{ours:9.0f} MB{ratios[key]:7.2f}x")


if __name__ == "__main__":
    main()
