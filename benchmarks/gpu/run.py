"""Everything that wants a GPU, in one command of under ten minutes.

    python benchmarks/gpu/run.py            # 384x1248, on CUDA
    python benchmarks/gpu/run.py --smoke    # tiny sizes, on any machine: seconds

Training: one distillation step (ACVNet small to DSNet, 256x512, batch 4) eager, without and with recomputed
activations, and compiled, in float32 and bfloat16.
Inference: DSNet, TSNnet Naive where it is registered, and others by `--networks`, at 384x1248, batch
normalisation folded: eager, compiled, with CUDA graphs (`max-autotune` is left out: it takes minutes a
network), float32 and bfloat16, and through onnxruntime and TensorRT where these are installed.
The fused regression as Triton kernels against torch's plain formulation, forward and with gradient.

Each part that fails says so in the table and does not stop the others. Writes a table to the screen and all
figures to `gpu.json`, anew after each, so that what was measured stays when the run is cut off. Image sizes
are stated with every figure; other systems' published latencies often leave theirs out, and are not compared
with here.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from formulations import dsnet, stereo_batch

from densedistill.deployment.check import real_images
from densedistill.deployment.export import export
from densedistill.deployment.measure import measure_latency, peak_rates
from densedistill.distillation.objective import Objective
from densedistill.distillation.recompute import recomputed_activations
from densedistill.environment import environment
from densedistill.files import write_text
from densedistill.networks import create_model, list_models
from densedistill.networks.folding import fold_batch_norm
from densedistill.networks.layers.regression import regress_disparity, regress_disparity_reference
from densedistill.networks.precision import channels_last
from densedistill.runtimes import load_runtime
from densedistill.tasks import get_task

NETWORKS = ("dsnet_bb21_ed2_n16", "dsnet_slim", "coex_slim", "tsnnet_naive")
BUDGET = 540  # s


class Log:
    """Figures, the file that holds them, and the time that is left."""

    def __init__(self, budget: float, options: argparse.Namespace) -> None:
        self.smoke, self.output = options.smoke, options.output
        self.rows: list[dict[str, Any]] = []
        self.result: dict[str, Any] = {
            "date": datetime.date.today().isoformat(),
            "environment": environment(),
            "options": vars(options),
        }
        self.end = time.perf_counter() + budget

    def write(self) -> None:
        """Write what there is so far."""
        write_text(self.output, json.dumps({**self.result, "rows": self.rows}, indent=1) + "\n")

    def fact(self, name: str, find: Callable[[], Any]) -> None:
        """Note what `find` returns, or what went wrong."""
        try:
            self.result[name] = find()
        except Exception as error:  # the other figures do not depend on it
            self.result[name] = _note(error)
        print(f"{name}: {self.result[name]}", flush=True)
        self.write()

    def add(self, part: str, what: str, how: str, make: Callable[[], Callable[[], Any]], **more: Any) -> None:
        """Measure the call that `make` returns, unless time is up; what goes wrong becomes the row's note."""
        row: dict[str, Any] = {"part": part, "what": what, "how": how, **more}
        if time.perf_counter() > self.end:
            row["note"] = "left out: time is up"
        else:
            try:
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                    torch.cuda.reset_peak_memory_stats()
                call = make()
                rounds, warm_up = (1, 1) if self.smoke else (more.get("rounds", 50), 5)
                row |= vars(measure_latency({how: call}, rounds, warm_up, 10.0)[how])
                if torch.cuda.is_available():
                    row["memory"] = torch.cuda.max_memory_allocated()
            except Exception as error:  # one runtime's failure must not cost the other figures
                row["note"] = _note(error)
        self.rows.append(row)
        self.write()
        text = row.get("note") or f"p50 {1e3 * row['p50']:9.2f} ms   p99 {1e3 * row['p99']:9.2f} ms"
        text += f"   {row['memory'] / 1e6:6.0f} MB" if "memory" in row else ""
        print(f"{part:10} {what:24} {how:34} {text}", flush=True)


