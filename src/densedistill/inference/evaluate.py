"""`evaluate`: networks measured on data sets by a protocol, as a table and as JSON."""

from __future__ import annotations

import concurrent.futures
import math
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torchmetrics import Metric

from ..data.sample import require_sample, sample_name
from ..errors import DataWarning, UserError
from ..metrics import MetricInfo, create_metric, metric_info
from ..tasks import Task
from .evaluation import Evaluation, figures_of
from .load import Predicts, load_predictors, task_of_networks
from .predictor import Predictor
from .progress import progress_bar
from .protocols import Protocol, get_protocol
from .sources import Source, find_sources

__all__ = ["Evaluation", "evaluate"]


def evaluate(
    networks: Any,
    data: Any = None,
    protocol: str | Protocol | None = None,
    *,
    root: Any = None,
    split: str | None = None,
    options: Mapping[str, Any] | None = None,
    max_disparity: float | None = None,
    metrics: Sequence[str] | None = None,
    per_image: bool | None = None,
    device: str | torch.device | None = None,
    precision: str = "float32",
    runtime: str | None = None,
    limit: int | None = None,
    distributed: bool = False,
    progress: bool = False,
) -> Evaluation:
    """Measure `networks` on `data`.

    Args:
        networks: one or a list of, or a mapping from label to: a network, a name, `name=weights`, `sgbm`, a
            run directory, an exported file, or anything called like a `Predictor`.
        data: a data set, the name of one, a list of samples, `"samples"` for those that ship, or a
            mapping from label to these. `generalisation` brings its own four.
        protocol: one of the networks' task (`list_protocols`); None for `plain`.
        root, split: where a data set given by name lies and which part of it; a mapping by name for several.
        options: further ones of data sets given by name, for example `{"resolution": "Q"}`.
        max_disparity: in px; ground truth at or beyond it does not count, and networks given by name, and
            runs, search that far. None for the protocol's limit and the networks' own range.
        metrics: in place of the protocol's, for example `["epe", "bad1.5"]`.
        per_image: average within images first; None for what the protocol does.
        device, precision: where and in which arithmetic networks run.
        runtime: of exported files; None for the usual one of their suffix.
        limit: only so many samples of each data set, evenly spread.
        distributed: share the samples among the processes of the default group; every one gets the same
            figures.
        progress: draw a bar on stderr.

    Returns:
        An `Evaluation`: `rows`, `samples`, `write_json(path)`; printing it draws the table.

    Warns:
        DataWarning: a network tells another number of classes apart than a data set has.

    Raises:
        UserError: an unknown network, data set, protocol or metric, a limit that nothing is below, or a
            sample without ground truth.
    """
    if max_disparity is not None and not 0 < max_disparity < math.inf:
        raise UserError(f"max_disparity is a number of px above 0, got {max_disparity:g}")
    task = task_of_networks(networks)
    protocol = get_protocol(protocol, task)
    sources = find_sources(data, protocol, task, root, split, options)
    measures = {
        source.label: _measures(metrics or source.metrics or protocol.metrics or task.metrics, task)
        for source in sources
    }
    reach = None if max_disparity is None else math.ceil(max_disparity)
    predictors = load_predictors(networks, reach, device, precision, runtime)
    bound = protocol.max_disparity if max_disparity is None else max_disparity
    average = protocol.average if per_image is None else ("images" if per_image else "pixels")
    evaluation = Evaluation(
        protocol.name,
        protocol.says,
        average,
        bound,
        missing=find_missing(protocol, sources),
        task=task.name,
        limits=protocol.limits_in_words(task, bound),
    )
    with progress_bar(progress) as advance:
        for source in sources:
            indices = _spread(len(source.samples), limit)
            if not indices:
                raise UserError(f"{source.label}: there is not one sample to evaluate on")
            counting = _Counting(
                task,
                protocol,
                measures[source.label],
                average,
                bound,
                distributed,
                _how_many(source.samples),
            )
            tallies = {
                label: _Tally(label, source.label, predict, counting) for label, predict in predictors.items()
            }
            steps = _share(indices, distributed)
            for index, sample in zip(steps, _read_ahead(source.samples, steps), strict=True):
                require_sample(sample, source.label)
                name = sample_name(sample, source.label, index)
                sample = protocol.crop(sample, task.inputs[0])
                require_measurable(sample, task, measures[source.label], source.label, name)
                for label, tally in tallies.items():
                    evaluation.samples.append(tally.add(sample, name))
                    advance(source.label, label, len(steps) * len(tallies))
            rows = [tally.row(len(indices)) for tally in tallies.values()]
            if metrics:
                evaluation.metrics = list(dict.fromkeys([*evaluation.metrics, *figures_of(rows)]))
            evaluation.rows += [{key: value for key, value in row.items() if value == value} for row in rows]
    return evaluation


