"""ACVNet: attention concatenation volume (CVPR 2022, arXiv 2203.02146).

A group-wise correlation volume gives an attention over disparities, which weighs a concatenation volume
before 3D aggregation. `acvnet` is the authors' current network, `acvnet_small` their first one and DSNet's
teacher, `acvnet_dsnet_teacher` DSNet's copy of it. `acvnet_stage1` and `acvnet_stage2` are `acvnet` in the
first two stages of its training.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ._layout import Layout, aggregation_rules, attention_rules, backbone_rules, pair_entries
from .input_spec import InputSpec
from .layers.aggregation import Aggregation, AttentionBranch, DisparitySoftmax
from .layers.backbone import BB56, Backbone, compression
from .layers.convolution import initialise, part_views
from .layers.pair import check_max_disparity, check_pair, disparity_outputs, stereo_taps
from .layers.regression import regress_disparity
from .layers.volume import Concatenation, GroupwiseCorrelation
from .registry import register_model

# Part of the backbone in DSNet's copy; nothing reads it.
_LASTCONV = {
    **pair_entries("feature_extraction.lastconv.0", (128, 320, 3, 3)),
    "feature_extraction.lastconv.2.weight": (32, 128, 1, 1),
}


class ACVNet(nn.Module):
    """A stereo network with an attention concatenation volume.

    Args:
        attention_width: channels of the attention branch's 3D convolutions, a multiple of 4.
        width: channels N of the aggregated volumes, a multiple of 4.
        blocks: residual blocks in the four stages of the backbone.
        channels: of the first stage, a multiple of 4; the whole backbone scales with it.
        concatenated: channels of each view in the concatenation volume.
        encoders: number of 3D encoder-decoders behind it.
        inner: channels between the two convolutions that reduce it.
        max_disparity: number M of disparities 0 … M-1 px, a multiple of 64.
        attention_only: first stage of training: the attention alone, which is regressed to a disparity.
        freeze_attention: second stage: no gradient for the backbone and the attention, whose batch
            normalisation still follows the data in training mode.
        head0_reads_reduced: see `Aggregation`.

    Raises:
        UserError: an unfit `max_disparity`; views that differ or whose size is not a multiple of 16.
    """

    input_spec = InputSpec(multiple=16, pad="top-right")
    #: Run every head in evaluation mode, too: set on a teacher whose logits are compared.
    all_heads = False

    def __init__(
        self,
        attention_width: int = 32,
        width: int = 32,
        blocks: Sequence[int] = BB56,
        channels: int = 32,
        concatenated: int = 32,
        encoders: int = 2,
        inner: int = 32,
        max_disparity: int = 192,
        attention_only: bool = False,
        freeze_attention: bool = False,
        head0_reads_reduced: bool = False,
    ):
        super().__init__()
        check_max_disparity(max_disparity, 64)
        self.max_disparity = max_disparity
        self.attention_only, self.freeze_attention = attention_only, freeze_attention
        levels = max_disparity // 4
        self.features = Backbone(blocks, channels)
        self.volume = GroupwiseCorrelation(levels, sum(self.features.groups))
        self.attention_branch = AttentionBranch(self.features.groups, attention_width, window_attention=True)
        self.attention = DisparitySoftmax()
        self.compress = compression(self.features.outputs, 4 * channels, concatenated)
        self.concatenation = Concatenation(levels, mask_left=False)
        self.aggregation = Aggregation(
            2 * concatenated,
            width,
            encoders,
            inner,
            window_attention=True,
            head0_reads_reduced=head0_reads_reduced,
        )
        self.taps = {
            **stereo_taps(self.aggregation),
            "attention": ("attention",),
            "attention.logits": ("attention_branch",),
            "volume.patched": ("attention_branch.patch",),
            "volume.concatenation": ("concatenation",),
        }
        self.published = _layout("" if attention_width == 16 else "_", encoders)
        initialise(self)

    def forward(self, left: Tensor, right: Tensor) -> dict[str, Any]:
        """Return `{"disparity": (B, 1, H, W)}` in px; in training mode `"intermediate"`, too.

        `left` and `right` are (B, 3, H, W), normalised. In training mode the first of `"intermediate"` is the
        disparity of the attention, unless the attention is frozen.
        """
        batch, size = check_pair(left, right)

        def regress(logits: Tensor) -> Tensor:
            return regress_disparity(logits, self.max_disparity, size)

        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.freeze_attention):
            features = self.features(torch.cat((left, right)))
            attention_logits = self.attention_branch(self.volume(*part_views(features, batch)))
        if self.attention_only:
            return disparity_outputs([attention_logits], regress, self.training)
        compressed = self.compress(features)
        volume = self.concatenation(*part_views(compressed, batch))
        volume = volume * self.attention(attention_logits).to(volume.dtype)
        logits = self.aggregation(volume, self.training or self.all_heads)
        if not self.freeze_attention:
            logits = [attention_logits, *logits]
        return disparity_outputs(logits, regress, self.training)


def _layout(suffix: str, encoders: int) -> Layout:
    rules = (
        *backbone_rules(),
        *attention_rules(suffix),
        ("concatconv.0.{pair}", "compress.conv.{pair}"),
        ("concatconv.2", "compress.project"),
        *aggregation_rules(encoders, range(encoders + 1)),
    )
    return Layout(rules, ignored=(r"feature_extraction\.lastconv\.",))


@register_model("stereo")
def acvnet(max_disparity: int = 192, attention_only: bool = False, freeze_attention: bool = False) -> ACVNet:
    """The authors' current network; all three stages of its training by the two flags."""
    return ACVNet(
        max_disparity=max_disparity, attention_only=attention_only, freeze_attention=freeze_attention
    )


@register_model("stereo")
def acvnet_stage1(max_disparity: int = 192) -> ACVNet:
    """`acvnet` in the first stage of its training: the attention alone."""
    return ACVNet(max_disparity=max_disparity, attention_only=True)


@register_model("stereo")
def acvnet_stage2(max_disparity: int = 192) -> ACVNet:
    """`acvnet` in the second stage of its training: the attention frozen."""
    return ACVNet(max_disparity=max_disparity, freeze_attention=True)


@register_model("stereo")
def acvnet_small(
    max_disparity: int = 192, attention_only: bool = False, freeze_attention: bool = False
) -> ACVNet:
    """The authors' first network, with an attention branch of width 16: the teacher of DSNet."""
    return ACVNet(
        16, max_disparity=max_disparity, attention_only=attention_only, freeze_attention=freeze_attention
    )


@register_model("stereo")
def acvnet_dsnet_teacher(max_disparity: int = 192) -> ACVNet:
    """DSNet's copy of `acvnet_small`, whose first head reads one block earlier; the same in evaluation."""
    network = ACVNet(16, max_disparity=max_disparity, head0_reads_reduced=True)
    network.published = _layout("", 2).with_unused(_LASTCONV, reads="features")
    return network


@register_model("stereo")
def acvnet_slim(
    blocks: Sequence[int] = (2, 4, 1, 1),
    attention_width: int = 8,
    width: int = 16,
    concatenated: int = 16,
    max_disparity: int = 192,
    attention_only: bool = False,
    freeze_attention: bool = False,
) -> ACVNet:
    """A teacher for CPUs: DSNet's backbone, half of `acvnet`'s widths and channels."""
    return ACVNet(
        attention_width,
        width,
        blocks,
        concatenated=concatenated,
        max_disparity=max_disparity,
        attention_only=attention_only,
        freeze_attention=freeze_attention,
    )
