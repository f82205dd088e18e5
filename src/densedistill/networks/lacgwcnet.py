"""Lac-GwcNet: local similarity patterns and cost self-reassembling (AAAI 2022, arXiv 2112.01011).

GwcNet with a concatenation volume of features that know their neighbourhood, a regression in a window around
the likeliest disparity, and a refinement that re-assembles the logits of every pixel from two others.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._layout import Layout, Rule, aggregation_rules, backbone_rules
from .input_spec import InputSpec
from .layers.aggregation import Aggregation
from .layers.backbone import Backbone, compression
from .layers.convolution import ConvNorm2d, initialise, laid_out_like, part_views
from .layers.pair import check_max_disparity, check_pair, disparity_outputs, stereo_taps
from .layers.reassembly import CostReassembling, guidance_rules
from .layers.regression import upsample_logits
from .layers.volume import Concatenation
from .registry import register_model

_DILATIONS = (1, 2, 4, 8)


class LocalSimilarity(nn.Module):
    """How alike a feature and its eight neighbours are, at four distances (section 3.2).

    Args:
        inputs: channels of the feature.
        channels: of the result for each distance.
    """

    def __init__(self, inputs: int, channels: int = 4):
        super().__init__()
        self.embedding = compression(inputs, 64, 64)
        self.reduce = nn.ModuleList(ConvNorm2d(8, channels, 1) for _ in _DILATIONS)

    def forward(self, feature: Tensor) -> Tensor:
        """Return (B, 4 * channels, h, w) for `feature` (B, inputs, h, w)."""
        embedded = F.normalize(self.embedding(feature), dim=1)
        parts = zip(self.reduce, _DILATIONS, strict=True)
        return torch.cat([reduce(neighbour_similarity(embedded, dilation)) for reduce, dilation in parts], 1)


def neighbour_similarity(feature: Tensor, dilation: int) -> Tensor:
    """Return the dot products with the eight neighbours at `dilation`, row by row, negative ones as 0.

    `feature` is (B, C, h, w), the result (B, 8, h, w); what lies outside counts as 0.
    """
    height, width = feature.shape[-2:]
    padded = F.pad(feature, [dilation] * 4)
    products = []
    for y in range(3):
        for x in range(3):
            if (y, x) != (1, 1):
                top, left = y * dilation, x * dilation
                neighbour = padded[..., top : top + height, left : left + width]
                products.append((feature * neighbour).sum(1, keepdim=True))
    return laid_out_like(torch.cat(products, 1), feature).relu()


def regress_window(logits: Tensor, radius: int = 5) -> Tensor:
    """Return the expected disparity in a window around the likeliest one (section 3.4).

    Indices beyond the first or last disparity are clamped and count repeatedly, as in the published code.

    Args:
        logits: at full size (B, M, H, W).
        radius: disparities on either side of the likeliest.

    Returns:
        Disparity (B, 1, H, W) in px.
    """
    probability = logits.softmax(1)
    offsets = torch.arange(-radius, radius + 1, device=logits.device).view(1, -1, 1, 1)
    index = (probability.argmax(1, keepdim=True) + offsets).clamp(0, logits.shape[1] - 1)
    weight = probability.gather(1, index)
    weight = weight / (weight.sum(1, keepdim=True) + 1e-8)
    return (weight * index).sum(1, keepdim=True)


def regress_all(logits: Tensor) -> Tensor:
    """Return the expected disparity (B, 1, H, W) in px of logits at full size (B, M, H, W)."""
    levels = torch.arange(logits.shape[1], dtype=logits.dtype, device=logits.device).view(1, -1, 1, 1)
    return (logits.softmax(1) * levels).sum(1, keepdim=True)


class LacGwcNet(nn.Module):
    """Lac-GwcNet.

    Args:
        refinement: re-assemble the final logits under guidance of the left image.
        windowed: regress in a window around the likeliest disparity; else over all.
        max_disparity: number M of disparities 0 … M-1 px, a multiple of 16.

    Raises:
        UserError: an unfit `max_disparity`; views that differ or whose size is not a multiple of 16.
    """

    input_spec = InputSpec(multiple=16, pad="top-right")
    #: Run every head in evaluation mode, too: set on a teacher whose logits are compared.
    all_heads = False
    #: How logits are upsampled, for losses over disparities.
    align_corners = True

    def __init__(self, refinement: bool = True, windowed: bool = True, max_disparity: int = 192):
        super().__init__()
        check_max_disparity(max_disparity, 16)
        self.max_disparity = max_disparity
        self.regress = regress_window if windowed else regress_all
        self.features = Backbone()
        self.stages = [8 * groups for groups in self.features.groups]
        self.similarity = nn.ModuleList(LocalSimilarity(stage) for stage in self.stages)
        self.compress = compression(self.features.outputs + 3 * 16, 128, 32)
        self.volume = Concatenation(max_disparity // 4)
        self.aggregation = Aggregation(64, width=32, encoders=3, first_head=1)
        self.refinement = CostReassembling() if refinement else None
        self.taps = stereo_taps(self.aggregation)
        if refinement:
            self.taps["refinement"] = ("refinement",)
        self.published = _layout()
        initialise(self)

    def forward(self, left: Tensor, right: Tensor) -> dict[str, Any]:
        """Return `{"disparity": (B, 1, H, W)}` in px; in training mode `"intermediate"`, too.

        `left` and `right` are (B, 3, H, W), normalised. `"intermediate"` has the three heads' disparities
        and the refined one.
        """
        batch, size = check_pair(left, right)
        features = self.features(torch.cat((left, right)))
        # The patterns see the features without gradient: they describe them and do not shape them.
        stages = features.detach().split(self.stages, 1)
        patterns = [pattern(stage) for pattern, stage in zip(self.similarity, stages, strict=True)]
        compressed = self.compress(torch.cat((features, *patterns), 1))
        volume = self.volume(*part_views(compressed, batch))
        logits = self.aggregation(volume, self.training or self.all_heads)
        if not self.training:
            logits = logits[-1:]
        logits = [upsample_logits(one, self.max_disparity, size, self.align_corners) for one in logits]
        if self.refinement is not None:
            logits.append(self.refinement(logits[-1], left))
        return disparity_outputs(logits, self.regress, self.training)


def _layout() -> Layout:
    rules: list[Rule] = [*backbone_rules(), *aggregation_rules(3, (1, 2, 3)), *guidance_rules()]
    rules += (
        ("feature_extraction.lastconv.0.{pair}", "compress.conv.{pair}"),
        ("feature_extraction.lastconv.2", "compress.project"),
    )
    for i in range(3):
        embedding, reduce = f"feature_extraction.embedding_l{i + 2}", f"feature_extraction.to_sf_l{i + 2}"
        rules.append((embedding + ".0.{pair}", f"similarity.{i}.embedding.conv.{{pair}}"))
        rules.append((embedding + ".2", f"similarity.{i}.embedding.project"))
        for j in range(4):
            rules.append((f"{reduce}.sfc_conv{j + 1}.0.{{pair}}", f"similarity.{i}.reduce.{j}.{{pair}}"))
    return Layout(tuple(rules), ignored=(r"refine_module\.",))


@register_model("stereo")
def lacgwcnet(refinement: bool = True, windowed: bool = True, max_disparity: int = 192) -> LacGwcNet:
    """Lac-GwcNet as published for SceneFlow, with refinement."""
    return LacGwcNet(refinement, windowed, max_disparity)
