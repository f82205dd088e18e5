"""A teacher that answers for an image once and remembers: for small sets whose images come back unchanged."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from ..errors import UserError
from ..files import write_bytes
from ..networks import create_model
from ..networks.precision import fastest_dtype
from ..networks.registry import options_of
from .taps import Spec, unwrap
from .teachers import TEACHERS, NetworkTeacher

Answer = dict[str, Tensor]
"""What is kept for an image, on the CPU: `outputs/KEY` and `taps/KEY/LEVEL`, floats in half precision."""


class RememberingTeacher(NetworkTeacher):
    """A network whose answers to each image are kept, told by the pixels themselves.

    Whatever augmentation does, an image that differs in one level is another image, so the answers are the
    network's in the fastest precision, kept in half precision. It pays where images are only mirrored, not
    cropped or scaled at random: each is then seen twice, whatever the number of epochs.

    Args:
        network: the teacher.
        outputs: keep its outputs, too; False keeps and gives taps alone, which are much smaller.
        limit: images that are kept in memory at most; later ones are read from `folder`, or answered anew
            each time.
        folder: keep answers in files there, too, for the next run that asks the same network for the same
            taps; None keeps them in memory alone.
    """

    def __init__(
        self, network: nn.Module, outputs: bool = False, limit: int = 4096, folder: str | None = None
    ):
        super().__init__(network)
        self.outputs, self.limit = outputs, limit
        self.folder = None if folder is None else Path(folder)
        self._known: dict[str, Answer] = {}
        self._files: Path | None = None

    def watch(self, taps: Iterable[Spec]) -> None:
        """Read `taps` from now on, and forget answers that may lack them."""
        super().watch(taps)
        self._known, self._files = {}, None

    @torch.no_grad()
    def forward(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        images = [batch[key] for key in self.task.inputs]
        keys = [_digest([image[i] for image in images]) for i in range(len(images[0]))]
        parts = [self._recall(key) for key in keys]
        unknown = [i for i, part in enumerate(parts) if part is None]
        if unknown:
            device = images[0].device.type
            half = fastest_dtype(device) is torch.bfloat16
            with torch.autocast(device, torch.bfloat16, enabled=half):
                answer = super().forward({key: batch[key][unknown] for key in self.task.inputs})
            for position, i in enumerate(unknown):
                parts[i] = part = _part(answer, position, len(unknown), self.outputs)
                self._keep(keys[i], part)
        placement = self.input_spec.place(*images[0].shape[-2:])  # type: ignore[union-attr]
        known = [part for part in parts if part is not None]
        return {**_joined(known, images[0].device), "placement": placement}

    def _recall(self, key: str) -> Answer | None:
        if key in self._known or self.folder is None:
            return self._known.get(key)
        try:
            part: Answer = load_file(self._file(key))
        except (FileNotFoundError, SafetensorError):
            return None
        if len(self._known) < self.limit:
            self._known[key] = part
        return part

    def _keep(self, key: str, part: Answer) -> None:
        if len(self._known) < self.limit:
            self._known[key] = part
        if self.folder is not None:
            write_bytes(self._file(key), save(part), sync=False)

    def _file(self, key: str) -> Path:
        if self._files is None:
            assert self.folder is not None
            self._files = self.folder / self._fingerprint()
            self._files.mkdir(parents=True, exist_ok=True)
        return self._files / f"{key}.safetensors"

    def _fingerprint(self) -> str:
        """Return what tells this network, how it prepares images and what is read of it from all others."""
        found = hashlib.blake2b(digest_size=8)
        options = sorted(options_of(unwrap(self.network)).items())  # not all shape a weight: max_disparity
        asked = (self.name, options, self.input_spec, self.outputs, sorted(self._taps or ()))
        found.update(repr(asked).encode())
        for name, value in self.network.state_dict().items():
            found.update(name.encode())
            found.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return found.hexdigest()


def _digest(images: list[Tensor]) -> str:
    """Return what tells these images from all others, their size included."""
    found = hashlib.blake2b(digest_size=16)
    for image in images:
        found.update(str(tuple(image.shape)).encode())
        found.update(image.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def _part(answer: Mapping[str, Any], index: int, count: int, outputs: bool) -> Answer:
    """Return the answer for one image."""
    part: Answer = {}
    for name, tensors in answer.get("taps", {}).items():
        for level, tensor in enumerate(tensors):
            if len(tensor) != count:
                raise UserError(f"teacher 'remember': the tap {name} has not one entry an image")
            part[f"taps/{name}/{level}"] = _kept(tensor[index])
    if outputs:
        kept = {key: value for key, value in answer.items() if isinstance(value, Tensor)}
        part |= {f"outputs/{key}": _kept(value[index]) for key, value in kept.items()}
    return part


def _kept(value: Tensor) -> Tensor:
    """Return what is kept of `value`: floats in half precision, masks and numbers of classes as they are."""
    return (value.half() if value.is_floating_point() else value).contiguous().cpu()


def _joined(parts: list[Answer], device: torch.device) -> dict[str, Any]:
    """Return answers for single images as one for a batch on `device`."""
    answer: dict[str, Any] = {}
    levels: dict[str, dict[int, Tensor]] = {}
    for key in parts[0]:
        kind, _, name = key.partition("/")
        together = _stacked([part[key] for part in parts], -1 if name == "classes" else 0).to(device)
        together = together.float() if together.is_floating_point() else together
        if kind == "outputs":
            answer[name] = together
        else:
            tap, _, level = name.rpartition("/")
            levels.setdefault(tap, {})[int(level)] = together
    answer["taps"] = {tap: tuple(found[i] for i in sorted(found)) for tap, found in levels.items()}
    return answer


def _stacked(values: list[Tensor], fill: int) -> Tensor:
    """Return the images' values as a batch; lists of boxes, of differing lengths, end in `fill`."""
    if len({value.shape for value in values}) == 1:
        return torch.stack(values)
    return nn.utils.rnn.pad_sequence(values, batch_first=True, padding_value=fill)


@TEACHERS.register("remember")
def _remember(
    network: str,
    weights: str | None = None,
    outputs: bool = False,
    limit: int = 4096,
    folder: str | None = None,
    **options: Any,
) -> RememberingTeacher:
    return RememberingTeacher(create_model(network, weights=weights, **options), outputs, limit, folder)
