"""Batch normalisation over all processes."""

from __future__ import annotations

from lightning.pytorch.plugins.layer_sync import LayerSync
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..networks.layers.activated_norm import ActivatedNorm


class SynchronisedNorms(LayerSync):
    """Has every batch normalisation take the statistics of all processes.

    torch's own conversion puts plain normalisations in the place of all, and so drops the activation that
    timm's and the in-place activated ones end with.
    """

    def apply(self, model: nn.Module) -> nn.Module:
        """Convert the normalisations of `model`, in place, and return it."""
        from timm.layers import convert_sync_batchnorm

        for module in model.modules():
            if isinstance(module, ActivatedNorm):
                module.synchronised = True
            elif isinstance(module, _BatchNorm):
                # The module itself stays, and with it the hooks of taps.
                module.__class__ = type(convert_sync_batchnorm(module))
                setattr(module, "process_group", None)  # noqa: B010
        return model

    def revert(self, model: nn.Module) -> nn.Module:
        """Return `model` as it is: what a run keeps are weights, which are those of any form."""
        return model
