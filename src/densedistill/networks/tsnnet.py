"""TSNnet: stereo matching with 2D convolutions alone, in three sizes that teach each other in a cascade.

A feature network at a quarter of the size, a cost volume with one channel a disparity, a detector whose
sixteen classes of disparity become an attention over the levels, 2D hourglasses over the volume, and the
expectation under the upsampled distribution. Published as code; there is no paper and there are no weights.

The published student is larger and slower than its teacher (3x3 convolutions reduce its features):
`tsnnet_student` is that network, `tsnnet_student_compact`, with 1x1 in their place, has the size that the
README states.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ._layout import Layout, Rule
from .input_spec import InputSpec
from .layers.aggregation import DisparitySoftmax
from .layers.convolution import laid_out_like, part_views
from .layers.pair import check_max_disparity, check_pair, disparity_outputs
from .layers.planar import (
    Bottleneck,
    ChannelSlice,
    Hourglass,
    InvertedResidual,
    ResidualPair,
    Weighting,
    conv_norm,
)
from .layers.regression import regress_disparity
from .layers.volume import GroupwiseCorrelation
from .layers.volume_compared import ComparedVolume
from .registry import register_model

Size = Literal["teacher", "student", "compact", "naive"]

# Blocks of the four stages of the features, and their channels; Naive has two.
_STAGES = {
    "teacher": ((3, 16, 3, 3), (32, 64, 128, 128)),
    "student": ((1, 1, 1, 1), (32, 64, 128, 128)),
    "compact": ((1, 1, 1, 1), (32, 64, 128, 128)),
    "naive": ((1, 1), (16, 80)),
}
_CLASS_WIDTH = 3  # levels of the volume in one class of the detector


class Features(nn.Module):
    """Maps of an image at half its size (first stage) and at a quarter of it, depthwise separable throughout.

    Args:
        blocks: residual pairs in each stage; with two stages the last one alone is the output, with four the
            last three side by side.
        channels: of the stages.

    Attributes:
        outputs: channels of the output.
    """

    def __init__(self, blocks: Sequence[int], channels: Sequence[int]):
        super().__init__()
        stem = [InvertedResidual(3, 32, 2, 3), nn.ReLU()]
        for _ in range(2 if len(blocks) > 2 else 1):
            stem += [InvertedResidual(32, 32, 1, 3), nn.ReLU()]
        self.stem = nn.Sequential(*stem)
        self.stage1 = _stage(32, channels[0], blocks[0])
        self.stage2 = _stage(channels[0], channels[1], blocks[1], stride=2)
        self.stage3 = self.stage4 = None
        self.slices = nn.ModuleList()
        if len(blocks) > 2:
            self.stage3 = _stage(channels[1], channels[2], blocks[2])
            self.stage4 = _stage(channels[2], channels[3], blocks[3], dilation=2)
            self.outputs = sum(channels[1:])
        else:
            # What the published feature term compares with the three maps of a larger network.
            self.outputs = channels[1]
            ends = [0, self.outputs // 5, 3 * self.outputs // 5, self.outputs]
            self.slices.extend(ChannelSlice(*pair) for pair in itertools.pairwise(ends))

    def forward(self, images: Tensor) -> Tensor:
        """Return (B, outputs, H / 4, W / 4) for `images` (B, 3, H, W)."""
        maps = [self.stage2(self.stage1(self.stem(images)))]
        if self.stage3 is None or self.stage4 is None:
            for part in self.slices:
                part(maps[0])
            return maps[0]
        maps.append(self.stage3(maps[-1]))
        maps.append(self.stage4(maps[-1]))
        return torch.cat(maps, 1)


class CorrelationVolume(nn.Module):
    """Naive's volume: the mean product of 32 channels of both views, one level a disparity."""

    def __init__(self, inputs: int, levels: int):
        super().__init__()
        self.reduce = nn.Sequential(nn.ReLU(), nn.BatchNorm2d(inputs), nn.Conv2d(inputs, 32, 1))
        self.correlate = GroupwiseCorrelation(levels, 1)

    def forward(self, features: Tensor, batch: int) -> Tensor:
        """Return (B, 1, levels, h, w) for the features of the left, then the right views, (2B, C, h, w)."""
        return self.correlate(*part_views(self.reduce(features), batch))


