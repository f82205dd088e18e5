"""In-place activated normalisation over two processes: values, gradients and statistics of one with both
batches."""

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from densedistill.networks.layers.activated_norm import ActivatedNorm


def _norm():
    norm = ActivatedNorm(5, 0.01).double()
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(-1.5, 1.5, 5))
        norm.bias.copy_(torch.linspace(0.3, -0.3, 5))
    return norm


def _batch():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 5, 4, 6, generator=generator, dtype=torch.float64)
    x[1] = 3 * x[1] + 2  # so that the processes' means and variances differ
    return x, torch.randn(2, 5, 4, 6, generator=generator, dtype=torch.float64)


def _process(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    try:
        (x, slope), whole, own = _batch(), _norm(), _norm()
        both = x.clone().requires_grad_()
        expected = whole(both)
        (expected * slope).sum().backward()
        own.synchronised = True
        part = x[rank : rank + 1].clone().requires_grad_()
        output = own(part)
        torch.testing.assert_close(output, expected[rank : rank + 1])
        (output * slope[rank : rank + 1]).sum().backward()
        torch.testing.assert_close(part.grad, both.grad[rank : rank + 1])
        dist.all_reduce(own.weight.grad)
        torch.testing.assert_close(own.weight.grad, whole.weight.grad)
        for statistic in ("running_mean", "running_var"):
            torch.testing.assert_close(getattr(own, statistic), getattr(whole, statistic))
    finally:
        dist.destroy_process_group()


def test_two_processes_normalise_as_one_with_both_batches(tmp_path):
    multiprocessing.spawn(_process, args=(str(tmp_path),), nprocs=2)


def test_a_single_value_a_channel_is_normalised_by_the_statistics_so_far():
    norm, x = _norm().train(), torch.rand(1, 5, 1, 1, dtype=torch.float64)
    norm.running_mean.uniform_(-1, 1)
    before = norm.running_mean.clone()
    output = norm(x)
    assert torch.equal(norm.running_mean, before)
    torch.testing.assert_close(output, norm.eval()(x))
