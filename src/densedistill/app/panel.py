"""What the networks of a page answer for one scene: pictures, figures and files; without the page itself."""

from __future__ import annotations

import importlib
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..data import formats
from ..data.calibration import Calibration
from ..data.datasets import open_dataset
from ..data.views import doubt_views
from ..deployment.measure import synchronise
from ..errors import UserError, unknown
from ..inference.images import to_batches
from ..inference.load import Predicts, load_predictors, task_of_networks
from ..inference.protocols import get_protocol
from ..runtimes import Runtime
from ..tasks import Task
from ..tasks.colours import lay_over
from ..tasks.files import Predicted, unbatch
from ..tasks.pictures import parts, value_range

Picture = NDArray[np.uint8]
DRAWN = "boxes"  # under this key stands the picture of what is no map


@dataclass(frozen=True)
class Example:
    """A scene that ships: its name, the files of the task's inputs, and the sample with the ground truth."""

    name: str
    files: tuple[Path, ...]
    sample: Mapping[str, Any]


@dataclass
class Answer:
    """What one network answered.

    Args:
        seconds: of this one call, from images to outputs of their size.
        precision: the arithmetic it ran in.
        parameters: their number; None for what has none, or does not tell.
        outputs: as `Predicted.outputs` has them.
        classes: names of the classes, where the network knows them.
        pictures: output key to the picture (H, W, 3) of it.
        errors: output key to a picture of the error, where the ground truth is known.
        figures: metric to its value, on a scene that ships.
        files: that were asked for.
    """

    seconds: float
    precision: str
    parameters: int | None
    outputs: Mapping[str, NDArray[Any]]
    classes: tuple[str, ...] = ()
    pictures: dict[str, Picture] = field(default_factory=dict)
    errors: dict[str, Picture] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)


@dataclass
class Comparison:
    """What all networks answered for one scene.

    Args:
        size: (height, width) of the images.
        answers: by the network's label.
        refused: what a network that did not answer said, by its label.
        example: name of the scene that ships, if it is one.
        truth: output key to the picture of its ground truth, of such a scene.
        calibration: of the camera or rig, where it is known.
        ranges: output key to the values (low, high) at the ends of its colours, the same for all pictures.
        warnings: what looks wrong with the images.
    """

    size: tuple[int, int]
    answers: dict[str, Answer]
    refused: dict[str, str] = field(default_factory=dict)
    example: str = ""
    truth: dict[str, Picture] = field(default_factory=dict)
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    calibration: Calibration | None = None
    warnings: list[str] = field(default_factory=list)


