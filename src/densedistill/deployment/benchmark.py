"""`benchmark`: latency, throughput, memory and cost of networks in several runtimes, side by side."""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from ..environment import environment
from ..errors import UserError, as_count, counted, unknown
from ..files import to_json, write_text
from ..inference.classical import SGBM
from ..inference.load import run_label, short_path
from ..inference.predictor import Predictor
from ..networks.counting import count
from ..networks.input_spec import search_range
from ..networks.registry import name_of
from ..runtimes import RUNTIMES, Runtime, is_exported
from ..runtimes.runtime import SUFFIXES
from ..tasks import task_of
from .check import real_images
from .export import as_size
from .measure import can_measure_memory, measure_latency, peak_rates, synchronise
from .resolve import resolve

SIZE = (384, 1248)  # px; KITTI's, padded


@dataclass
class Row:
    """What one network costs in one runtime, for a batch of images of one size.

    Attributes:
        name, runtime, precision, device: what ran, in what, in which arithmetic, and where.
        size: (height, width) of the images.
        batch: samples a call.
        max_disparity: how far it searches, px of the image; None for what searches none.
        p50, p90, p99, mean: seconds a call, images in and predictions out.
        throughput: samples a second, at p50.
        memory: bytes at most while loading and running, beyond a process that has torch loaded.
        parameters, macs: of the network for one sample; None where only its file is known.
        peak_share: share of the rate that a large convolution reaches there in this arithmetic, in [0, 1];
            None on another device than `Benchmark.peak` is of.
        accuracy: metric to value on the data that was given.
    """

    name: str
    runtime: str
    precision: str
    size: tuple[int, int]
    batch: int
    device: str = "cpu"
    p50: float = math.nan
    p90: float = math.nan
    p99: float = math.nan
    mean: float = math.nan
    calls: int = 0
    throughput: float = math.nan
    max_disparity: int | None = None
    memory: int | None = None
    parameters: int | None = None
    macs: int | None = None
    peak_share: float | None = None
    accuracy: dict[str, float] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Name, runtime where there is one, and arithmetic."""
        return " · ".join(filter(None, (self.name, self.runtime, self.precision)))

    def figures(self, metric: str | None) -> dict[str, str]:
        """Return heading to figure as tables write them, `metric` last; "" for what is not known."""
        return {
            **{f"{name} ms": _significant(1e3 * getattr(self, name)) for name in ("p50", "p90", "p99")},
            "a second": _significant(self.throughput),
            "memory MB": _cell(self.memory, 2**20, 0),
            "M parameters": _cell(self.parameters, 1e6, 2),
            "GMACs": _cell(self.macs, 1e9, 1),
            "of peak, %": _cell(self.peak_share, 0.01, 0),
            **({metric: _cell(self.accuracy.get(metric), 1, 3)} if metric else {}),
        }


@dataclass
class Benchmark:
    """What `benchmark` measured: `rows`, the machine, its peak rates in FLOP/s, and when.

    The peak is the GPU's where a row ran on one, else the CPU's.
    """

    rows: list[Row]
    environment: dict[str, Any]
    peak: dict[str, float]
    date: str
    metric: str | None = None

    @property
    def where(self) -> str:
        """What the rows ran on: GPU, processor, or both."""
        found = []
        for device in dict.fromkeys(row.device for row in self.rows):
            kind, _, index = device.partition(":")
            if kind == "cuda":
                found.append(self.environment["gpus"][int(index or 0)])
            else:
                threads = counted(self.environment["threads"], "thread")
                found.append(f"{self.environment['cpu']['model']}, {threads}")
        return " and ".join(dict.fromkeys(found))

    @property
    def what(self) -> str:
        """Samples and size of a call, and how far the rows searched, where they search at all."""
        sizes = dict.fromkeys(f"{r.batch} x {r.size[0]}x{r.size[1]}" for r in self.rows)
        ranges: dict[int | None, dict[str, None]] = {}
        for row in self.rows:
            ranges.setdefault(row.max_disparity, {})[row.name] = None
        reach = [
            f"disparities up to {px} px" + (f" ({', '.join(names)})" if len(ranges) > 1 else "")
            for px, names in ranges.items()
            if px is not None
        ]
        return ", ".join([f"{', '.join(sizes)} px", *reach])

    def table(self) -> Table:
        """Return the rows as a table."""
        peak = ", ".join(f"{name} {rate / 1e9:.0f} GFLOP/s" for name, rate in self.peak.items())
        title = f"{self.what}, {self.where}, {self.date}"
        table = Table(title=title, caption=f"peak, measured: {peak}")
        for heading in ("network", "runtime", "arithmetic"):
            table.add_column(heading)
        for heading in self.rows[0].figures(self.metric):
            table.add_column(heading, justify="right")
        for row in self.rows:
            table.add_row(row.name, row.runtime, row.precision, *row.figures(self.metric).values())
        return table

    def __rich__(self) -> Table:
        return self.table()

    def __str__(self) -> str:
        console = Console(width=160, color_system=None, markup=False)
        with console.capture() as capture:
            console.print(self.table())
        return capture.get()

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values; times in seconds, memory in bytes, rates in FLOP/s."""
        return dataclasses.asdict(self)

    def write_json(self, path: str | os.PathLike[str]) -> Path:
        """Write `to_dict` to `path`, atomically, what is not finite as null, and return the path."""
        write_text(path, to_json(self.to_dict(), indent=1) + "\n")
        return Path(path)

    def front(self) -> list[Row]:
        """Return the rows that no other row beats in both latency and the metric, fastest first.

        A thousandth of the metric is no gain: the same network differs by less between runtimes.
        """
        from ..metrics import metric_info

        if self.metric is None:
            return []
        sign = -1 if metric_info(self.metric).larger_is_better else 1
        front: list[Row] = []
        best = math.inf
        for row in sorted((r for r in self.rows if self.metric in r.accuracy), key=lambda r: r.p50):
            accuracy = row.accuracy[self.metric]
            if sign * accuracy < best - 1e-3 * abs(accuracy):
                best = sign * accuracy
                front.append(row)
        return front


