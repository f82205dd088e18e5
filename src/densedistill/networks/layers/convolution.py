"""Convolutions with batch normalisation, the bricks of every network here, and how they are initialised.

On a CPU, torch gives single-precision convolutions of one small volume (batch times channels times depth
times height up to 20480) to an implementation that is up to ten times slower than oneDNN's and answers
channels-first, which slows down what follows. `Conv3d` and `TransposedConv3d` cut such a volume into halves
along its depth, which overlap as far as the kernel reaches, and so make it a batch of two, which oneDNN gets.
`Conv3d` also computes kernels of depth one as what they are: matrix products and 2D convolutions.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import grad as gradients

from .exporting import is_recording

# ATen's ConvParams::use_mkldnn.
_TOO_SMALL_FOR_ONEDNN = 20480


class Conv3d(nn.Conv3d):
    """`nn.Conv3d` that takes the fastest way on a CPU."""

    def forward(self, volume: Tensor) -> Tensor:
        """Return (B, out, D', H', W') for `volume` (B, in, D, H, W)."""
        if not runs_eagerly_on_cpu(volume):
            return super().forward(volume)
        if self.kernel_size[0] == self.stride[0] == 1 and self.padding[0] == 0:
            return self._slice_by_slice(volume)
        if self.out_channels == self.groups == 1 and self._keeps_size():
            return self._to_one_channel(volume)
        if not _is_small(volume) or self.groups > 1 or self.dilation != (1, 1, 1):
            return super().forward(volume)
        return self._in_halves(volume)

    def _slice_by_slice(self, volume: Tensor) -> Tensor:
        if self.kernel_size == self.stride == (1, 1, 1) and self.groups == 1 and not any(self.padding):
            return _channels_first(F.linear(_channels_last(volume), self.weight.flatten(1), self.bias))
        slices = volume.transpose(1, 2).flatten(0, 1)
        strides, padding, dilation = self.stride[1:], self.padding[1:], self.dilation[1:]
        slices = F.conv2d(slices, self.weight[:, :, 0], self.bias, strides, padding, dilation, self.groups)
        return slices.unflatten(0, (volume.shape[0], volume.shape[2])).transpose(1, 2)

    def _keeps_size(self) -> bool:
        return (
            self.kernel_size == (3, 3, 3)
            and self.stride == self.padding == self.dilation == (1, 1, 1)
            and self.padding_mode == "zeros"
            and self.bias is None
        )

    def _to_one_channel(self, volume: Tensor) -> Tensor:
        # oneDNN computes 16 channels as fast as one: give it the kernel's three slices as channels. In
        # bfloat16 each of them is rounded, so their sum is not.
        slices = volume.transpose(1, 2).flatten(0, 1)
        taps = F.conv2d(slices, self.weight[0].transpose(0, 1), None, 1, 1).float()
        below, here, above = taps.unflatten(0, (volume.shape[0], volume.shape[2])).unbind(2)
        result = here.clone()
        result[:, 1:] += below[:, :-1]
        result[:, :-1] += above[:, 1:]
        return result[:, None]

    def _in_halves(self, volume: Tensor) -> Tensor:
        depth = (volume.shape[2] + 2 * int(self.padding[0]) - self.kernel_size[0]) // self.stride[0] + 1
        if depth % 2:
            return super().forward(volume)
        step = depth // 2 * self.stride[0]
        reach = step - self.stride[0] + self.kernel_size[0]
        margin = int(self.padding[0])
        padded = F.pad(_channels_last(volume), (0, 0, 0, 0, 0, 0, margin, margin))
        halves = _channels_first(torch.cat((padded[:, :reach], padded[:, step : step + reach])))
        padding = (0, *self.padding[1:])
        return _joined(F.conv3d(halves, self.weight, self.bias, self.stride, padding))


class DepthwiseConv2d(nn.Conv2d):
    """A 3x3 convolution of each channel by itself, whose gradient is fast on a CPU with stride or dilation.

    Every `dilation`-th pixel and row sees its like alone: each such part of the image goes through a
    convolution without dilation, as an image of the batch. oneDNN's gradient of a dilated one takes up to
    twenty times as long. So does that of one with a stride in bfloat16, but not in float32.
    """

    def __init__(self, channels: int, stride: int = 1, dilation: int = 1):
        super().__init__(channels, channels, 3, stride, dilation, dilation, groups=channels, bias=False)

    def forward(self, image: Tensor) -> Tensor:
        """Return (B, channels, H / stride, W / stride) for `image` (B, channels, H, W)."""
        (step, _), sizes = self.dilation, image.shape[-2:]
        if not runs_eagerly_on_cpu(image):
            return super().forward(image)
        strided = self.stride != (1, 1) and step == 1 and min(sizes) > 2
        if strided and self.bias is None and torch.is_grad_enabled():
            dtype = autocast_dtype(image)
            return _StridedDepthwise.apply(image.to(dtype), self.weight.to(dtype), self.stride[0])
        if step == 1 or self.stride != (1, 1) or any(size % step for size in sizes):
            return super().forward(image)
        batch, (height, width) = len(image), sizes
        parts = image.permute(0, 2, 3, 1).unflatten(2, (-1, step)).unflatten(1, (-1, step))
        parts = parts.permute(0, 2, 4, 1, 3, 5).flatten(0, 2).permute(0, 3, 1, 2)
        parts = F.conv2d(parts, self.weight, self.bias, 1, 1, 1, self.groups).permute(0, 2, 3, 1)
        whole = parts.unflatten(0, (batch, step, step)).permute(0, 3, 1, 4, 2, 5)
        return whole.reshape(batch, height, width, self.out_channels).permute(0, 3, 1, 2)


class _StridedDepthwise(torch.autograd.Function):
    """A 3x3 depthwise convolution, whose gradient by the image is computed in float32."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, weight: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(image, weight)
        ctx.stride = stride
        return F.conv2d(image, weight, None, stride, 1, 1, len(weight))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        image, weight = ctx.saved_tensors
        image_learns, weight_learns, _ = ctx.needs_input_grad
        by_image = by_weight = None
        options = (ctx.stride, 1, 1, len(weight))
        if image_learns:
            by_image = gradients.conv2d_input(image.shape, weight.float(), gradient.float(), *options)
            by_image = by_image.to(image.dtype)
        if weight_learns:
            by_weight = gradients.conv2d_weight(image, weight.shape, gradient, *options)
        return by_image, by_weight, None


class FewChannelsConv2d(nn.Conv2d):
    """A 3x3 convolution to one or two channels that keeps the size; fast on a CPU.

    oneDNN computes 16 channels as fast as one, so there the nine taps are channels of a 1x1 convolution, and
    are added up in single precision.
    """

    def __init__(self, inputs: int, outputs: int):
        super().__init__(inputs, outputs, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        """Return (B, outputs, H, W) for `image` (B, inputs, H, W)."""
        if not runs_eagerly_on_cpu(image):
            return super().forward(image)
        height, width = image.shape[-2:]
        weight = self.weight.permute(2, 3, 0, 1).flatten(0, 2)[..., None, None]
        taps = F.pad(F.conv2d(image, weight).float(), (1, 1, 1, 1)).unflatten(1, (3, 3, self.out_channels))
        result = sum(taps[:, y, x, :, y : y + height, x : x + width] for y in range(3) for x in range(3))
        result = result if self.bias is None else result + self.bias[:, None, None]
        return result.to(self.weight.dtype)


class TransposedConv3d(nn.ConvTranspose3d):
    """Transposed convolution that doubles depth, height and width; fast on one small volume, too."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__(inputs, outputs, 3, 2, padding=1, output_padding=1, bias=False)

    def forward(self, volume: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Return (B, out, 2D, 2H, 2W) for `volume` (B, in, D, H, W)."""
        depth = volume.shape[2]
        if not runs_eagerly_on_cpu(volume) or not _is_small(volume) or depth % 2:
            return super().forward(volume, output_size)
        # Each half also needs the next row, and its last two rows of output are the next half's.
        padded = F.pad(_channels_last(volume), (0, 0, 0, 0, 0, 0, 0, 1))
        halves = _channels_first(torch.cat((padded[:, : depth // 2 + 1], padded[:, depth // 2 :])))
        doubled = F.conv_transpose3d(halves, self.weight, self.bias, 2, 1, 1)
        return _joined(doubled[:, :, :depth])


class _DenseGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        return features.view_as(features)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.contiguous(memory_format=torch.channels_last)


def dense_gradient(features: Tensor) -> Tensor:
    """Return `features` (B, C, H, W), whose gradient will come channels-last and without gaps.

    Gradients of what was concatenated are pieces of the whole one, with which torch's batch normalisation is
    ten times slower.
    """
    return _DenseGradient.apply(features) if runs_eagerly_on_cpu(features) else features


def part_views(features: Tensor, batch: int) -> tuple[Tensor, Tensor]:
    """Return the features of the left and of the right views, (B, C, H, W) each, joined in (2B, C, H, W)."""
    if is_recording():
        return features[:batch], features[batch:]
    # The gradient of a slice is a channels-first tensor of zeros; that of a split keeps its memory format.
    left, right = features.split_with_sizes((batch, batch))
    return left, right


class JoiningConv2d(nn.Conv2d):
    """A 1x1 convolution of features and of those at half their stride, of which four pixels are one.

    The latter's part is computed as what it is, a 2x2 convolution with a stride of 2, so nothing is copied.
    """

    def __init__(self, fine: int, coarse: int, outputs: int):
        super().__init__(4 * fine + coarse, outputs, 1, bias=False)

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:  # type: ignore[override]
        """Return (B, outputs, h, w) for `fine` (B, C, 2h, 2w) and `coarse` (B, C', h, w)."""
        inputs = fine.shape[1]
        strided = self.weight[:, : 4 * inputs].reshape(-1, inputs, 2, 2)
        return F.conv2d(fine, strided, stride=2) + F.conv2d(coarse, self.weight[:, 4 * inputs :], self.bias)


def join(*maps: Tensor) -> Tensor:
    """Return maps (B, C, H, W) side by side, channels-last where one of them is.

    torch joins mixed formats channels-first, and every convolution behind copies its input back.
    """
    last = next((each for each in maps if _is_channels_last(each)), maps[0])
    return torch.cat([laid_out_like(each, last) for each in maps], 1)


def laid_out_like(values: Tensor, features: Tensor) -> Tensor:
    """Return `values` (B, C, H, W) channels-last where `features` are."""
    if not _is_channels_last(features) or _is_channels_last(values):
        return values
    return values.clone(memory_format=torch.channels_last)  # of one channel, too: `contiguous` would not


def _is_channels_last(features: Tensor) -> bool:
    """Return whether `features` lie channels-last and no other way; False while torch chooses formats."""
    if is_recording():
        return False
    return features.is_contiguous(memory_format=torch.channels_last) and not features.is_contiguous()


def runs_eagerly_on_cpu(volume: Tensor) -> bool:
    """Return whether `volume` is float32 or bfloat16 on a CPU, and torch neither compiles nor traces."""
    fast = volume.device.type == "cpu" and volume.dtype in (torch.float32, torch.bfloat16)
    return fast and not is_recording()


def autocast_dtype(image: Tensor) -> torch.dtype:
    """Return the number format in which a convolution computes for `image`."""
    device = image.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else image.dtype


def _is_small(volume: Tensor) -> bool:
    single = volume.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return single and volume.shape[0] == 1 and volume.shape[:4].numel() <= _TOO_SMALL_FOR_ONEDNN


def _channels_last(volume: Tensor) -> Tensor:
    return volume.permute(0, 2, 3, 4, 1)


def _channels_first(volume: Tensor) -> Tensor:
    return volume.permute(0, 4, 1, 2, 3)


def _joined(halves: Tensor) -> Tensor:
    """Return two halves in depth, (2, C, D, H, W), as one volume (1, C, 2D, H, W)."""
    volume = _channels_last(halves)
    return _channels_first(volume.reshape(1, 2 * volume.shape[1], *volume.shape[2:]))


class ConvNorm2d(nn.Sequential):
    """2D convolution, batch normalisation and, if wanted, ReLU; (B, in, H, W) to (B, out, H', W').

    A dilated convolution is padded by its dilation, any other by `(kernel - 1) / 2`.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 3,
        stride: int = 1,
        dilation: int = 1,
        relu: bool = True,
        bias: bool = False,
    ):
        padding = dilation if dilation > 1 else kernel // 2
        parts: OrderedDict[str, nn.Module] = OrderedDict(
            conv=nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, bias=bias),
            norm=nn.BatchNorm2d(outputs),
        )
        if relu:
            parts["relu"] = nn.ReLU(inplace=True)
        super().__init__(parts)


class ConvNorm3d(nn.Sequential):
    """3D convolution without bias, batch normalisation and, if wanted, ReLU.

    (B, in, D, H, W) to (B, out, D', H', W').
    """

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, relu: bool = True):
        parts: OrderedDict[str, nn.Module] = OrderedDict(
            conv=Conv3d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
            norm=nn.BatchNorm3d(outputs),
        )
        if relu:
            parts["relu"] = nn.ReLU(inplace=True)
        super().__init__(parts)


class TransposedConvNorm3d(nn.Sequential):
    """Transposed 3D convolution that doubles D, H and W, and batch normalisation; no activation."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__(
            OrderedDict(
                conv=TransposedConv3d(inputs, outputs),
                norm=nn.BatchNorm3d(outputs),
            )
        )


def initialise(network: nn.Module) -> None:
    """Draw the weights as GwcNet and its descendants do.

    Weights of 2D and 3D convolutions come from N(0, sqrt(2 / n)) with n = kernel volume x output channels
    (groups ignored), batch normalisation is the identity, biases of linear layers are 0. Transposed
    convolutions, linear weights and biases of convolutions keep what torch drew.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d) and not module.weight.is_meta:  # drawing there is slow
            nn.init.normal_(
                module.weight, 0.0, math.sqrt(2 / (math.prod(module.kernel_size) * module.out_channels))
            )
        elif isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
