"""`evaluate`: networks measured on data sets by a protocol, as a table and as JSON."""

from __future__ import annotations

import concurrent.futures
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torchmetrics import Metric

from ..errors import UserError
from ..metrics import create_metric, metric_name
from .evaluation import Evaluation
from .load import Predicts, load_predictor
from .predictor import Predictor
from .progress import progress_bar
from .protocols import MASKS, Protocol, get_protocol
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
    limit: int | None = None,
    distributed: bool = False,
    progress: bool = False,
) -> Evaluation:
    """Measure `networks` on `data`.

    Args:
        networks: one or a list of, or a mapping from label to: a network, a name, `name=weights`, `sgbm`, a
            run directory, or anything called like a `Predictor`.
        data: a data set, the name of one, a list of samples, `"samples"` for the pairs that ship, or a
            mapping from label to these. `generalisation` brings its own four.
        protocol: of `PROTOCOLS`; None for `plain`.
        root, split: where a data set given by name lies and which part of it; a mapping by name for several.
        options: further ones of data sets given by name, for example `{"resolution": "Q"}`.
        max_disparity: in px; ground truth at or beyond it does not count, and networks given by name search
            that far. None for the protocol's limit and the networks' own range.
        metrics: in place of the protocol's, for example `["epe", "bad1.5"]`.
        per_image: average within images first; None for what the protocol does.
        device, precision: where and in which arithmetic networks run.
        limit: only so many samples of each data set, evenly spread.
        distributed: share the samples among the processes of the default group; every one gets the same
            figures.
        progress: draw a bar on stderr.

    Returns:
        An `Evaluation`: `rows`, `samples`, `write_json(path)`; printing it draws the table.

    Raises:
        UserError: an unknown network, data set, protocol or metric, or a sample without ground truth.
    """
    protocol = get_protocol(protocol)
    sources = find_sources(data, protocol, root, split, options)
    for source in sources:
        for name in metrics or source.metrics or protocol.metrics:
            metric_name(name)  # fails before anything is loaded
    predictors = _predictors(networks, max_disparity, device, precision)
    bound = protocol.max_disparity if max_disparity is None else max_disparity
    average = protocol.average if per_image is None else ("images" if per_image else "pixels")
    evaluation = Evaluation(
        protocol.name, protocol.says, average, bound, missing=find_missing(protocol, sources)
    )
    with progress_bar(progress) as advance:
        for source in sources:
            names = [metric_name(name) for name in metrics or source.metrics or protocol.metrics]
            indices = _spread(len(source.samples), limit)
            if not indices:
                raise UserError(f"{source.label}: there is not one sample to evaluate on")
            tallies = {
                label: _Tally(label, source.label, predict, names, protocol, average, bound, distributed)
                for label, predict in predictors.items()
            }
            steps = _share(indices, distributed)
            for index, sample in zip(steps, _read_ahead(source.samples, steps), strict=True):
                sample = protocol.crop(sample)
                name = _sample_name(sample, source, index)
                _require_ground_truth(sample, source.label, name)
                for label, tally in tallies.items():
                    evaluation.samples.append(tally.add(sample, name))
                    advance(source.label, label, len(steps) * len(tallies))
            evaluation.rows += [tally.row(len(indices)) for tally in tallies.values()]
    return evaluation


def find_missing(protocol: Protocol, sources: Sequence[Source]) -> list[str]:
    """Return the protocol's data sets that were not given."""
    return [part for part in protocol.parts if part not in {source.label for source in sources}]