def _note(error: Exception) -> str:
    first = (str(error).strip().splitlines() or ["it does not say why"])[0]
    return f"{type(error).__name__}: {first[:120]}"


def training(log: Log, options: argparse.Namespace) -> None:
    """Time a distillation step: eager, with recomputed activations, compiled."""
    sizes = argparse.Namespace(
        height=options.crop[0],
        width=options.crop[1],
        max_disparity=options.max_disparity,
        batch=options.batch,
    )
    batch = {
        k: v.to(options.device) if isinstance(v, torch.Tensor) else v for k, v in stereo_batch(sizes).items()
    }
    what = f"{options.crop[0]}x{options.crop[1]} batch {options.batch}"
    for how in ("eager", "recomputed", "compiled"):
        for dtype in (torch.float32, torch.bfloat16):

            def make(how: str = how, dtype: torch.dtype = dtype) -> Callable[[], Any]:
                pair = dsnet.networks(sizes)
                student, teacher = (channels_last(network.to(options.device)) for network in pair)
                objective = Objective(dsnet.TERMS, student, {"teacher": teacher})
                fold_batch_norm(teacher, in_place=True)
                if how == "compiled":
                    student.compile(backend=options.backend)
                optimizer = torch.optim.Adam(student.parameters(), 1e-4)

                def step() -> None:
                    optimizer.zero_grad(set_to_none=True)
                    autocast = torch.autocast(options.device, dtype, enabled=dtype is torch.bfloat16)
                    with autocast, recomputed_activations(how == "recomputed"):
                        loss = objective(batch)[0]
                    loss.backward()
                    optimizer.step()

                return step

            name = str(dtype).removeprefix("torch.")
            log.add("training", what, f"{how}, {name}", make, rounds=15)


def inference(log: Log, options: argparse.Namespace) -> None:
    """Time inference in torch in several ways."""
    height, width = options.size
    for name in options.networks:
        what = f"{name} {height}x{width}"
        for dtype in (torch.float32, torch.bfloat16):
            for how in ("eager", "compiled", "CUDA graph"):
                if how == "CUDA graph" and options.device != "cuda":
                    continue
                make = _torch_call(name, how, dtype, options)
                log.add("inference", what, f"{how}, {str(dtype).removeprefix('torch.')}", make)


def _torch_call(
    name: str, how: str, dtype: torch.dtype, options: argparse.Namespace
) -> Callable[[], Callable[[], Any]]:
    def make() -> Callable[[], Any]:
        torch._dynamo.reset()
        network = channels_last(fold_batch_norm(_network(name, options)).to(options.device))
        images = real_images(get_task(network.task), options.size)
        images, _ = network.input_spec.prepare(*(image.to(options.device) for image in images))
        images = [image.contiguous(memory_format=torch.channels_last) for image in images]
        if how == "compiled":
            network.compile(backend=options.backend)

        def call() -> Any:
            with (
                torch.inference_mode(),
                torch.autocast(options.device, dtype, enabled=dtype != torch.float32),
            ):
                return network(*images)

        return _graph(call) if how == "CUDA graph" else call

    return make


def _graph(call: Callable[[], Any]) -> Callable[[], Any]:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()

    def replay(reads: Callable[[], Any] = call) -> None:
        """Run the graph, which reads the weights and images of `reads` where they lie."""
        graph.replay()

    return replay


