"""Adapters: small trained maps that make a tensor of one network fit the other's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError, nearest, unknown

KINDS = ("conv1x1", "conv3x3", "conv_bn", "dsnet", "tsnnet", "mean", "resize")
_ON_TEACHER = ("tsnnet", "mean", "resize")
SIDES = ("student", "teacher")


class Adapter(nn.Module):
    """Map a tensor (B, C, H, W) or (B, C, D, H, W) to another number of channels, and size if asked.

    Args:
        kind: `conv1x1` or `conv3x3`, a convolution with bias; `conv_bn`, a 1x1 convolution and batch
            normalisation; `dsnet`, the published cost_trans: twice a 3x3 convolution and batch normalisation,
            ReLU between (DSNet's code, 41,600 parameters for 16 to 32 channels of a volume); `tsnnet`, ReLU6
            and a 1x1 convolution with bias (TSNnet's code, there on the teacher's side); without parameters:
            `mean` over channels, to one, and `resize`, which needs equal channels.
        channels_in, channels_out: numbers of channels.
        dims: 2 for feature maps, 3 for volumes.
    """

    def __init__(self, kind: str, channels_in: int, channels_out: int, dims: int):
        super().__init__()
        conv = nn.Conv2d if dims == 2 else nn.Conv3d
        norm = nn.BatchNorm2d if dims == 2 else nn.BatchNorm3d
        layers: list[nn.Module]
        if kind == "conv1x1":
            layers = [conv(channels_in, channels_out, 1)]
        elif kind == "conv3x3":
            layers = [conv(channels_in, channels_out, 3, padding=1)]
        elif kind == "conv_bn":
            layers = [conv(channels_in, channels_out, 1, bias=False), norm(channels_out)]
        elif kind == "dsnet":
            layers = [
                *(conv(channels_in, channels_out, 3, padding=1, bias=False), norm(channels_out), nn.ReLU()),
                *(conv(channels_out, channels_out, 3, padding=1, bias=False), norm(channels_out)),
            ]
        elif kind == "tsnnet":
            layers = [nn.ReLU6(), conv(channels_in, channels_out, 1)]
        elif kind == "mean":
            if channels_out != 1:
                raise UserError(f"adapter 'mean' gives one channel, the other side has {channels_out}")
            layers = [_ChannelMean()]
        elif kind == "resize":
            if channels_in != channels_out:
                raise UserError(
                    f"adapter 'resize' cannot turn {channels_in} channels into {channels_out}; use conv1x1"
                )
            layers = []
        else:
            raise unknown("adapter", kind, KINDS)
        self.layers = nn.Sequential(*layers)

    def forward(self, tensor: Tensor, size: tuple[int, ...]) -> Tensor:
        """Return the mapped `tensor`, resized (bi- or trilinearly) to `size` where that differs."""
        tensor = self.layers(tensor)
        if tensor.shape[2:] != size:
            mode = "bilinear" if tensor.ndim == 4 else "trilinear"
            tensor = F.interpolate(tensor, size, mode=mode, align_corners=False)
        return tensor


class _ChannelMean(nn.Module):
    def forward(self, tensor: Tensor) -> Tensor:
        return tensor.mean(1, keepdim=True)


def check_adapter(config: Mapping[str, Any]) -> None:
    """Raise UserError unless `config` is `{kind: …, on: student|teacher}`."""
    if not isinstance(config, Mapping):
        raise UserError(f"an adapter is its kind or {{kind: ..., on: student}}, got {config!r}")
    for key in config:
        if key not in ("kind", "on"):
            raise UserError(f"an adapter has no field '{key}'{nearest(key, ('kind', 'on'))}")
    if config.get("kind") not in KINDS:
        raise unknown("adapter", str(config.get("kind")), KINDS)
    if config.get("on", "student") not in SIDES:
        raise UserError(f"an adapter is on the student or on the teacher, got '{config['on']}'")
    if config.get("on") == "teacher" and config["kind"] not in _ON_TEACHER:
        raise UserError(
            f"adapter '{config['kind']}' on the teacher would learn to give whatever the student gives; put "
            "it on the student (the teacher takes 'resize' and 'mean', which learn nothing, and 'tsnnet', "
            "which was published there)"
        )


def make_adapter(config: Mapping[str, Any], source: Tensor, target: Tensor) -> Adapter:
    """Return the adapter from tensors like `source` to tensors like `target`."""
    if source.ndim != target.ndim or source.ndim not in (4, 5):
        raise UserError(
            "an adapter maps between two feature maps or two volumes, "
            f"got {tuple(source.shape)} and {tuple(target.shape)}"
        )
    adapter = Adapter(config["kind"], source.shape[1], target.shape[1], source.ndim - 2)
    return adapter.to(source.device)
