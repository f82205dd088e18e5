"""In which form is the regression over disparities fastest in other runtimes?

    python benchmarks/exported_regression.py

The same arithmetic (upsample logits, softmax over levels, expectation) written in four ways with standard
operators, each exported to ONNX for any size and timed in onnxruntime and OpenVINO on one thread, beside the
fused form in torch, with its mean difference to the plain one. `regress_disparity` traces the last of them.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import openvino
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from densedistill.networks.layers.level_sums import interpolation_matrix
from densedistill.networks.layers.regression import regress_disparity, regress_disparity_reference


class Form(nn.Module):
    """One way to write it; logits are (B, D, h, w), a quarter of the output's size."""

    def __init__(self, compute: Callable[[Tensor, Tensor, Tensor], Tensor], coarse: int, fine: int):
        super().__init__()
        self.compute = compute
        matrix = interpolation_matrix.__wrapped__(coarse, fine, False, torch.float32, torch.device("cpu"))
        self.register_buffer("matrix", matrix)
        self.register_buffer("levels", torch.arange(fine, dtype=torch.float32))

    def forward(self, logits: Tensor) -> Tensor:
        return self.compute(logits, self.matrix, self.levels)


def resized(x: Tensor) -> Tensor:
    return F.interpolate(x, (4 * x.shape[2], 4 * x.shape[3]), mode="bilinear", align_corners=False)


def fine_convolution(x: Tensor, matrix: Tensor, levels: Tensor) -> Tensor:
    probability = F.conv2d(resized(x), matrix[:, :, None, None]).softmax(1)
    return F.conv2d(probability, levels.view(1, -1, 1, 1))


def coarse_convolution(x: Tensor, matrix: Tensor, levels: Tensor) -> Tensor:
    probability = resized(F.conv2d(x, matrix[:, :, None, None])).softmax(1)
    return F.conv2d(probability, levels.view(1, -1, 1, 1))


def coarse_product(x: Tensor, matrix: Tensor, levels: Tensor) -> Tensor:
    x = torch.matmul(x.permute(0, 2, 3, 1), matrix.T).permute(0, 3, 1, 2)
    return torch.matmul(resized(x).permute(0, 2, 3, 1).softmax(-1), levels[:, None]).permute(0, 3, 1, 2)


def fine_product(x: Tensor, matrix: Tensor, levels: Tensor) -> Tensor:
    probability = torch.matmul(resized(x).permute(0, 2, 3, 1), matrix.T).softmax(-1)
    return torch.matmul(probability, levels[:, None]).permute(0, 3, 1, 2)


FORMS = (fine_convolution, coarse_convolution, coarse_product, fine_product)


def least(call: Callable[[], object], repeats: int) -> float:
    """Return the least seconds of `repeats` calls after one."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, nargs=2, default=[256, 512], help="of the disparity")
    parser.add_argument("--max-disparity", type=int, nargs="+", default=[64, 192])
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    height, width = options.size
    print(f"{'levels':>6}  {'form':20}{'onnxruntime':>12}{'OpenVINO':>12}{'difference':>12}")
    for fine in options.max_disparity:
        logits = torch.randn(1, fine // 4, height // 4, width // 4) * 5
        truth = regress_disparity_reference(logits, fine, (height, width))
        for form in FORMS:
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "form.onnx"
                dims = {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
                torch.onnx.export(
                    Form(form, fine // 4, fine).eval(),
                    (logits,),
                    file,
                    dynamo=True,
                    input_names=["logits"],
                    dynamic_shapes=(dims,),
                    verbose=False,
                )
                session = onnxruntime.InferenceSession(file, settings, providers=["CPUExecutionProvider"])
                hints = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
                compiled = openvino.Core().compile_model(file, "CPU", hints)
                feed = {"logits": logits.numpy()}
                seconds = [
                    least(lambda s=session, f=feed: s.run(None, f), options.repeats),
                    least(lambda c=compiled, f=feed: c(f), options.repeats),
                ]
                gap = (torch.from_numpy(session.run(None, feed)[0]) - truth).abs().mean()
            cells = "".join(f"{1e3 * value:9.0f} ms" for value in seconds)
            print(f"{fine:6}  {form.__name__:20}{cells}{gap:12.1e}", flush=True)
        with torch.inference_mode():
            fused = least(lambda x=logits, m=fine: regress_disparity(x, m, (height, width)), options.repeats)
        print(f"{fine:6}  {'torch, fused':20}{1e3 * fused:9.0f} ms")


if __name__ == "__main__":
    main()