class _Tally:
    """What one network reached on one data set so far."""

    def __init__(
        self,
        label: str,
        data: str,
        predict: Predicts,
        names: Sequence[str],
        protocol: Protocol,
        average: str,
        bound: float | None,
        distributed: bool,
    ):
        self.label, self.data, self.predict, self.protocol = label, data, predict, protocol
        self.bound = None if average == "published" else bound  # the published average limits by itself
        self.device = _measuring_device(predict)
        self.seconds: list[float] = []
        self.metrics: dict[str, tuple[str, Metric]] = {}
        for mask in protocol.masks:
            for name in names:
                key = name if mask == "all" else f"{name}_{mask}"
                limit = float("inf") if bound is None else bound
                metric = create_metric(
                    name,
                    per_image=average == "images",
                    published=average == "published",
                    max_disparity=limit,
                    sync_on_compute=distributed,
                )
                self.metrics[key] = (mask, metric.to(self.device))

    def add(self, sample: Mapping[str, Any], name: str) -> dict[str, Any]:
        """Predict for `sample`, count it, and return its own figures."""
        prediction = self._predict(sample)
        target = sample["disparity"].to(self.device)
        if prediction.shape[-2:] != target.shape[-2:]:
            raise UserError(
                f"{self.label} on {self.data} '{name}': the prediction is {_size(prediction)} px, "
                f"the ground truth {_size(target)}"
            )
        figures: dict[str, Any] = {"name": self.label, "data": self.data, "sample": name}
        for key, (mask, metric) in self.metrics.items():
            valid = MASKS[mask](sample)
            if valid is None:
                continue
            valid = valid.to(self.device)
            if self.bound is not None:
                valid = valid & (target < self.bound)
            value = metric(prediction, target[None], valid[None]).item()
            figures[key] = None if value != value else value
        return figures

    def _predict(self, sample: Mapping[str, Any]) -> torch.Tensor:
        predict = self.predict
        if self.protocol.prepare_spec and isinstance(predict, Predictor):
            size = tuple(sample["left"].shape[-2:])
            predict = predict.with_input_spec(self.protocol.prepare_spec(predict.input_spec, size))
        start = time.perf_counter()
        prediction = predict(sample["left"], sample["right"])["disparity"]
        if prediction.device.type != "cpu":
            torch.accelerator.synchronize(prediction.device)
        self.seconds.append(time.perf_counter() - start)
        return prediction.to(self.device)

    def row(self, images: int) -> dict[str, Any]:
        """Return the figures over all samples."""
        row: dict[str, Any] = {
            "name": self.label,
            "data": self.data,
            "images": images,
            "precision": getattr(self.predict, "precision", "unknown"),
            "seconds_per_image": sorted(self.seconds)[len(self.seconds) // 2] if self.seconds else None,
        }
        for key, (_, metric) in self.metrics.items():
            if not (metric.update_called or metric.sync_on_compute):
                continue
            with warnings.catch_warnings():
                # a process that had no sample with this mask still takes part in the sum
                warnings.filterwarnings("ignore", message="The ``compute`` method of metric")
                value = metric.compute().item()
            if value == value:
                row[key] = value
        return row


def _predictors(
    networks: Any, max_disparity: float | None, device: str | torch.device | None, precision: str
) -> dict[str, Predicts]:
    if isinstance(networks, Mapping):
        labelled = list(networks.items())
    else:
        several = networks if isinstance(networks, (list, tuple)) else [networks]
        labelled = [(None, network) for network in several]
    if not labelled:
        raise UserError("there is no network to evaluate")
    reach = None if max_disparity is None else int(-(-max_disparity // 1))
    found: dict[str, Predicts] = {}
    for label, network in labelled:
        predict = load_predictor(network, reach, device, precision)
        label = label or getattr(predict, "name", type(predict).__name__)
        number = 2
        while label in found:
            label = f"{label.split(' #')[0]} #{number}"
            number += 1
        found[label] = predict
    return found


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


def _sample_name(sample: Mapping[str, Any], source: Source, index: int) -> str:
    return str(sample.get("meta", {}).get("name", f"{source.label}[{index}]"))


def _require_ground_truth(sample: Mapping[str, Any], data: str, name: str) -> None:
    if "disparity" not in sample:
        raise UserError(f"{data}: sample '{name}' has no ground truth to evaluate on")
    if not sample["disparity_valid"].any():
        raise UserError(
            f"{data}: sample '{name}' has not one valid pixel of ground truth; check or remove the file"
        )


def _size(tensor: torch.Tensor) -> str:
    return f"{tensor.shape[-1]}x{tensor.shape[-2]}"
