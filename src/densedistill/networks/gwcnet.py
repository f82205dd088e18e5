"""GwcNet: group-wise correlation stereo network (CVPR 2019, arXiv 1903.04025).

`gwcnet_g` has the group-wise correlation volume alone and is the BB56-ED3-N32 of the DSNet paper; `gwcnet_gc`
has a concatenation volume beside it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ._layout import Layout, aggregation_rules, backbone_rules
from .input_spec import InputSpec
from .layers.aggregation import Aggregation
from .layers.backbone import Backbone, compression
from .layers.convolution import initialise, part_views
from .layers.pair import check_max_disparity, check_pair, disparity_outputs, stereo_taps
from .layers.regression import regress_disparity
from .layers.volume import Concatenation, GroupwiseCorrelation
from .registry import register_model


class GwcNet(nn.Module):
    """A stereo network with a group-wise correlation volume and three encoder-decoders.

    Args:
        concatenated: channels of each view in the concatenation volume; 0 for none.
        max_disparity: number M of disparities 0 … M-1 px, a multiple of 16.

    Raises:
        UserError: an unfit `max_disparity`; views that differ or whose size is not a multiple of 16.
    """

    input_spec = InputSpec(multiple=16, pad="top-right")
    #: Run every head in evaluation mode, too: set on a teacher whose logits are compared.
    all_heads = False
    published = Layout(
        (
            *backbone_rules(),
            ("feature_extraction.lastconv.0.{pair}", "compress.conv.{pair}"),
            ("feature_extraction.lastconv.2", "compress.project"),
            *aggregation_rules(3, range(4)),
        )
    )

    def __init__(self, concatenated: int = 0, max_disparity: int = 192):
        super().__init__()
        check_max_disparity(max_disparity, 16)
        self.max_disparity = max_disparity
        levels = max_disparity // 4
        self.features = Backbone()
        groups = sum(self.features.groups)
        self.volume = GroupwiseCorrelation(levels, groups)
        self.compress = compression(self.features.outputs, 128, concatenated) if concatenated else None
        self.concatenation = Concatenation(levels) if concatenated else None
        self.aggregation = Aggregation(groups + 2 * concatenated, width=32, encoders=3)
        self.taps = stereo_taps(self.aggregation)
        initialise(self)

    def forward(self, left: Tensor, right: Tensor) -> dict[str, Any]:
        """Return `{"disparity": (B, 1, H, W)}` in px; in training mode `"intermediate"`, too.

        `left` and `right` are (B, 3, H, W), normalised.
        """
        batch, size = check_pair(left, right)
        features = self.features(torch.cat((left, right)))
        volume = self.volume(*part_views(features, batch))
        if self.compress is not None and self.concatenation is not None:
            compressed = self.compress(features)
            concatenated = self.concatenation(*part_views(compressed, batch))
            volume = torch.cat((volume, concatenated.to(volume.dtype)), 1)
        logits = self.aggregation(volume, self.training or self.all_heads)
        return disparity_outputs(
            logits, lambda x: regress_disparity(x, self.max_disparity, size), self.training
        )


@register_model("stereo")
def gwcnet_g(max_disparity: int = 192) -> GwcNet:
    """GwcNet-G: the correlation volume alone."""
    return GwcNet(max_disparity=max_disparity)


@register_model("stereo")
def gwcnet_gc(max_disparity: int = 192) -> GwcNet:
    """GwcNet-GC: 12 concatenated channels of each view beside the correlation volume."""
    return GwcNet(concatenated=12, max_disparity=max_disparity)