def find_missing(protocol: Protocol, sources: Sequence[Source]) -> list[str]:
    """Return the protocol's data sets that were not given."""
    return [part for part in protocol.parts if part not in {source.label for source in sources}]


def _measures(names: Sequence[str], task: Task) -> list[MetricInfo]:
    """Return what the metrics `names` say of themselves; UserError for one that the task has not."""
    found = [metric_info(name) for name in names]
    for info in found:
        for key in info.of:
            if key not in task.outputs:
                raise UserError(
                    f"metric '{info.name}' reads {key}, which task {task.name} does not predict; "
                    f"it has {', '.join(task.metrics)}"
                )
    return found


@dataclass(frozen=True)
class _Counting:
    """What is measured on one data set of so many `classes`, the same for every network."""

    task: Task
    protocol: Protocol
    measures: Sequence[MetricInfo]
    average: str
    bound: float | None
    distributed: bool
    classes: int | None

    def create(self, info: MetricInfo) -> Metric:
        return create_metric(
            info.name,
            per_image=self.average == "images",
            published=self.average == "published",
            max_disparity=float("inf") if self.bound is None else self.bound,
            sync_on_compute=self.distributed,
        )

    def truth(self, sample: Mapping[str, Any], mask: str, device: torch.device) -> dict[str, Any]:
        """Return the sample's ground truth as a batch of one, with `KEY_valid`: what counts by `mask`."""
        bound = None if self.average == "published" else self.bound  # the published average limits by itself
        batch = {key: sample[key][None].to(device) for key in self.task.aside if key in sample}
        for target in dict.fromkeys(self.task.targets.values()):
            if target in sample:
                counted = self.protocol.counted(sample, self.task, target, mask, bound)
                if counted is not None:
                    batch[target] = sample[target][None].to(device)
                    batch[f"{target}_valid"] = counted[None].to(device)
        return batch


