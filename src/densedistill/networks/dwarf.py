"""DWARF: scene flow from two stereo pairs, coarse to fine (AAAI 2020, arXiv 1911.10090).

One pyramid of features for the four images; on each level 6 … 2 the features of the others are warped to the
left image at t0 by the estimate of the level above, correlated, and three heads estimate disparity, disparity
at t1 seen from t0, and optical flow anew. `dwarf` computes what the published TensorFlow code computes;
`dwarf_clean` mends what its authors' code does by accident; `dwarf_slim` is the latter at CPU size.

Within the published network disparities are negative (the match lies at x + d), and the third output is
called disparity change although it is the whole disparity at t1; outside both are positive, in px.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError
from ._layout import Layout, Rule
from .input_spec import InputSpec
from .layers.convolution import FewChannelsConv2d, join
from .layers.correlation import correlation_1d, correlation_2d, correlation_3d
from .layers.image import at_least_float32, check_multiple
from .layers.warp import inside, resize_legacy, warp
from .registry import register_model

UNIT = 20.0  # px at full resolution of one unit of the network, on every level
REACH = 4  # of every correlation, in px of its level
SLOPE = 0.1  # of the leaky rectification, below zero
#: The motions, their channels in an estimate, and what they are called in published checkpoints.
MOTIONS = {"disparity": 1, "disparity_next": 1, "flow": 2}
_PUBLISHED = {"disparity": "disparity", "disparity_next": "disparity_change", "flow": "flow"}


class Conv(nn.Conv2d):
    """A 3x3 convolution, padded as TensorFlow's "SAME": with stride 2 at the right and bottom only."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, dilation: int = 1):
        super().__init__(inputs, outputs, 3, stride, 0 if stride == 2 else dilation, dilation)

    def forward(self, image: Tensor) -> Tensor:
        """Return (B, outputs, H / stride, W / stride) for an even-sized `image` (B, inputs, H, W)."""
        return super().forward(F.pad(image, (0, 1, 0, 1)) if self.stride == (2, 2) else image)