class Panel:
    """Networks of one task, ready to be asked.

    Args:
        networks: one, a list, or a mapping from label to network, each as `load_predictor` takes it.
        max_disparity: search range of networks given by name, and of runs, px; ground truth beyond it does
            not count.
        device, precision: where and in which arithmetic they run.
        runtime: of exported files; None for the usual one of their suffix.
        protocol: how answers for scenes that ship are measured; None for the task's `sample_protocol`.

    Raises:
        UserError: an unknown network or protocol, networks of several tasks, or weights that do not fit.
    """

    def __init__(
        self,
        networks: Any,
        max_disparity: int | None = None,
        device: str | torch.device | None = None,
        precision: str = "float32",
        runtime: str | None = None,
        protocol: str | None = None,
    ):
        self.task: Task = task_of_networks(networks)
        self.protocol = get_protocol(protocol or self.task.sample_protocol, self.task)
        if self.protocol.procedures or self.protocol.crops or self.protocol.parts:
            raise UserError(
                f"protocol '{self.protocol.name}' asks or crops in a way of its own, and a page asks a "
                "network once, for the whole image"
            )
        self.max_disparity = self.protocol.max_disparity if max_disparity is None else max_disparity
        self.examples = examples_of(self.task)
        if self.examples:
            importlib.import_module("densedistill.metrics")  # takes seconds: now, not in the first request
        self.predictors = load_predictors(networks, max_disparity, device, precision, runtime)

    @property
    def keys(self) -> tuple[str, ...]:
        """The outputs that have a picture."""
        return self.task.maps or (DRAWN,)

    def answer(
        self,
        files: Sequence[str | Path | None],
        kinds: Sequence[str] = (),
        folder: Path = Path(),
        focal: float | None = None,
        baseline: float | None = None,
        offset: float | None = None,
    ) -> Comparison:
        """Return what all networks say about one scene.

        Args:
            files: images of the task's inputs, in their order, of one size.
            kinds: of files to write into `folder`, of the task's writers.
            folder: where these go, named after the networks.
            focal: length of the camera in px, whose principal point is the image's centre, for files in
                metres; None for what a scene that ships knows of its own.
            baseline: distance of a rig's cameras, metres.
            offset: x of the right view's principal point less that of the left, px.

        Raises:
            UserError: an image is missing, cut off, no image, smaller than a network takes, or of another
                size than the other view; a file needs a calibration; no network answers, as memory does not
                suffice.
        """
        images = self._read(files)
        example = self._find_example(images)
        height, width = images[0].shape[:2]
        calibration = self._calibration((height, width), example, focal, baseline, offset)
        for kind in kinds:
            if kind not in self.task.writers:
                raise unknown("kind of output", kind, self.task.writers)
            if self.task.writers[kind].metric and calibration is None:
                raise UserError(f"the file '{kind}' is in metres: fill in the calibration, or leave it out")
        name = example.name if example else ""
        found = Comparison((height, width), {}, example=name, calibration=calibration)
        if "right" in self.task.inputs and (doubt := doubt_views(*images[:2])):
            found.warnings.append(doubt)
        outputs: dict[str, dict[str, torch.Tensor]] = {}
        for label, predict in self.predictors.items():
            try:
                outputs[label], seconds = _ask(label, predict, images)
            except UserError as error:
                found.refused[label] = str(error)
                continue
            found.answers[label] = Answer(
                seconds,
                getattr(predict, "precision", ""),
                _parameters(predict),
                unbatch(outputs[label]),
                getattr(predict, "classes", ()),
            )
        if not found.answers:
            raise UserError("; ".join(found.refused.values()))
        for label, answer in found.answers.items():
            predicted = Predicted(answer.outputs, images[0], calibration, classes=answer.classes)
            answer.files = self._write(folder, label, predicted, kinds)
        shown = {label: answer.outputs for label, answer in found.answers.items()}
        if example is not None:
            for label, answer in found.answers.items():
                shown[label], answer.figures = self._measure(outputs[label], example.sample)
        self._draw(found, shown, images[0], example)
        return found

    def _read(self, files: Sequence[str | Path | None]) -> list[Picture]:
        given = [Path(file) for file in files if file is not None]
        wanted = [key.replace("_", " ") for key in self.task.inputs]
        if len(given) < len(wanted):
            missing = [name for name, file in zip(wanted, files, strict=True) if file is None]
            raise UserError(f"an image is missing: {', '.join(missing)}")
        try:
            images = formats.read_images(*given)
            if self.task.takes == "image":
                images = [formats.upright(given[0], images[0])]
        except UserError as error:  # which names the file by a path that only this machine knows
            message = str(error)
            for file in given:
                message = message.replace(str(file), file.name)
            raise UserError(message) from None
        to_batches(*images)  # refuses views of several sizes
        return images

    def _calibration(
        self,
        size: tuple[int, int],
        example: Example | None,
        focal: float | None,
        baseline: float | None,
        offset: float | None,
    ) -> Calibration | None:
        rig = "right" in self.task.inputs
        for name, value in (("focal length", focal), ("baseline", baseline), ("principal points", offset)):
            if value is not None and not isinstance(value, (int, float)):  # as a request may have it
                raise UserError(f"{name}: a number is wanted, not {value!r}")
        if focal is None and baseline is None:
            return example.sample["meta"].get("calibration") if example else None
        if focal is None or (rig and baseline is None):
            raise UserError("a calibration takes both the focal length and the baseline; one is missing")
        for name, value in (("focal length", focal), ("baseline", baseline)):
            if value is not None and not value > 0:
                raise UserError(f"the {name} must be above 0, not {value:g}")
        centre = (size[1] - 1) / 2, (size[0] - 1) / 2
        return Calibration(focal, focal, *centre, baseline or 0.0, offset or 0.0, size)

    def _find_example(self, images: Sequence[Picture]) -> Example | None:
        """Return the scene that ships whose images these are."""
        for example in self.examples:
            shown = (example.sample[key].permute(1, 2, 0).numpy() for key in self.task.inputs)
            if all(np.array_equal(one, other) for one, other in zip(images, shown, strict=True)):
                return example
        return None

    def _write(self, folder: Path, label: str, predicted: Predicted, kinds: Sequence[str]) -> list[Path]:
        written = []
        for kind in kinds:
            writer = self.task.writers[kind]
            name = re.sub(r"[^\w.-]+", "_", writer.file.format(label))
            writer.write(folder / name, predicted)
            written.append(folder / name)
        return written

    def _measure(
        self, outputs: dict[str, torch.Tensor], sample: Mapping[str, Any]
    ) -> tuple[dict[str, NDArray[Any]], dict[str, float]]:
        """Return the outputs as the protocol aligns them, and the figures, as `evaluate` has them for this
        sample."""
        from ..metrics import create_metric, metric_info

        outputs = {key: value.cpu() for key, value in outputs.items()}
        batch: dict[str, Any] = {"meta": [sample["meta"]]}
        for target in dict.fromkeys(self.task.targets.values()):
            if target in sample:
                counted = self.protocol.counted(sample, self.task, target, "all", self.max_disparity)
                assert counted is not None  # every sample can tell "all"
                batch[target], batch[f"{target}_valid"] = sample[target][None], counted[None]
        for align in self.protocol.alignments:
            outputs = align(outputs, batch)
        figures: dict[str, float] = {}
        for name in self.protocol.metrics or self.task.metrics:
            metric = create_metric(name, per_image=self.protocol.average == "images")
            metric.update(*metric_info(name).arguments(outputs, batch, self.task))
            value = metric.compute()
            figures |= value if isinstance(value, Mapping) else {name: value}
        return unbatch(outputs), {name: float(value) for name, value in figures.items()}

    def _draw(
        self,
        found: Comparison,
        shown: Mapping[str, Mapping[str, NDArray[Any]]],
        image: Picture,
        example: Example | None,
    ) -> None:
        """Add the pictures of what is `shown` by label, in one range of colours for each output."""
        task = self.task
        truth: dict[str, Any] = {}
        if example is not None:
            _, truth, _ = parts(task, example.sample)
        if task.draw is not None:
            for label, answer in found.answers.items():
                answer.pictures[DRAWN] = task.draw(image, {**shown[label], "names": answer.classes})
            if truth:
                found.truth[DRAWN] = task.draw(image, truth)
        for key in task.maps:
            colour, error = task.colours[key], task.error_colours.get(key)
            if key in truth and example is not None:
                known = task.measured(example.sample, task.targets[key])[None]
                known = unbatch({key: known})[key]
                low, high = value_range(truth[key], known)
                found.truth[key] = colour(truth[key], known, low, high)
                for label, answer in found.answers.items():
                    if error is not None:
                        answer.errors[key] = error(shown[label][key], truth[key], known)
            else:
                low, high = _common_range([outputs[key] for outputs in shown.values()])
            found.ranges[key] = low, high
            for label, answer in found.answers.items():
                picture = colour(shown[label][key], None, low, high)
                answer.pictures[key] = lay_over(image, picture) if has_classes(task, key) else picture