def benchmark(
    networks: Any,
    *,
    size: tuple[int, int] = SIZE,
    batch: int = 1,
    runtimes: Sequence[str] = (),
    precisions: Sequence[str] = ("float32",),
    max_disparity: int | None = None,
    device: str | torch.device | None = None,
    rounds: int = 30,
    warm_up: int = 3,
    seconds: float = 120.0,
    memory: bool = True,
    data: Any = None,
    root: Any = None,
    split: str | None = None,
    options: Mapping[str, Any] | None = None,
    limit: int | None = None,
    on_progress: Callable[[str], None] | None = None,
) -> Benchmark:
    """Measure what `networks` cost for a batch of real images of `size`.

    All are loaded, warmed up, and called in turns; the device is waited for after each call. A call takes
    uint8 images and returns predictions of their size.

    Args:
        networks: one or a list, each as `evaluate` takes it, exported files among them; names without
            weights get random ones.
        size: (height, width), px.
        batch: samples a call.
        runtimes: of `RUNTIMES`, to run each network in; those that are no files are exported to a temporary
            one of this size (of any, where `data` is given), a file runs in those that read it, and `sgbm`
            once, as it is. None given: networks in torch, a file in the usual runtime of its suffix.
        precisions: "float32", "bfloat16" or "auto", to run each in where the runtime can choose.
        max_disparity: search range of networks given by name, and of runs.
        device: where torch runs, and other runtimes where they can; None for where the network is.
        rounds, warm_up, seconds: as `measure_latency` takes them.
        memory: measure peak memory, each in a process of its own; only of what is given by name or file.
        data, root, split, options, limit: labelled data, as `evaluate` takes it, for the task's first metric.
        on_progress: gets a word on each stage.

    Raises:
        UserError: an unknown network or runtime, a runtime that is missing, or a size that is not taken.
    """
    say = on_progress or (lambda message: None)
    several = list(networks) if isinstance(networks, (list, tuple)) else [networks]
    if not several:
        raise UserError("there is no network to measure")
    size = as_size(size)
    batch, rounds = as_count("batch", batch), as_count("rounds", rounds)
    if not precisions:
        raise UserError('precisions is empty; name one at least, for example "float32"')
    for one in runtimes:
        if one not in RUNTIMES:
            raise unknown("runtime", one, RUNTIMES)
    with tempfile.TemporaryDirectory() as folder:
        predictors: list[tuple[Row, Any, Any]] = []
        words = []
        for network, runtime, precision in _variants(several, runtimes, precisions):
            words.append(_word(network))
            say(f"loading {words[-1]}" + (f" in {runtime}" if runtime else ""))
            # A file for one size could not be asked for the samples of `data`.
            shape: dict[str, Any] = {"size": size, "batch": batch} if data is None else {}
            # A folder each: two networks may have one name.
            place = Path(folder) / str(several.index(network))
            predict, source = resolve(
                network, runtime, precision, max_disparity, device, folder=place, on_progress=say, **shape
            )
            predictors.append((_row(predict, network, size, batch), predict, source))
        _distinct([row for row, _, _ in predictors], words)
        calls = {row.label: _call(predict, size, batch) for row, predict, _ in predictors}
        metric = None
        if data is not None:  # first, since it may be refused
            say("evaluating")
            pairs = {row.label: predict for row, predict, _ in predictors}
            metric, accuracy = _evaluated(
                pairs, data, root=root, split=split, options=options, limit=limit, max_disparity=max_disparity
            )
            for row, _, _ in predictors:
                if row.label in accuracy:
                    row.accuracy[metric] = accuracy[row.label]
        say(f"measuring latency: {counted(rounds, 'round')}, none begun after {seconds:g} s")
        latencies = measure_latency(calls, rounds, warm_up, seconds)
        fastest = next((row.device for row, _, _ in predictors if row.device.startswith("cuda")), "cpu")
        peak = peak_rates(fastest)
        for row, _, source in predictors:
            for key, value in vars(latencies[row.label]).items():
                setattr(row, key, value)
            row.throughput = batch / row.p50
            if row.macs is not None and row.precision in peak and row.device == fastest:
                row.peak_share = 2 * row.macs * batch / row.p50 / peak[row.precision]
            if memory and source is not None and can_measure_memory():
                say(f"memory of {row.label}")
                row.memory = _memory(source, row)
    rows = [row for row, _, _ in predictors]
    return Benchmark(rows, environment(), peak, datetime.date.today().isoformat(), metric)


