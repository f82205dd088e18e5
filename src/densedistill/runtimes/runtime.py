"""`load_runtime`: an exported file as a network."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..errors import UserError, as_count, unknown
from ..networks.device import find_device
from ..networks.input_spec import InputSpec, Placement
from ..networks.restore import restore_output
from ..tasks import get_task
from .card import Card, check_weights, read_card

# Runtime -> the module here that runs it, the package it needs, and how that is installed.
RUNTIMES = {
    "torch": ("torch_export", "torch", "torch"),
    "onnxruntime": ("onnxruntime", "onnxruntime", "'densedistill[export]'"),
    "openvino": ("openvino", "openvino", "'densedistill[export]'"),
    "tensorrt": ("tensorrt", "tensorrt", "tensorrt"),
}
# Suffix of an exported file -> the runtimes that take it, the usual one first.
SUFFIXES = {
    ".onnx": ("onnxruntime", "openvino"),
    ".xml": ("openvino",),
    ".pt2": ("torch",),
    ".engine": ("tensorrt",),
}
PRECISIONS = ("float32", "bfloat16", "auto")


class Session(Protocol):
    """What one runtime made of a file.

    Attributes:
        device: where inputs are wanted and outputs are.
        precision: the arithmetic it runs in.
    """

    device: torch.device
    precision: str

    def run(self, images: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the outputs by name for contiguous float32 `images` by name."""
        ...


