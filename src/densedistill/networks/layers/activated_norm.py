"""Batch normalisation as in-place activated batch normalisation (Rota Bulò et al., CVPR 2018) computes it."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ...errors import UserError


class ActivatedNorm(_BatchNorm):
    """Normalise, scale by `|weight| + eps`, shift, and apply a leaky ReLU of `slope`, if one is given.

    The in-place form saves memory by recomputing its input from its output; values and gradients are those of
    this plain form. A published checkpoint may hold negative weights, whose sign has no effect.

    In training, a single value a channel is normalised by the running statistics, which then stay.

    It is no `nn.BatchNorm2d`, so that nobody folds `weight` itself into a convolution: `split` gives what to.

    Args:
        channels: of the input (B, C, H, W).
        slope: of the leaky ReLU for negative values; None for no activation.
    """

    def __init__(self, channels: int, slope: float | None = None):
        super().__init__(channels, eps=1e-5, momentum=0.1)
        self.slope = slope

    def forward(self, input: Tensor) -> Tensor:
        """Return the normalised `input` (B, C, H, W)."""
        self._check_input_dim(input)
        # One value a channel, a mean over the image of a batch of one, has no variance to be divided by.
        alone = input.numel() == input.shape[1]
        output = F.batch_norm(
            input,
            self.running_mean,
            self.running_var,
            self.weight.abs() + self.eps,
            self.bias,
            self.training and not alone,
            self.momentum or 0.0,
            self.eps,
        )
        return output if self.slope is None else F.leaky_relu(output, self.slope)

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