def examples_of(task: Task) -> list[Example]:
    """Return the scenes that ship for `task`."""
    found = []
    for label, name in task.samples.items():
        samples: Any = open_dataset(name, task.name)
        for index, frame in enumerate(samples.frames):
            label = label[:1].upper() + label[1:]
            title = label if len(samples) == 1 else f"{label} {index + 1}"
            files = tuple(frame.files[key] for key in task.inputs)
            found.append(Example(title, files, samples[index]))
    return found


def has_classes(task: Task, key: str) -> bool:
    """Return whether the map `key` says which class a pixel belongs to, and not how much there is of it."""
    return task.targets.get(key) in task.ignore


def _ask(label: str, predict: Predicts, images: Sequence[Picture]) -> tuple[dict[str, torch.Tensor], float]:
    """Return the outputs for `images` and the seconds that they took."""
    height, width = images[0].shape[:2]
    start = time.perf_counter()
    try:
        outputs = predict(*images)
        synchronise(getattr(predict, "device", "cpu"))
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, (MemoryError, torch.OutOfMemoryError)) and "alloc" not in str(error):
            raise
        raise UserError(
            f"{label} needs more memory than there is for {width}x{height} px; scale the images down"
        ) from None
    return outputs, time.perf_counter() - start


def _parameters(predict: Predicts) -> int | None:
    net = getattr(predict, "net", None)
    if not isinstance(net, torch.nn.Module) or isinstance(net, Runtime):
        return None
    return sum(parameter.numel() for parameter in net.parameters())


def _common_range(values: Sequence[NDArray[Any]]) -> tuple[float, float]:
    """Return the range of colours of maps (H, W), or vectors (2, H, W), without ground truth."""
    together = np.concatenate(values, axis=-1)
    finite = np.isfinite(together)
    return value_range(together, finite if together.ndim == 2 else finite.all(0))
