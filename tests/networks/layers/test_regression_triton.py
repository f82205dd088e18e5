"""The Triton kernels equal the plain formulation, on a GPU or, without one, in Triton's interpreter.

What the interpreter takes a compiler may refuse, so they are compiled for a GPU, too, which wants none.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from densedistill.networks.layers.regression import (
    disparity_cross_entropy_reference,
    disparity_kl_reference,
    regress_disparity_reference,
)

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHAPES = [((3, 2, 3), 8, (3, 5)), ((4, 3, 3), 3, (2, 2))]


def draw(shape, seed=0, scale=3.0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(2, *shape, generator=generator) * scale).to(DEVICE)


def check_regression(kernels, coarse, levels, size, align_corners, window):
    logits = draw(coarse).requires_grad_()
    truth = regress_disparity_reference(logits, levels, size, align_corners, window)
    gradient = draw((1, *size), seed=1)
    (truth_gradient,) = torch.autograd.grad(truth, logits, gradient)
    options = (levels, *size, align_corners, window)
    value = kernels.expected_disparity(logits.detach(), *options)
    back = kernels.expected_disparity_backward(gradient, logits.detach(), *options)
    torch.testing.assert_close(value, truth.detach(), atol=1e-4, rtol=0)
    torch.testing.assert_close(back, truth_gradient, atol=1e-4, rtol=1e-3)


def check_divergence(kernels, coarse, levels, size, entropy, masked):
    student, teacher = draw(coarse).requires_grad_(), draw((coarse[0] + 1, 2, 5), seed=1)
    mask = torch.rand(2, 1, *size, device=DEVICE) > 0.4 if masked else None
    reference = disparity_kl_reference if entropy else disparity_cross_entropy_reference
    truth = reference(
        student, teacher, levels, size, mask, reduction="sum", align_corners=False, teacher_align_corners=True
    )
    (truth_gradient,) = torch.autograd.grad(truth, student)
    value, gradient = kernels.divergence(
        student.detach(), teacher, mask, levels, *size, False, True, entropy, True
    )
    torch.testing.assert_close(value.float(), truth.detach(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(gradient, truth_gradient, atol=1e-4, rtol=1e-3)


def check_huge_logits(kernels):
    logits = draw((4, 2, 2), scale=1e5)
    assert kernels.expected_disparity(logits, 16, 4, 4, False).isfinite().all()
    ones = torch.ones(2, 1, 4, 4, device=DEVICE)
    assert kernels.expected_disparity_backward(ones, logits, 16, 4, 4, False).isfinite().all()


def main():
    from densedistill.networks.layers import regression_triton as kernels

    cases = 0
    for shape in SHAPES:
        for one in (False, True):
            for window in (None, 1):
                check_regression(kernels, *shape, one, window)
                cases += 1
            for other in (False, True):
                check_divergence(kernels, *shape, one, other)
                cases += 1
    check_huge_logits(kernels)
    print(f"{cases + 1} cases passed")


class Compiled:
    """Stands in for a kernel: a launch compiles it for a GPU, for arguments of these types."""

    def __init__(self, kernel):
        self.kernel = kernel

    def __getitem__(self, grid):
        return self.launch

    def launch(self, *given, **constants):
        import triton
        from triton.backends.compiler import GPUTarget

        names = {torch.float32: "*fp32", torch.int32: "*i32", torch.uint8: "*u8"}
        arguments = dict(zip(self.kernel.arg_names, given, strict=False))
        constants |= {name: 1 for name, value in arguments.items() if type(value) is int and value == 1}
        types = {n: names[v.dtype] if isinstance(v, torch.Tensor) else "i32" for n, v in arguments.items()}
        signature = {name: types.get(name) for name in self.kernel.arg_names}
        signature |= dict.fromkeys(constants, "constexpr")
        source = triton.compiler.ASTSource(self.kernel, signature, constants)
        assert triton.compile(source, target=GPUTarget("cuda", 80, 32)).asm["ptx"]


def main_compile():
    from densedistill.networks.layers import regression_triton as kernels

    for name in ("_regress_kernel", "_divergence_kernel"):
        setattr(kernels, name, Compiled(getattr(kernels, name)))
    on, device_of = [], torch.cuda.device_of
    torch.cuda.device_of = lambda tensor: on.append(tensor) or device_of(tensor)
    logits, tiny = torch.zeros(2, 4, 3, 5), torch.zeros(1, 1, 1, 1)
    for window in (None, 2):
        kernels.expected_disparity(logits, 16, 12, 20, False, window)
    kernels.expected_disparity(tiny, 1, 1, 1, True)
    kernels.expected_disparity_backward(torch.ones(2, 1, 12, 20), logits, 16, 12, 20, False)
    kernels.divergence(logits, logits, torch.ones(2, 1, 12, 20).bool(), 16, 12, 20, False, True, True, True)
    kernels.divergence(logits, tiny.expand(2, -1, -1, -1), None, 16, 12, 20, False, False, False, False)
    # Triton launches on the current device, which need not be the tensors'.
    assert len(on) == 6
    print("6 cases passed")


def run_alone(*arguments, **variables):
    """Run this file: Triton decides at its import whether it interprets, and this process may have
    imported it."""
    if importlib.util.find_spec("triton") is None:
        assert sys.platform not in ("linux", "win32")  # elsewhere there is no Triton, and nothing to test
        return
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **variables}
    command = [sys.executable, str(Path(__file__)), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("cases passed")


@pytest.mark.full
def test_kernels_equal_the_reference_and_stay_finite():
    run_alone(**({"TRITON_INTERPRET": "1"} if DEVICE == "cpu" else {}))


@pytest.mark.full
def test_kernels_compile_for_a_gpu_and_are_launched_on_that_of_their_tensors(tmp_path):
    run_alone("compile", TRITON_INTERPRET="0", TRITON_CACHE_DIR=str(tmp_path))


@pytest.mark.skipif(
    DEVICE == "cuda" or importlib.util.find_spec("triton") is None, reason="without Triton or a GPU for it"
)
def test_where_triton_cannot_launch_the_chunked_way_is_taken_and_said():
    from densedistill.networks.layers import regression, regression_triton

    regression_triton.runs_here.cache_clear()
    with pytest.warns(UserWarning, match="Triton does not run here"):
        assert regression._kernels(torch.zeros(1)) is regression.chunked


if __name__ == "__main__":
    main_compile() if "compile" in sys.argv else main()