class _Tally:
    """What one network reached on one data set so far."""

    def __init__(self, label: str, data: str, predict: Predicts, counting: _Counting):
        self.label, self.data, self.predict, self.counting = label, data, predict, counting
        self.device = _measuring_device(predict)
        self.seconds: list[float] = []
        self.weighted: list[tuple[float, dict[str, float]]] = []
        self.metrics: dict[str, tuple[str, MetricInfo, Metric]] = {  # by column
            info.name if mask == "all" else f"{info.name}_{mask}": (
                mask,
                info,
                counting.create(info).to(self.device),
            )
            for mask in counting.protocol.masks
            for info in counting.measures
        }

    def add(self, sample: Mapping[str, Any], name: str) -> dict[str, Any]:
        """Predict for `sample`, count it, and return its own figures."""
        outputs = self._predict(sample)
        task, protocol = self.counting.task, self.counting.protocol
        if protocol.alignments:
            truth = {**self.counting.truth(sample, "all", self.device), "meta": [sample.get("meta", {})]}
            for align in protocol.alignments:
                outputs = align(outputs, truth)
        self._check_sizes(outputs, sample, name)
        if not self.weighted:
            self._compare_classes(outputs)
        figures: dict[str, Any] = {"name": self.label, "data": self.data, "sample": name}
        counted: dict[str, float] = {}
        truths = {mask: self.counting.truth(sample, mask, self.device) for mask in protocol.masks}
        for key, (mask, info, metric) in self.metrics.items():
            targets = info.targets(task)
            if all(target in truths[mask] for target in targets):
                found = _figures(key, metric(*info.arguments(outputs, truths[mask], task)))
                figures |= {name: None if value != value else value for name, value in found.items()}
                if all(truths[mask][f"{target}_valid"].any() for target in targets):
                    counted |= found
        self.weighted.append((protocol.weight(name), counted))
        return figures

    def _predict(self, sample: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        predict, protocol = self.predict, self.counting.protocol
        images = [sample[key] for key in self.counting.task.inputs]
        if protocol.prepare_spec and isinstance(predict, Predictor):
            size = tuple(images[0].shape[-2:])
            predict = predict.with_input_spec(protocol.prepare_spec(predict.input_spec, size))
        for procedure in protocol.procedures:
            predict = procedure(predict)
        start = time.perf_counter()
        outputs = predict(*images)
        device = next(iter(outputs.values())).device
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        self.seconds.append(time.perf_counter() - start)
        return {key: value.to(self.device) for key, value in outputs.items()}

    def _check_sizes(self, outputs: Mapping[str, Any], sample: Mapping[str, Any], name: str) -> None:
        for key in self.counting.task.maps:
            target = self.counting.task.targets[key]
            if key in outputs and target in sample and outputs[key].shape[-2:] != sample[target].shape[-2:]:
                raise UserError(
                    f"{self.label} on {self.data} '{name}': the prediction is {_size(outputs[key])} px, "
                    f"the ground truth {_size(sample[target])}"
                )

    def _compare_classes(self, outputs: Mapping[str, Any]) -> None:
        told, held = _class_count(self.predict, outputs, self.counting.task), self.counting.classes
        if told and held and told != held:
            warnings.warn(
                f"{self.label} tells {told} classes apart, {self.data} has {held}: figures mean something "
                "only where both give a class the same number",
                DataWarning,
                stacklevel=1,
            )

    def row(self, images: int) -> dict[str, Any]:
        """Return the figures over all samples; NaN where there was nothing to measure."""
        row: dict[str, Any] = {
            "name": self.label,
            "data": self.data,
            "images": images,
            "precision": getattr(self.predict, "precision", "unknown"),
            "seconds_per_image": sorted(self.seconds)[len(self.seconds) // 2] if self.seconds else None,
        }
        for key, (_, _, metric) in self.metrics.items():
            if not (metric.update_called or metric.sync_on_compute):
                row[key] = math.nan
                continue
            with warnings.catch_warnings():
                # a process that had no sample with this mask still takes part in the sum
                warnings.filterwarnings("ignore", message="The ``compute`` method of metric")
                row |= _figures(key, metric.compute())
        if self.counting.protocol.weights and self.counting.average == "images":
            row |= self._weighted_means()
        return row

    def _weighted_means(self) -> dict[str, float]:
        """Return the means over the images of all processes on which anything counts, each with its weight;
        NaN where a prediction makes one of them NaN."""
        samples = self.weighted
        if self.counting.distributed:
            everywhere: list[Any] = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(everywhere, samples)
            samples = [one for shared in everywhere for one in shared]
        means = {}
        for key in self.metrics:
            found = [(w, figures[key]) for w, figures in samples if key in figures]
            if found:
                means[key] = sum(w * value for w, value in found) / sum(w for w, _ in found)
        return means


def _figures(key: str, value: Any) -> dict[str, float]:
    """Return a metric's value by its column; one that gives several figures names them itself."""
    if isinstance(value, Mapping):
        return {name: float(figure) for name, figure in value.items()}
    return {key: value.item()}


def _class_count(predict: Predicts, outputs: Mapping[str, Any], task: Task) -> int | None:
    """Return how many classes a network tells apart, by its `outputs` or its own word; None if neither says,
    or the task has no classes."""
    if not task.ignore:
        return None
    for key in task.maps:
        if task.targets[key] in task.ignore and outputs[key].ndim == 4:
            return int(outputs[key].shape[1])
    return _how_many(getattr(predict, "net", None))


def _how_many(knows: Any) -> int | None:
    """Return the number of the classes that a network or data set knows, by names or by their number."""
    classes = getattr(knows, "classes", None)
    if isinstance(classes, Sequence):
        return len(classes)
    return classes if isinstance(classes, int) else None


def _spread(count: int, limit: int | None) -> list[int]:
    if limit is None or limit >= count:
        return list(range(count))
    return [number * count // limit for number in range(limit)]


def _measuring_device(predict: Predicts) -> torch.device:
    """Return where the network is, so that maps stay there; the CPU where that cannot count in float64."""
    device = torch.device(getattr(predict, "device", "cpu"))
    return torch.device("cpu") if device.type == "mps" else device


def _share(indices: list[int], distributed: bool) -> list[int]:
    if not distributed:
        return indices
    rank, size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    return indices[rank::size]


def _read_ahead(samples: Any, indices: Sequence[int]) -> Iterator[Mapping[str, Any]]:
    """Give the samples in order, the next one read while this one is worked on."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        pending = [pool.submit(samples.__getitem__, index) for index in indices[:1]]
        for following in [*indices[1:], None]:
            sample = pending.pop().result()
            if following is not None:
                pending.append(pool.submit(samples.__getitem__, following))
            yield sample


def require_measurable(
    sample: Mapping[str, Any], task: Task, measures: Sequence[MetricInfo], data: str, name: str
) -> None:
    """Refuse a sample without an input or without ground truth for any of `measures`."""
    target = task.targets[task.outputs[0]]
    wanted = [info.targets(task) for info in measures]
    if not any(all(key in sample for key in keys) for keys in wanted):
        target = next(key for keys in wanted for key in keys if key not in sample)
        held = ", ".join(key for key in sample if key != "meta")
        raise UserError(
            f"{data}: sample '{name}' has no '{target}' to evaluate {task.name} on; it holds {held}"
        )
    for key in task.inputs:
        if key not in sample:
            raise UserError(f"{data}: sample '{name}' has no '{key}', which task {task.name} needs")
    if f"{target}_valid" in sample and not sample[f"{target}_valid"].any():
        raise UserError(
            f"{data}: sample '{name}' has not one valid pixel of ground truth; check or remove the file"
        )


def _size(tensor: torch.Tensor) -> str:
    return f"{tensor.shape[-1]}x{tensor.shape[-2]}"