class Detector(nn.Sequential):
    """Classes of disparity, (B, levels // 3, h, w) and at least 0, from a volume (B, levels, h, w)."""

    def __init__(self, levels: int):
        classes = levels // _CLASS_WIDTH
        super().__init__(Bottleneck(levels, levels // 2), Bottleneck(levels // 2, classes))


class Attention(nn.Module):
    """The detector's classes spread over the levels, and a softmax over these.

    Level c reads class min((c + 1) // 3, last): the first class covers two levels, the last one the rest.
    """

    def __init__(self, levels: int):
        super().__init__()
        self.levels = levels
        self.softmax = DisparitySoftmax()

    def forward(self, classes: Tensor) -> Tensor:
        """Return (B, 1, levels, h, w), summing to 1 over levels, for `classes` (B, levels // 3, h, w)."""
        # Repeated and not looked up, whose gradient is slow.
        repeated = classes[:, :, None].expand(-1, -1, _CLASS_WIDTH, -1, -1).flatten(1, 2)
        rest = self.levels + 1 - _CLASS_WIDTH * (self.levels // _CLASS_WIDTH)
        spread = torch.cat((repeated[:, 1:], classes[:, -1:].expand(-1, rest, -1, -1)), 1)
        return self.softmax(spread[:, None])


class Head(nn.Module):
    """Matching logits (B, levels, h, w) from an aggregated cost of that shape and the attention."""

    def __init__(self, levels: int):
        super().__init__()
        self.weighted = Weighting()
        self.classify = nn.Sequential(
            conv_norm(levels, levels, 3), nn.ReLU(), nn.Conv2d(levels, levels, 3, padding=1, bias=False)
        )

    def forward(self, cost: Tensor, attention: Tensor) -> Tensor:
        return self.classify(self.weighted(cost, attention)[:, 0])


class PlanarAggregation(nn.Module):
    """Residual blocks and hourglasses over a volume whose levels are channels.

    Args:
        levels: of the volume.
        hourglasses: in a row.
        heads: the number of the last costs that have one: a head reads the cost after the residual blocks or
            after an hourglass. The unweighted cost goes on to the next hourglass.
    """

    def __init__(self, levels: int, hourglasses: int, heads: int):
        super().__init__()
        self.reduce = nn.Sequential(
            InvertedResidual(levels, levels, 1, 3),
            nn.ReLU(),
            InvertedResidual(levels, levels, 1, 3),
            nn.ReLU(),
        )
        self.residual = nn.Sequential(
            InvertedResidual(levels, levels, 1, 3), nn.ReLU(), InvertedResidual(levels, levels, 1, 3)
        )
        self.encoders = nn.ModuleList(Hourglass(levels) for _ in range(hourglasses))
        self.heads = nn.ModuleList(Head(levels) for _ in range(heads))

    def forward(self, volume: Tensor, attention: Tensor, all_heads: bool) -> list[Tensor]:
        """Return the logits (B, levels, h, w) of all heads, coarse to final, or of the last alone."""
        cost = self.reduce(volume)
        costs = [self.residual(cost) + cost]
        for encoder in self.encoders:
            costs.append(encoder(costs[-1]))
        if not all_heads:
            return [self.heads[-1](costs[-1], attention)]
        read = costs[len(costs) - len(self.heads) :]
        return [head(cost, attention) for head, cost in zip(self.heads, read, strict=True)]


class TSNnet(nn.Module):
    """One of TSNnet's networks.

    Taps: `features.early`, `features`; `features.stages`, the four maps that the published feature term
    compares (Naive cuts its one map at a quarter of the size into three); `volume`, `attention` and
    `weighted` (the cost after the last hourglass times the attention), each (B, 1, levels, h, w); `detector`,
    its classes (B, levels // 3, h, w); `aggregation`, the logits (B, levels, h, w) of each head.

    The volume is built for all disparities at once. In training, batch normalisation between the two views'
    comparison and the volume therefore sees all disparities together; the published code normalises each of
    its 48 by itself. In evaluation both are the same. Unlike there, images narrower than `max_disparity` are
    taken.

    Args:
        size: which of the networks.
        max_disparity: number M of disparities 0 … M-1 px, a multiple of 16.

    Raises:
        UserError: an unfit `max_disparity`; views that differ or whose size is not a multiple of 16.
    """

    input_spec = InputSpec(multiple=32)
    #: Run every head in evaluation mode, too: set on a teacher whose logits are compared.
    all_heads = False

    def __init__(self, size: Size, max_disparity: int = 192):
        super().__init__()
        check_max_disparity(max_disparity, 16)
        self.max_disparity = max_disparity
        levels = max_disparity // 4
        self.features = Features(*_STAGES[size])
        self.volume: nn.Module
        if size == "naive":
            self.volume = CorrelationVolume(self.features.outputs, levels)
        else:
            self.volume = ComparedVolume(*_comparison(size, self.features.outputs), levels)
        self.detector = Detector(levels)
        self.attention = Attention(levels)
        hourglasses = 3 if size == "teacher" else 1
        heads = 4 if size == "teacher" else 1
        self.aggregation = PlanarAggregation(levels, hourglasses, heads)
        coarse = ("slices.0", "slices.1", "slices.2") if size == "naive" else ("stage2", "stage3", "stage4")
        self.taps = {
            "features.early": ("features.stem", "features.stage1"),
            "features": ("features",),
            "features.stages": tuple(f"features.{stage}" for stage in ("stage1", *coarse)),
            "volume": ("volume",),
            "detector": ("detector",),
            "attention": ("attention",),
            "weighted": (f"aggregation.heads.{heads - 1}.weighted",),
            "aggregation": tuple(f"aggregation.heads.{i}.classify" for i in range(heads)),
        }
        self.published = _layout(hourglasses, heads)

    def forward(self, left: Tensor, right: Tensor) -> dict[str, Any]:
        """Return `{"disparity": (B, 1, H, W)}` in px; in training mode `"intermediate"`, too.

        `left` and `right` are (B, 3, H, W), normalised.
        """
        batch, size = check_pair(left, right)
        features = self.features(torch.cat((left, right)))
        volume = laid_out_like(self.volume(features, batch)[:, 0], features)
        attention = self.attention(self.detector(volume))
        logits = self.aggregation(volume, attention, self.training or self.all_heads)
        return disparity_outputs(
            logits, lambda x: regress_disparity(x, self.max_disparity, size), self.training
        )


def _stage(inputs: int, outputs: int, blocks: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    first = ResidualPair(inputs, outputs, stride, dilation)
    return nn.Sequential(first, *(ResidualPair(outputs, outputs, 1, dilation) for _ in range(blocks - 1)))


def _comparison(size: Size, inputs: int) -> tuple[nn.Sequential, Sequence[int]]:
    """Return what reduces the features of one view, and the channels of the comparison behind it."""
    if size == "teacher":
        reduce = nn.Sequential(
            *(conv_norm(inputs, 256), nn.ReLU(), conv_norm(256, 128), nn.ReLU(), conv_norm(128, 64)),
            *(nn.ReLU(), conv_norm(64, 32)),
        )
        return reduce, (32, 32, 16, 1)
    kernel = 3 if size == "student" else 1
    reduce = nn.Sequential(
        *(conv_norm(inputs, 256, kernel), nn.ReLU(), conv_norm(256, 64, kernel), nn.ReLU()),
        *(nn.Conv2d(64, 32, kernel, padding=kernel // 2), nn.ReLU()),
        nn.Conv2d(32, 16, kernel, padding=kernel // 2),
    )
    return reduce, (16, 16, 1)


def _layout(hourglasses: int, heads: int) -> Layout:
    rules: list[Rule] = [
        ("detector.layer1.0", "detector.0"),
        ("detector.layer2.0", "detector.1"),
        ("feature_extraction.firstconv", "features.stem"),
        ("feature_extraction.layer{a}", "features.stage{a}"),
        ("Volume_construct.preconv11", "volume.reduce"),
        ("Volume_construct.preconv12.1", "volume.reduce.6"),
        ("Volume_construct.volume12.{even}.{pair}", "volume.compare.{even}.{pair}"),
        ("Regression.dres0", "aggregation.reduce"),
        ("Regression.dres1", "aggregation.residual"),
    ]
    for i in range(hourglasses):
        rules.append((f"Regression.encoder_decoder{i + 1}", f"aggregation.encoders.{i}"))
    for i, head in enumerate(range(heads) if heads > 1 else (1,)):
        rules.append((f"Regression.classif{head}", f"aggregation.heads.{i}.classify"))
    return Layout(tuple(rules))


@register_model("stereo")
def tsnnet_teacher(max_disparity: int = 192) -> TSNnet:
    """TSNnet's Teacher: 25 residual pairs, three hourglasses, four heads."""
    return TSNnet("teacher", max_disparity)


@register_model("stereo")
def tsnnet_student(max_disparity: int = 192) -> TSNnet:
    """TSNnet's Student as its code is published, whose 3x3 reductions make it larger than the Teacher."""
    return TSNnet("student", max_disparity)


@register_model("stereo")
def tsnnet_student_compact(max_disparity: int = 192) -> TSNnet:
    """TSNnet's Student with 1x1 reductions: the 0.84 M parameters of the README, not a published network."""
    return TSNnet("compact", max_disparity)


@register_model("stereo")
def tsnnet_naive(max_disparity: int = 192) -> TSNnet:
    """TSNnet's Naive: two stages of features, a plain correlation, one hourglass."""
    return TSNnet("naive", max_disparity)
