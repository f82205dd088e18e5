"""Batch normalisation as in-place activated batch normalisation (Rota Bulò et al., CVPR 2018) computes it."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ...errors import UserError
from .image import at_least_float32


class ActivatedNorm(_BatchNorm):
    """Normalise, scale by `|weight| + eps`, shift, and apply a leaky ReLU of `slope`, if one is given.

    The in-place form saves memory by recomputing its input from its output; values and gradients are those of
    this plain form. A published checkpoint may hold negative weights, whose sign has no effect.

    In training, a single value a channel is normalised by the running statistics, which then stay. With
    `synchronised` the statistics are those of all processes, each of equal weight, as published.

    It is no `nn.BatchNorm2d`, so that nobody folds `weight` itself into a convolution: `split` gives what to.

    Args:
        channels: of the input (B, C, H, W).
        slope: of the leaky ReLU for negative values; None for no activation.
    """

    def __init__(self, channels: int, slope: float | None = None):
        super().__init__(channels, eps=1e-5, momentum=0.1)
        self.slope = slope
        self.synchronised = False

    def forward(self, input: Tensor) -> Tensor:
        """Return the normalised `input` (B, C, H, W)."""
        self._check_input_dim(input)
        if self.training and self.synchronised and dist.is_initialized() and dist.get_world_size() > 1:
            output = self._across_processes(input)
        else:
            output = self._alone(input)
        return output if self.slope is None else F.leaky_relu(output, self.slope)

    def _alone(self, input: Tensor) -> Tensor:
        # One value a channel, a mean over the image of a batch of one, has no variance to be divided by.
        alone = input.numel() == input.shape[1]
        return F.batch_norm(
            input,
            self.running_mean,
            self.running_var,
            self.weight.abs() + self.eps,
            self.bias,
            self.training and not alone,
            self.momentum or 0.0,
            self.eps,
        )

    def _across_processes(self, input: Tensor) -> Tensor:
        x = at_least_float32(input)
        processes = dist.get_world_size()
        variance, mean = torch.var_mean(x, (0, 2, 3), correction=0)
        pooled = _Sum.apply(mean) / processes
        variance = _Sum.apply(variance + (mean - pooled).square()) / processes
        with torch.no_grad():
            count = processes * x.numel() / x.shape[1]
            rate = self.momentum or 0.0
            assert self.running_mean is not None
            assert self.running_var is not None
            self.running_mean.lerp_(pooled.to(self.running_mean), rate)
            self.running_var.lerp_((variance * count / (count - 1)).to(self.running_var), rate)
        scale = (variance + self.eps).rsqrt() * (self.weight.abs() + self.eps)
        return torch.addcmul((self.bias - pooled * scale)[:, None, None], x, scale[:, None, None]).to(input)

    def split(self) -> tuple[nn.BatchNorm2d, nn.Module]:
        """Return the plain normalisation of its statistics, and the activation after it, for inference."""
        plain = nn.BatchNorm2d(self.num_features, eps=self.eps).to(self.weight)
        plain.load_state_dict({**self.state_dict(), "weight": self.weight.abs() + self.eps})
        return plain.eval(), nn.Identity() if self.slope is None else nn.LeakyReLU(self.slope)

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim != 4:
            raise UserError(f"an activated normalisation takes (B, C, H, W), got {tuple(input.shape)}")

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, slope={self.slope}"


class _Sum(torch.autograd.Function):
    """The sum over all processes, and of their gradients."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        tensor = tensor.clone()
        dist.all_reduce(tensor)
        return tensor

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient)
        return gradient