def _variants(
    networks: Sequence[Any], runtimes: Sequence[str], precisions: Sequence[str]
) -> Iterator[tuple[Any, str | None, str]]:
    """Yield each network with each runtime that can run it, and each precision."""
    for network in networks:
        if isinstance(network, SGBM) or network == SGBM.name:
            yield network, None, precisions[0]
            continue
        fitting = list(runtimes)
        if is_exported(network):  # in none of them: the first says what it wants
            fitting = [one for one in runtimes if one in SUFFIXES[Path(network).suffix]] or fitting[:1]
        for runtime in fitting or (None,):
            chosen = list(precisions)
            if not _can_choose(network, runtime):  # in none of them: the first says what it wants
                chosen = [one for one in precisions if one != "bfloat16"][:1] or chosen[:1]
            for precision in chosen:
                yield network, runtime, precision


def _can_choose(network: Any, runtime: str | None) -> bool:
    """Return whether `runtime` can run `network` in another arithmetic than what its file holds."""
    if is_exported(network):
        return (runtime or SUFFIXES[Path(network).suffix][0]) == "openvino"
    return runtime in (None, "torch", "openvino")


def _row(predict: Any, network: Any, size: tuple[int, int], batch: int) -> Row:
    net = getattr(predict, "net", None)
    runtime = net.runtime if isinstance(net, Runtime) else "torch" if isinstance(predict, Predictor) else ""
    row = Row(
        run_label(network) or str(getattr(predict, "name", _word(network))),
        runtime,
        getattr(predict, "precision", ""),
        size,
        batch,
        str(getattr(predict, "device", "cpu")).removesuffix(":0"),  # which "cuda" is
        max_disparity=search_range(net or predict),
    )
    source = getattr(predict, "counted", net)
    if isinstance(source, torch.nn.Module) and not isinstance(source, Runtime):
        counts = count(source, size)
        row.parameters, row.macs = counts.parameters, counts.macs
    if isinstance(net, Runtime) and net.card.weights == "int8":
        row.precision = "int8"
    return row


def _distinct(rows: Sequence[Row], words: Sequence[str]) -> None:
    """Tell rows of one label apart by what their networks were given as, or else by number."""
    labels = Counter(row.label for row in rows)
    for row, word in zip(rows, words, strict=True):
        if labels[row.label] > 1:
            row.name = short_path(word)
    seen: Counter[str] = Counter()
    for row in rows:
        label = row.label
        seen[label] += 1
        if seen[label] > 1:
            row.name = f"{row.name} #{seen[label]}"


def _evaluated(predictors: Mapping[str, Any], data: Any, **options: Any) -> tuple[str, dict[str, float]]:
    """Return the task's first metric, and its mean over the data sets by label, of those that have it."""
    from ..inference.evaluate import evaluate  # imports torchmetrics, which takes seconds

    metric = task_of(next(iter(predictors.values()))).metrics[0]
    rows = [row for row in evaluate(predictors, data, **options).rows if metric in row]
    labels = {row["name"] for row in rows}
    return metric, {label: fmean(row[metric] for row in rows if row["name"] == label) for label in labels}


def _call(predict: Any, size: tuple[int, int], batch: int) -> Callable[[], Any]:
    images = [image.mul(255).byte().repeat(batch, 1, 1, 1) for image in real_images(task_of(predict), size)]
    device = getattr(predict, "device", torch.device("cpu"))
    images = [image.to(device) for image in images]

    def call() -> None:
        predict(*images)
        synchronise(device)

    return call


def _memory(source: dict[str, Any], row: Row) -> int | None:
    """Return the peak memory of one network, measured in a process of its own."""
    wanted = {**source, "size": row.size, "batch": row.batch, "device": row.device}
    wanted["threads"] = torch.get_num_threads()
    command = [sys.executable, "-m", "densedistill.deployment.memory", json.dumps(wanted)]
    answer = subprocess.run(command, capture_output=True, text=True)
    return int(answer.stdout.split()[-1]) if answer.returncode == 0 else None


def _word(network: Any) -> str:
    return str(network) if isinstance(network, (str, Path)) else name_of(network)


def _significant(value: float) -> str:
    """Return `value` in four significant digits, without an exponent."""
    return np.format_float_positional(value, 4, unique=False, fractional=False, trim="-")


def _cell(value: float | None, unit: float, digits: int) -> str:
    return "" if value is None else f"{value / unit:.{digits}f}"