class Pyramid(nn.Module):
    """Features at 1/2, 1/4, … of the size: three convolutions a level."""

    def __init__(self, channels: Sequence[int]):
        super().__init__()
        self.levels = nn.ModuleList(
            nn.Sequential(Conv(before, width, stride=2), Conv(width, width), Conv(width, width))
            for before, width in zip((3, *channels), channels, strict=False)
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the maps of all levels, finest first, of `images` (B, 3, H, W)."""
        maps = []
        for level in self.levels:
            assert isinstance(level, nn.Sequential)
            for conv in level:
                images = act(conv(images))
            maps.append(images)
        return maps


class CostVolume(nn.Module):
    """What of the four feature maps agrees: (B, 180, H, W).

    Stereo at t0 and at t1, agreement of both ("3D" correlation at depth 0, hence a 2D correlation of two cost
    volumes), and the match over time, in this order.

    Args:
        normalized: compare features of mean 0 and variance 1 at each pixel.
    """

    channels = 2 * (2 * REACH + 1) + 2 * (2 * REACH + 1) ** 2

    def __init__(self, normalized: bool = False):
        super().__init__()
        self.normalized = normalized

    def forward(self, left: Tensor, right: Tensor, left_next: Tensor, right_next: Tensor) -> Tensor:
        if self.normalized:
            left, right, left_next, right_next = map(_standardized, (left, right, left_next, right_next))
        now = act(correlation_1d(left, right, REACH))
        after = act(correlation_1d(left_next, right_next, REACH))
        over_time = act(correlation_2d(left, left_next, REACH))
        both = act(correlation_3d(now, after, REACH, depth=0))
        return torch.cat((now, after, both, over_time), 1)


class Head(nn.Module):
    """From what the trunk found to one motion, and the features that it was read from."""

    def __init__(self, inputs: int, widths: Sequence[int], motion: int):
        super().__init__()
        self.dense = Dense(inputs, widths)
        self.motion = FewChannelsConv2d(self.dense.outputs, motion)

    def forward(self, found: Tensor) -> tuple[Tensor, Tensor]:
        features = self.dense(found)
        return self.motion(features), features


class Dense(nn.Module):
    """Convolutions that each see all that came before, and append to it."""

    def __init__(self, inputs: int, widths: Sequence[int]):
        super().__init__()
        self.convs = nn.ModuleList(Conv(inputs + sum(widths[:i]), width) for i, width in enumerate(widths))
        self.outputs = inputs + sum(widths)

    def forward(self, found: Tensor) -> Tensor:
        for conv in self.convs:
            found = join(found, act(conv(found)))
        return found


class Estimator(nn.Module):
    """One level: a trunk, a head a motion, and what the next level gets of both, upsampled by learning."""

    def __init__(self, inputs: int, trunk: Sequence[int], head: Sequence[int], last: bool):
        super().__init__()
        self.trunk = Dense(inputs, trunk)
        self.heads = nn.ModuleDict({key: Head(self.trunk.outputs, head, n) for key, n in MOTIONS.items()})
        self.outputs = self.trunk.outputs + sum(head)
        if not last:
            self.upsample_motion = nn.ModuleDict({key: _upsampling(n, n) for key, n in MOTIONS.items()})
            self.upsample_features = nn.ModuleDict(
                {key: _upsampling(self.outputs, n) for key, n in MOTIONS.items()}
            )

    def forward(self, found: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return each motion (in the network's unit) and the features of its head."""
        found = self.trunk(found)
        pairs = {key: head(found) for key, head in self.heads.items()}
        return {key: pair[0] for key, pair in pairs.items()}, {key: pair[1] for key, pair in pairs.items()}

    def upsample(
        self, motions: Mapping[str, Tensor], features: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return the estimate and its features for the next level, (B, 4, 2H, 2W) each."""
        motion = [up(motions[key]) for key, up in self.upsample_motion.items()]
        feature = [up(features[key]) for key, up in self.upsample_features.items()]
        return torch.cat(motion, 1), torch.cat(feature, 1)


class Context(nn.Sequential):
    """A correction to one motion, from dilated convolutions that see far."""

    def __init__(self, inputs: int, widths: Sequence[int], motion: int):
        sizes = (inputs, *widths)
        dilations = (1, 2, 4, 8, 16, 1)[-len(widths) :]
        convs = [Conv(a, b, dilation=d) for (a, b), d in zip(pairwise(sizes), dilations, strict=True)]
        super().__init__(*convs, FewChannelsConv2d(widths[-1], motion))

    def forward(self, features: Tensor) -> Tensor:
        *convs, last = self
        for conv in convs:
            features = act(conv(features))
        return last(features)


class DWARF(nn.Module):
    """The scene-flow network DWARF.

    Args:
        channels: of the pyramid's levels, finest first; there are as many levels.
        trunk, head, context: widths of the estimators' trunk and heads and of the context networks.
        clean: mend what the published code does by accident: positive disparities inside; the row and column
            at the border are sampled like the others; what a warp finds outside the image is zero in all
            three views, not the border's pixel; the final motion is upsampled about pixel centres.
        normalized: correlate features of mean 0 and variance 1 at each pixel, much as UFlow does
            (Jonschkowski et al., ECCV 2020), and begin with weights that keep their variance (He et al.,
            ICCV 2015) and with motions near zero. Else weights begin as Glorot and Bengio's (AISTATS 2010):
            features halve at every convolution, the coarsest cost volume begins near 1e-9, and a thousand
            steps teach little (measured in docs/log.md).

    Raises:
        UserError: images that differ, or whose size does not fit the pyramid.
    """

    published = Layout()

    def __init__(
        self,
        channels: Sequence[int] = (16, 32, 64, 96, 128, 196),
        trunk: Sequence[int] = (128, 128, 96),
        head: Sequence[int] = (64, 32),
        context: Sequence[int] = (128, 128, 128, 96, 64, 32),
        clean: bool = False,
        normalized: bool = False,
    ):
        super().__init__()
        self.clean, self.coarsest = clean, len(channels)
        self.input_spec = InputSpec(
            mean=(0.0, 0.0, 0.0),
            std=(1.0, 1.0, 1.0),
            multiple=2**self.coarsest,
            pad="centre",
            pad_mode="reflect",
        )
        self.features = Pyramid(channels)
        self.volume = CostVolume(normalized)
        motions = sum(MOTIONS.values())
        self.estimators = nn.ModuleDict()
        for level in range(self.coarsest, 1, -1):
            first = level == self.coarsest
            inputs = self.volume.channels + (0 if first else channels[level - 1] + 2 * motions)
            self.estimators[str(level)] = Estimator(inputs, trunk, head, last=level == 2)
        last = self.estimators["2"]
        assert isinstance(last, Estimator)
        self.context = nn.ModuleDict({key: Context(last.outputs, context, n) for key, n in MOTIONS.items()})
        self.taps = {
            "features.early": ("features.levels.0.2", "features.levels.1.2"),
            "features": (f"features.levels.{self.coarsest - 1}.2",),
            "volume": ("volume",),
        }
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                if normalized:
                    nn.init.kaiming_uniform_(module.weight, SLOPE)
                else:
                    nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if normalized:
            motions_from = [h.motion for h in self.modules() if isinstance(h, Head)]
            motions_from += [c[-1] for c in self.context.values()]  # type: ignore[index]
            for conv in motions_from:
                conv.weight.data.mul_(0.02)

    def forward(self, left: Tensor, right: Tensor, left_next: Tensor, right_next: Tensor) -> dict[str, Any]:
        """Return `disparity` and `disparity_next` (B, 1, H, W) and `flow` (B, 2, H, W), px.

        In training mode `intermediate` lists the motions of the levels at their own size, coarse to fine, in
        px of the full size, and the final ones last. Images are (B, 3, H, W) in [0, 1].
        """
        images = (left, right, left_next, right_next)
        batch, size = self._check(images)
        maps = self.features(torch.cat(images))
        estimate = features = None
        levels = []
        for name, estimator in self.estimators.items():
            assert isinstance(estimator, Estimator)
            level = int(name)
            views = [maps[level - 1][i * batch : (i + 1) * batch] for i in range(4)]
            if estimate is None or features is None:
                found = self.volume(*views)
            else:
                found = self.volume(*self._warped(views, estimate * (UNIT / 2**level)))
                found = join(found, views[0], estimate, features)
            motions, head_features = estimator(found)
            if level > 2:
                estimate, features = estimator.upsample(motions, head_features)
            else:
                motions = {key: motions[key] + self.context[key](head_features[key]) for key in MOTIONS}
            levels.append({key: self._in_pixels(key, value) for key, value in motions.items()})
        final = {key: self._full_size(value, size) for key, value in levels[-1].items()}
        return {**final, "intermediate": [*levels, final]} if self.training else final

    def _check(self, images: Sequence[Tensor]) -> tuple[int, tuple[int, int]]:
        shape = images[0].shape
        if len(shape) != 4 or shape[1] != 3 or any(image.shape != shape for image in images):
            came = ", ".join(str(tuple(image.shape)) for image in images)
            raise UserError(f"scene flow takes four image batches of one shape (B, 3, H, W), got {came}")
        return shape[0], check_multiple(shape[-2:], self.input_spec.multiple)

    def _warped(self, views: Sequence[Tensor], estimate: Tensor) -> list[Tensor]:
        """Return the four maps at the places where `estimate` (px of this level) says the left t0 view's
        points are."""
        left, right, left_next, right_next = views
        disparity, disparity_next, flow = estimate[:, :1], estimate[:, 1:2], estimate[:, 2:]
        if self.clean:
            disparity, disparity_next = -disparity, -disparity_next
        still = torch.zeros_like(disparity)
        across = torch.cat((disparity, still), 1)
        across_next = flow + torch.cat((disparity_next, still), 1)
        if self.clean:
            motions = (across, flow, across_next)
            others = (right, left_next, right_next)
            warped = [warp(m, to) * inside(to) for m, to in zip(others, motions, strict=True)]
            return [left, *warped]
        return [left, _sample_row(right, disparity), warp(left_next, flow), warp(right_next, across_next)]

    def _in_pixels(self, key: str, motion: Tensor) -> Tensor:
        sign = -1 if key != "flow" and not self.clean else 1
        return at_least_float32(motion) * (sign * UNIT)

    def _full_size(self, motion: Tensor, size: tuple[int, int]) -> Tensor:
        if self.clean:
            return F.interpolate(motion, size, mode="bilinear", align_corners=False)
        return resize_legacy(motion, size)


def act(values: Tensor) -> Tensor:
    """Return the leaky rectification that follows every convolution and correlation but the last."""
    return F.leaky_relu(values, SLOPE)


def _standardized(features: Tensor) -> Tensor:
    """Return `features` (B, C, H, W) with mean 0 and variance 1 over the channels of each pixel."""
    centred = features - features.mean(1, keepdim=True)
    return centred * torch.rsqrt(centred.square().mean(1, keepdim=True) + 1e-6)


def resize_motion(outputs: Mapping[str, Tensor], size: tuple[int, int]) -> dict[str, Tensor]:
    """Return a scene flow (B, C, H, W) for images of another `size`, as the published final resizing makes
    it."""
    resized = {}
    for key, value in outputs.items():
        y, x = (new / old for new, old in zip(size, value.shape[-2:], strict=True))
        factors = value.new_tensor([x, y][: value.shape[1]]).view(1, -1, 1, 1)
        resized[key] = resize_legacy(value * factors, size)
    return resized


def _sample_row(image: Tensor, shift: Tensor) -> Tensor:
    """Return `image` (B, C, H, W) sampled `shift` (B, 1, H, W; px) further along its rows, as published: zero
    left of it, from its last column on, and in the whole last row, whose lower neighbour is clamped before
    the weights are taken."""
    x = torch.arange(image.shape[-1], device=shift.device) + shift.float()
    kept = (x >= 0) & (x < image.shape[-1] - 1)
    above_last = torch.arange(image.shape[-2], device=shift.device)[:, None] < image.shape[-2] - 1
    return warp(image, torch.cat((shift, torch.zeros_like(shift)), 1)) * (kept & above_last)


def _upsampling(inputs: int, outputs: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1)


def _rules() -> tuple[Rule, ...]:
    """Return how the published variables are called here."""

    def conv(i: int) -> str:
        return f"Conv_{i}" if i else "Conv"

    rules: list[Rule] = [
        (f"dwarf.Encoder.level_{n}.{conv(i)}", f"features.levels.{n - 1}.{i}")
        for n in range(1, 7)
        for i in range(3)
    ]
    for level in range(6, 1, -1):
        theirs, ours = f"dwarf.decoder.block_{level}.estimator", f"estimators.{level}"
        rules += [(f"{theirs}.estimator_block_{i}.Conv", f"{ours}.trunk.convs.{i}") for i in range(3)]
        for key, name in _PUBLISHED.items():
            head, mine = f"{theirs}.{'optical_flow' if key == 'flow' else name}", f"{ours}.heads.{key}"
            rules += [(f"{head}.estimator_block_{i}.Conv", f"{mine}.dense.convs.{i}") for i in range(2)]
            rules.append((f"{head}.Conv", f"{mine}.motion"))
            rules.append((f"{theirs}.upsample_motion_vectors.{name}", f"{ours}.upsample_motion.{key}"))
            rules.append((f"{theirs}.upsample_features.{name}", f"{ours}.upsample_features.{key}"))
            if level == 2:
                rules += [
                    (f"{theirs}.context_network_{name}.{conv(i)}", f"context.{key}.{i}") for i in range(7)
                ]
    return tuple(rules)


@register_model("sceneflow")
def dwarf() -> DWARF:
    """DWARF as published: 19.6 M parameters, four images in multiples of 64 px."""
    network = DWARF()
    network.published = Layout(_rules())
    return network


@register_model("sceneflow")
def dwarf_clean() -> DWARF:
    """DWARF with the accidents of its code mended."""
    return DWARF(clean=True)


@register_model("sceneflow")
def dwarf_slim() -> DWARF:
    """`dwarf_clean` with a quarter of the channels, one level less and normalised features, for a CPU: images
    in multiples of 32."""
    return _slim(clean=True)


@register_model("sceneflow")
def dwarf_slim_faithful() -> DWARF:
    """`dwarf_slim` with the accidents of the published code, to measure what they cost."""
    return _slim(clean=False)


def _slim(clean: bool) -> DWARF:
    context = (48, 48, 48, 32, 24, 16)
    return DWARF((16, 24, 32, 48, 64), (48, 48, 32), (24, 16), context, clean, normalized=True)
