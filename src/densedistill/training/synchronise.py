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

        for module in list(model.modules()):
            for name, child in module.named_children():
                if isinstance(child, ActivatedNorm):
                    child.synchronised = True
                elif isinstance(child, _BatchNorm):
                    setattr(module, name, convert_sync_batchnorm(child))
        return model

    def revert(self, model: nn.Module) -> nn.Module:
        """Return `model` as it is: what a run keeps are weights, which are those of any form."""
        return model