class _Opened:
    """The session of a file. It pickles as what opens it, so that another process opens the file itself."""

    def __init__(self, path: Path, card: Card, runtime: str, device: Any, precision: str, threads: int):
        check_weights(path, card)
        self._how = (path.absolute(), card, runtime, device, precision, threads)
        self.session: Session = _module(runtime).open_session(path, card, device, precision, threads)
        self.device, self.precision = self.session.device, self.session.precision

    def run(self, images: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self.session.run(images)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Opened, self._how

    def __deepcopy__(self, memo: Any) -> _Opened:
        return self  # which answers several callers


class Runtime(nn.Module):
    """An exported file as a network of its task.

    Called with the task's images (B, 3, H, W), uint8, or float in [0, 1], of any size (of the file's, when
    that is fixed), it returns the task's outputs at that size: it pads and crops itself, and normalising is
    inside the file. So `input_spec` asks for nothing. Several threads may call it at a time, and it may go to
    another process, which opens the file again.

    Attributes:
        card: what the file says about itself.
        runtime: which of `RUNTIMES` runs it.
        decoding: of a detector, which detections are chosen of what the file gives; otherwise None.
        raw: give what detections are chosen from.
    """

    def __init__(self, session: Session, card: Card, path: Path, runtime: str):
        super().__init__()
        self.card, self.path, self.runtime = card, path, runtime
        self.task = card.task
        self.max_disparity, self.classes = card.max_disparity, card.classes
        self.taps: dict[str, tuple[str, ...]] = {}
        usual = SUFFIXES[path.suffix][0]
        self.name = path.name if runtime == usual else f"{path.name} ({runtime})"
        self.precision = session.precision
        self.device = session.device
        self.input_spec = InputSpec(mean=(0, 0, 0), std=(1, 1, 1), multiple=1)
        self._spec = card.input_spec
        self.decoding = card.decoder()
        self.raw = False
        self._session = session

    def with_input_spec(self, spec: InputSpec) -> Runtime:
        """Return this runtime with the padding that `spec` says."""
        if spec == self.input_spec:
            return self
        other = copy.copy(self)
        other._spec = dataclasses.replace(
            self.card.input_spec, min_size=spec.min_size, pad=spec.pad, pad_mode=spec.pad_mode
        )
        return other

    def forward(self, *images: Tensor) -> dict[str, Tensor]:
        """Return the task's outputs, each at the images' size.

        Raises:
            UserError: another number of images, a size that the file cannot take, or floats outside [0, 1].
        """
        prepared, placement = self.prepare(*images)
        given = images[0].device
        outputs = self._run(prepared)
        if self.decoding is not None and not self.raw:
            if self.card.size is not None:  # the file scales and pads the image, but not its boxes back
                placement = self._spec.place(*self.card.size)
            outputs = self.decoding(outputs, placement.input_size)
        task = get_task(self.task)
        return {
            key: restore_output(task, key, value, self._spec, placement).to(given)
            for key, value in outputs.items()
        }

    def prepare(self, *images: Tensor) -> tuple[dict[str, Tensor], Placement]:
        """Return what the file wants for `images`, by its names, and how they lie in there.

        Raises:
            UserError: as calling it.
        """
        if len(images) != len(self.card.inputs):
            wanted = ", ".join(self.card.inputs)
            raise UserError(f"{self.name} takes {len(self.card.inputs)} images ({wanted}), got {len(images)}")
        images = tuple(self._checked(image).to(self.device) for image in images)
        if len({image.shape for image in images}) > 1:
            shapes = " and ".join(str(tuple(image.shape)) for image in images)
            raise UserError(f"the views differ in shape: {shapes}; rectified views have one")
        placement = self._place(*images[0].shape[-2:])
        prepared = [_prepare(image, self._spec, placement).contiguous() for image in images]
        return dict(zip(self.card.inputs, prepared, strict=True)), placement

    def _checked(self, image: Tensor) -> Tensor:
        if not isinstance(image, Tensor):
            raise UserError(
                f"{self.name} takes tensors as every network does, got {type(image).__name__}; a `Predictor` "
                "of it takes arrays, too"
            )
        if image.ndim != 4 or image.shape[1] != 3 or 0 in image.shape:
            raise UserError(f"an image batch has shape (B, 3, H, W), got {tuple(image.shape)}")
        if image.dtype == torch.uint8:
            return image.float() / 255
        low, high = (value.item() for value in image.aminmax())
        if not (low >= -1e-3 and high <= 1 + 1e-3):
            raise UserError(
                f"{self.name} normalises by itself and takes images in [0, 1], these lie in "
                f"[{low:g}, {high:g}]; pass them as they are, uint8 or divided by 255"
            )
        return image.detach().float()

    def _place(self, height: int, width: int) -> Placement:
        if self.card.size is None:
            return self._spec.place(height, width)
        if self.card.size != (height, width):
            wanted = "x".join(map(str, self.card.size))
            raise UserError(
                f"{self.name} was exported for images of {wanted} (height x width), got {height}x{width}; "
                "export without a size takes any"
            )
        return Placement(self.card.size, self.card.size, (0, 0, 0, 0))

    def _run(self, images: dict[str, Tensor]) -> dict[str, Tensor]:
        count, batch = len(next(iter(images.values()))), self.card.batch
        if batch is None or batch == count:
            return self._session.run(images)
        parts = []
        for start in range(0, count, batch):
            # The last samples stand in for those that a full batch lacks.
            chosen = torch.arange(start, start + batch, device=self.device).clamp(max=count - 1)
            parts.append(self._session.run({key: image[chosen] for key, image in images.items()}))
        return {key: torch.cat([part[key] for part in parts])[:count] for key in parts[0]}


def load_runtime(
    file: str | os.PathLike[str],
    runtime: str | None = None,
    *,
    device: str | torch.device | None = None,
    precision: str = "float32",
    threads: int | None = None,
) -> Runtime:
    """Return the exported `file` as a network: `Predictor`, `evaluate` and teachers take it.

    Args:
        file: .onnx, .xml (OpenVINO, its .bin beside it), .pt2 (`torch.export`) or .engine (TensorRT).
        runtime: of `RUNTIMES`; None for the usual one of the file's suffix.
        device: where to run; what cannot run there runs on the CPU, and `device` of the result says so.
        precision: "float32", "bfloat16" or "auto" for the faster here; OpenVINO alone can choose.
        threads: on the CPU; None for as many as torch uses.

    Raises:
        UserError: no such file, a file that is damaged or was not written by `export`, a runtime that does
            not take it, one that is not installed (says what to install), or no such device.
    """
    path = Path(file)
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path} is no exported file; these end in {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    chosen = SUFFIXES[path.suffix][0] if runtime is None else runtime
    if chosen not in RUNTIMES:
        raise unknown("runtime", chosen, RUNTIMES)
    if chosen not in SUFFIXES[path.suffix]:
        takers = " or ".join(SUFFIXES[path.suffix])
        raise UserError(f"{chosen} does not run {path.name}; a {path.suffix} file is for {takers}")
    if device is not None:
        device = find_device(device)
    threads = torch.get_num_threads() if threads is None else as_count("threads", threads)
    card = read_card(path)
    return Runtime(_Opened(path, card, chosen, device, precision, threads), card, path, chosen)


def is_exported(name: Any) -> bool:
    """Return whether `name` is a path that means an exported file, told by its suffix."""
    return isinstance(name, (str, os.PathLike)) and Path(name).suffix in SUFFIXES


def require_runtime(name: str) -> None:
    """Raise UserError, with what to install, unless the runtime `name` is there."""
    _module(name)


def _module(runtime: str) -> Any:
    module, package, install = RUNTIMES[runtime]
    try:
        importlib.import_module(package)
    except ImportError as error:
        if error.name != package:
            raise UserError(f"{package} is installed, but does not start: {error}") from None
        raise UserError(f"{runtime} is not installed: pip install {install}") from None
    return importlib.import_module(f".{module}", __package__)


def _prepare(image: Tensor, spec: InputSpec, placement: Placement) -> Tensor:
    """Scale and pad `image` (B, 3, H, W) in [0, 1], so that normalising it gives what `spec` says."""
    if placement.scaled_size != placement.size:
        image = nn.functional.interpolate(
            image, placement.scaled_size, mode="bilinear", align_corners=False, antialias=spec.antialias
        )
    left, right, top, bottom = placement.padding
    if not any(placement.padding):
        return image
    if spec.pad_mode != "zeros-after-normalising":
        return spec.pad_image(image, placement.padding)
    colour = image.new_tensor(spec.mean if spec.channels == "rgb" else spec.mean[::-1]) / spec.range
    height, width = image.shape[-2:]
    padded = colour.view(1, 3, 1, 1).repeat(len(image), 1, top + height + bottom, left + width + right)
    padded[..., top : top + height, left : left + width] = image
    return padded