def runtimes(log: Log, options: argparse.Namespace) -> None:
    """Time inference in other runtimes, images in [0, 1] to predictions."""
    with tempfile.TemporaryDirectory() as folder:
        for name in options.networks:
            for runtime, suffix, weights in (
                ("onnxruntime", ".onnx", "float32"),
                ("tensorrt", ".engine", "float32"),
                ("tensorrt", ".engine", "bfloat16"),
                ("tensorrt", ".engine", "float16"),
            ):
                if importlib.util.find_spec(runtime) is None:
                    continue

                def make(
                    name: str = name, runtime: str = runtime, suffix: str = suffix, weights: str = weights
                ) -> Callable[[], Any]:
                    network = _network(name, options)
                    file = Path(folder) / f"{name}-{weights}{suffix}"
                    # Random weights: how far half precision is from float32 says nothing here.
                    export(network, file, options.size, weights=weights, limit=float("inf"))
                    loaded = load_runtime(file, runtime, device=options.device)
                    if loaded.device.type != options.device:
                        raise RuntimeError(f"this {runtime} does not run on {options.device}")
                    images = [i.to(options.device) for i in real_images(get_task(network.task), options.size)]
                    return lambda: loaded(*images)

                height, width = options.size
                log.add("runtime", f"{name} {height}x{width}", f"{runtime}, {weights} weights", make)


def regression(log: Log, options: argparse.Namespace) -> None:
    """Time the fused regression against the plain one, forward and with gradient."""
    height, width = options.size
    shape = (1, options.max_disparity // 4, height // 4, width // 4)
    for name, function in (("fused", regress_disparity), ("plain", regress_disparity_reference)):
        for backward in (False, True):

            def make(function: Any = function, backward: bool = backward) -> Callable[[], Any]:
                logits = torch.randn(shape, device=options.device, requires_grad=backward)

                def call() -> None:
                    value = function(logits, options.max_disparity, (height, width))
                    if backward:
                        torch.autograd.grad(value.sum(), logits)

                return call

            what = f"{options.max_disparity} levels {height}x{width}"
            log.add("regression", what, f"{name}{', with gradient' if backward else ''}", make)


def _network(name: str, options: argparse.Namespace) -> torch.nn.Module:
    torch.manual_seed(0)
    return create_model(name, max_disparity=options.max_disparity).eval()


def precision_of_one_kernel(options: argparse.Namespace) -> dict[str, float]:
    """Return how far the fused regression is from the plain one here, px."""
    logits = torch.randn(1, options.max_disparity // 4, 32, 64, device=options.device) * 5
    size = (128, 256)
    gap = regress_disparity(logits, options.max_disparity, size) - regress_disparity_reference(
        logits, options.max_disparity, size
    )
    return {"mean": gap.abs().mean().item(), "largest": gap.abs().max().item()}


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", help=f"default: {', '.join(NETWORKS)}")
    parser.add_argument("--size", type=int, nargs=2, default=[384, 1248])
    parser.add_argument("--crop", type=int, nargs=2, default=[256, 512], help="of a training step")
    parser.add_argument("--batch", type=int, default=4, help="of a training step")
    parser.add_argument("--max-disparity", type=int, default=192)
    parser.add_argument("--smoke", action="store_true", help="tiny, on any machine")
    parser.add_argument("--output", default="gpu.json")
    options = parser.parse_args(arguments)
    options.networks = options.networks or [name for name in NETWORKS if name in list_models()]
    options.device = "cuda" if torch.cuda.is_available() else "cpu"
    options.backend = "eager" if options.smoke else "inductor"  # tracing alone, without minutes of compiling
    if options.smoke:
        options.size, options.crop, options.batch, options.max_disparity = [64, 96], [64, 96], 1, 64
        options.networks = options.networks[-1:]
    elif options.device == "cpu":
        sys.exit("this torch sees no GPU; --smoke runs at tiny sizes anywhere")
    options.size, options.crop = tuple(options.size), tuple(options.crop)
    return options


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write."""
    options = parse(arguments)
    log = Log(BUDGET, options)
    log.fact("peak_flops", lambda: peak_rates(options.device, 3 if options.smoke else 20))
    log.fact("regression_difference", lambda: precision_of_one_kernel(options))
    for part in (regression, inference, training, runtimes):
        part(log, options)
    print(f"wrote {options.output}")
    return 0 if all("p50" in row for row in log.rows if row["how"].startswith(("eager", "fused"))) else 1


if __name__ == "__main__":
    sys.exit(main())
