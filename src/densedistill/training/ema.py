"""A moving average of a network's weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """Exponential moving average of everything in a network's state, statistics included.

    After step t the decay is min(decay, (1 + t) / (10 + t)), so that an early average is not the
    initialisation.

    Args:
        network: averaged from its present state on.
        decay: share of the old average that stays at each step.
    """

    def __init__(self, network: nn.Module, decay: float):
        self.network, self.decay = network, decay
        self.state = {k: v.detach().clone() for k, v in network.state_dict().items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the network's weights after `step` steps."""
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        for name, value in self.network.state_dict().items():
            average = self.state[name] = self.state[name].to(value.device)  # training moves the network
            if value.is_floating_point():
                average.lerp_(value.to(average.dtype), share)
            else:
                average.copy_(value)

    def load(self, state: dict[str, Tensor]) -> None:
        """Continue from a saved `state`."""
        for name, value in state.items():
            self.state[name].copy_(value)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Give the network the averaged weights for the length of a `with` block."""
        own = {k: v.detach().clone() for k, v in self.network.state_dict().items()}
        self.network.load_state_dict(self.state)
        try:
            yield
        finally:
            self.network.load_state_dict(own)
