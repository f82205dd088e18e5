"""From a cost volume to matching logits: 3D convolutions, encoder-decoders and heads (GwcNet, CVPR 2019)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .convolution import Conv3d, ConvNorm3d
from .encoder_decoder import EncoderDecoder


class Head(nn.Sequential):
    """Matching logits (B, 1, D, H, W) from an aggregated volume (B, N, D, H, W)."""

    def __init__(self, width: int):
        super().__init__(
            OrderedDict(conv=ConvNorm3d(width, width), logits=Conv3d(width, 1, 3, padding=1, bias=False))
        )


class Residual(nn.Sequential):
    """Two 3D convolutions whose result is added to their input, without activation."""

    def __init__(self, width: int):
        super().__init__(ConvNorm3d(width, width), ConvNorm3d(width, width, relu=False))

    def forward(self, volume: Tensor) -> Tensor:
        """Return (B, N, D, H, W) for `volume` of that shape."""
        return super().forward(volume) + volume


class Aggregation(nn.Module):
    """Logits of every head from a cost volume, coarse to final.

    Args:
        volume_channels: channels V of the cost volume.
        width: channels N of the aggregated volumes.
        encoders: number of encoder-decoders.
        inner: channels between the two convolutions that reduce V to N.
        window_attention: see `EncoderDecoder`.
        first_head: 0 for a head before the encoder-decoders, too; 1 for heads after them only.
        head0_reads_reduced: the head before the encoder-decoders reads the reduced volume before the residual
            block (DSNet's copy of ACVNet); the final disparity does not depend on it.
        adapters: channels to which the aggregated volumes are brought, for a term that compares them with a
            wider teacher's; the adapted volumes reach no output and are computed where all heads are.
    """

    def __init__(
        self,
        volume_channels: int,
        width: int,
        encoders: int,
        inner: int = 32,
        window_attention: bool = False,
        first_head: int = 0,
        head0_reads_reduced: bool = False,
        adapters: int | None = None,
    ):
        super().__init__()
        self.first_head, self.head0_reads_reduced = first_head, head0_reads_reduced
        self.reduce = nn.Sequential(ConvNorm3d(volume_channels, inner), ConvNorm3d(inner, width))
        self.residual = Residual(width)
        self.encoders = nn.ModuleList(EncoderDecoder(width, window_attention) for _ in range(encoders))
        self.heads = nn.ModuleList(Head(width) for _ in range(encoders + 1 - first_head))
        adapted = 0 if adapters is None else encoders + 1
        self.adapters = nn.ModuleList(_adapter(width, adapters or width) for _ in range(adapted))

    def forward(self, volume: Tensor, all_heads: bool) -> list[Tensor]:
        """Return the logits (B, 1, D, H, W) of all heads, or of the last, for `volume` (B, V, D, H, W)."""
        state = reduced = self.reduce(volume)
        logits = []
        for i, step in enumerate((self.residual, *self.encoders)):
            state = step(state)
            if not all_heads:
                continue
            if self.adapters:
                self.adapters[i](state)
            if i >= self.first_head:  # at once, so that in training no state is held longer than needed
                reads_reduced = i == 0 and self.head0_reads_reduced
                logits.append(self.heads[i - self.first_head](reduced if reads_reduced else state))
        return logits if all_heads else [self.heads[-1](state)]


class AttentionBranch(nn.Module):
    """Attention logits over disparities from a group-wise volume (ACVNet, CVPR 2022, section 3.2).

    Args:
        splits: groups of the volume that come from each backbone stage, which have their own patch size.
        width: channels of the 3D convolutions.
        window_attention: see `EncoderDecoder`.
    """

    def __init__(self, splits: Sequence[int], width: int, window_attention: bool = False):
        super().__init__()
        self.splits = tuple(splits)
        groups = sum(splits)
        self.patch = _patch_convolution(groups, 1)
        self.patches = nn.ModuleList(_patch_convolution(split, i + 1) for i, split in enumerate(splits))
        self.reduce = nn.Sequential(ConvNorm3d(groups, width), ConvNorm3d(width, width, relu=False))
        self.encoder = EncoderDecoder(width, window_attention)
        self.head = Head(width)

    def forward(self, volume: Tensor) -> Tensor:
        """Return (B, 1, D, H, W) for `volume` (B, G, D, H, W)."""
        parts = self.patch(volume).split(self.splits, 1)
        patched = torch.cat([patch(part) for patch, part in zip(self.patches, parts, strict=True)], 1)
        return self.head(self.encoder(self.reduce(patched)))


class DisparitySoftmax(nn.Module):
    """Softmax over the disparities of logits (B, 1, D, H, W), computed in float32 or better."""

    def forward(self, logits: Tensor) -> Tensor:
        """Return the attention (B, 1, D, H, W), summing to 1 over D."""
        return logits.softmax(2, dtype=torch.float64 if logits.dtype == torch.float64 else torch.float32)


def _adapter(width: int, channels: int) -> nn.Sequential:
    return nn.Sequential(ConvNorm3d(width, channels), ConvNorm3d(channels, channels, relu=False))


def _patch_convolution(channels: int, dilation: int) -> Conv3d:
    """Return a depthwise 3x3 convolution over height and width of every disparity."""
    return Conv3d(
        channels,
        channels,
        (1, 3, 3),
        padding=(0, dilation, dilation),
        dilation=(1, dilation, dilation),
        groups=channels,
        bias=False,
    )
