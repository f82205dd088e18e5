"""DSNet: distilled stereo networks (IJCNN 2023, arXiv 2503.18544).

A slim GwcNet-G: a 2D backbone shared by both views, a group-wise correlation volume, and 3D encoder-decoders.
`dsnet_bb21_ed2_n16` is the DSNet of the paper, `dsnet_bb21_ed2_n16_attention` its DSNet+Attention; the other
`dsnet_bb*` are the rows of its Table III. BB names the backbone, ED the number of encoder-decoders, N their
width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ._layout import Layout, Rule, aggregation_rules, attention_rules, backbone_rules, pair_entries
from .input_spec import InputSpec
from .layers.aggregation import Aggregation, AttentionBranch, DisparitySoftmax
from .layers.backbone import Backbone
from .layers.convolution import initialise, part_views
from .layers.pair import check_max_disparity, check_pair, check_window, disparity_outputs, stereo_taps
from .layers.regression import regress_disparity
from .layers.volume import GroupwiseCorrelation
from .registry import register_model

BB21 = (2, 4, 1, 1)
BB18 = (1, 2, 1, 1)
BB14 = (2, 4, 1, 0)


# Attached to the features of the published N16 networks; nothing reads it.
_PROJECTION = {
    **pair_entries("feature_extraction.feat_trans.0", (120, 320, 1, 1)),
    **pair_entries("feature_extraction.feat_trans.2", (32, 120, 1, 1)),
}


class LearnedMap(nn.Module):
    """One attention map (1, D, H, W) that is a parameter and that only losses read (tap `attention`)."""

    def __init__(self, levels: int, height: int, width: int):
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(1, levels, height, width))

    def forward(self) -> Tensor:
        """Return the map."""
        return self.weights * 1.0  # a new tensor, so that what a tap holds is not the parameter itself


class DSNet(nn.Module):
    """A stereo network of the DSNet family.

    Args:
        blocks: residual blocks in the four stages of the backbone; the fourth may have none.
        encoders: number of 3D encoder-decoders.
        width: channels N of the aggregated volumes.
        attention: weigh the volume by an attention over disparities, as ACVNet's small network does.
        channels: of the first stage, a multiple of 4; the whole backbone scales with it.
        inner: channels between the two convolutions that reduce the volume.
        max_disparity: number M of disparities 0 … M-1 px, a multiple of 16.
        adapters: see `Aggregation`.
        learned_map: (height, width), a quarter of the training crop, of an attention map that is a parameter.
        window: in evaluation mode, px on each side of the likeliest disparity that count for the expected
            one, which keeps the edges of objects sharp; None for all, as published.

    Raises:
        UserError: an unfit `max_disparity` or `window`; views that differ or whose size is no multiple of 16.
    """

    input_spec = InputSpec(multiple=16, pad="top-right")
    #: Run every head in evaluation mode, too: set on a teacher whose logits are compared.
    all_heads = False

    def __init__(
        self,
        blocks: Sequence[int] = BB21,
        encoders: int = 2,
        width: int = 16,
        attention: bool = False,
        channels: int = 32,
        inner: int = 32,
        max_disparity: int = 192,
        adapters: int | None = None,
        learned_map: tuple[int, int] | None = None,
        window: int | None = None,
    ):
        super().__init__()
        check_max_disparity(max_disparity, 16)
        check_window(window)
        self.max_disparity, self.window = max_disparity, window
        levels = max_disparity // 4
        self.features = Backbone(blocks, channels)
        self.volume = GroupwiseCorrelation(levels, sum(self.features.groups))
        self.attention_branch = AttentionBranch(self.features.groups, width) if attention else None
        self.attention = DisparitySoftmax() if attention else None
        self.learned_map = LearnedMap(levels, *learned_map) if learned_map else None
        self.aggregation = Aggregation(sum(self.features.groups), width, encoders, inner, adapters=adapters)
        self.taps = stereo_taps(self.aggregation)
        if attention:
            self.taps["attention"] = ("attention",)
        elif learned_map:
            self.taps["attention"] = ("learned_map",)
        self.published = _layout(encoders)
        initialise(self)

    def forward(self, left: Tensor, right: Tensor) -> dict[str, Any]:
        """Return `{"disparity": (B, 1, H, W)}` in px; in training mode `"intermediate"`, too.

        `left` and `right` are (B, 3, H, W), normalised.
        """
        batch, size = check_pair(left, right)
        features = self.features(torch.cat((left, right)))
        volume = self.volume(*part_views(features, batch))
        if self.attention_branch is not None and self.attention is not None:
            volume = volume * self.attention(self.attention_branch(volume)).to(volume.dtype)
        all_heads = self.training or self.all_heads
        if self.learned_map is not None and all_heads:
            self.learned_map()
        logits = self.aggregation(volume, all_heads)
        window = None if self.training else self.window
        return disparity_outputs(
            logits, lambda x: regress_disparity(x, self.max_disparity, size, window=window), self.training
        )


def _layout(encoders: int) -> Layout:
    heads = (0, 3) if encoders == 1 else range(encoders + 1)
    rules: list[Rule] = [*backbone_rules(), *attention_rules(), *aggregation_rules(encoders, heads)]
    rules += [
        (f"cost_trans32{c}.{{even}}.{{pair}}", f"aggregation.adapters.{i}.{{even}}.{{pair}}")
        for i, c in enumerate("abc")
    ]
    rules.append(("attention_weights", "learned_map.weights"))
    ignored = (r"feature_extraction\.feat_trans\.", r"cost_trans32[abc]\.", "attention_weights$")
    return Layout(tuple(rules), ignored=ignored)


def _published_n16(**options: Any) -> DSNet:
    network = DSNet(width=16, **options)
    network.published = network.published.with_unused(_PROJECTION)
    return network


@register_model("stereo")
def dsnet_bb21_ed3_n32(max_disparity: int = 192) -> DSNet:
    """BB21 of Table III: GwcNet-G with the shorter backbone."""
    return DSNet(encoders=3, width=32, max_disparity=max_disparity)


@register_model("stereo")
def dsnet_bb18_ed3_n32(max_disparity: int = 192) -> DSNet:
    """BB18 of Table III."""
    return DSNet(BB18, encoders=3, width=32, max_disparity=max_disparity)


@register_model("stereo")
def dsnet_bb14_ed3_n32(max_disparity: int = 192) -> DSNet:
    """BB14 of Table III: no fourth stage, 24 groups."""
    return DSNet(BB14, encoders=3, width=32, max_disparity=max_disparity)


@register_model("stereo")
def dsnet_bb21_ed2_n32(max_disparity: int = 192) -> DSNet:
    """BB21-ED2 of Table III."""
    return DSNet(width=32, max_disparity=max_disparity)


@register_model("stereo")
def dsnet_bb21_ed1_n32(max_disparity: int = 192) -> DSNet:
    """BB21-ED1 of Table III."""
    return DSNet(encoders=1, width=32, max_disparity=max_disparity)


@register_model("stereo")
def dsnet_bb21_ed2_n24(max_disparity: int = 192) -> DSNet:
    """BB21-ED2-N24 of Table III."""
    return DSNet(width=24, max_disparity=max_disparity)


@register_model("stereo")
def dsnet_bb21_ed2_n16(max_disparity: int = 192) -> DSNet:
    """BB21-ED2-N16 of Table III: the DSNet of the paper."""
    return _published_n16(max_disparity=max_disparity)


@register_model("stereo")
def dsnet_bb21_ed2_n8(max_disparity: int = 192) -> DSNet:
    """BB21-ED2-N8 of Table III."""
    return DSNet(width=8, max_disparity=max_disparity)


@register_model("stereo")
def dsnet_bb21_ed2_n16_attention(max_disparity: int = 192) -> DSNet:
    """DSNet+Attention of the paper."""
    return _published_n16(attention=True, max_disparity=max_disparity)


@register_model("stereo")
def dsnet_bb21_ed2_n16_adapted(max_disparity: int = 192) -> DSNet:
    """DSNet with the published adapters to its teacher's 32 aggregated channels (tap `encoders`)."""
    return _published_n16(adapters=32, max_disparity=max_disparity)


@register_model("stereo")
def dsnet_bb21_ed2_n16_learned_map(max_disparity: int = 192, size: Sequence[int] = (256, 512)) -> DSNet:
    """DSNet with an attention map that is one free parameter for crops of `size` (tap `attention`)."""
    return _published_n16(learned_map=(size[0] // 4, size[1] // 4), max_disparity=max_disparity)


@register_model("stereo")
def dsnet_slim(
    blocks: Sequence[int] = (1, 2, 1, 1),
    encoders: int = 1,
    width: int = 16,
    max_disparity: int = 192,
    window: int | None = 4,
) -> DSNet:
    """A member of the family for CPUs: half the channels, fewer blocks, one encoder-decoder, sharp edges."""
    return DSNet(blocks, encoders, width, channels=16, inner=16, max_disparity=max_disparity, window=window)


@register_model("stereo")
def gwcnet_slim(max_disparity: int = 192, window: int | None = 4) -> DSNet:
    """A slim GwcNet-G: the teacher that ships, small enough to be trained on a CPU, with sharp edges."""
    return DSNet(
        BB18, encoders=2, width=16, channels=32, inner=16, max_disparity=max_disparity, window=window
    )
