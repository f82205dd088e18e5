"""Latency, memory and cost, side by side."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import mmap
import re
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import Tiny

import densedistill as dd
from densedistill import cli
from densedistill.deployment import measure
from densedistill.deployment.benchmark import Benchmark, Row, _call, _memory, _row, _variants, benchmark
from densedistill.deployment.export import export
from densedistill.deployment.measure import MemoryMeter, measure_latency, peak_rates, percentile
from densedistill.errors import UserError
from densedistill.inference.load import load_predictor
from densedistill.report import speed
from densedistill.report.speed import pareto_chart, write_speed

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_percentiles_are_by_nearest_rank():
    values = [float(v) for v in range(1, 101)]
    assert [percentile(values, share) for share in (0.5, 0.9, 0.99)] == [50, 90, 99]
    assert percentile([3.0], 0.5) == 3.0


def test_calls_take_turns_after_the_warm_up():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "ab"}
    found = measure_latency(calls, rounds=3, warm_up=2)
    assert "".join(order) == "aabb" + "ab" * 3
    assert found["a"].calls == 3


def test_latency_is_the_time_of_a_call_and_ends_in_time():
    found = measure_latency({"sleep": lambda: time.sleep(0.02)}, rounds=1000, warm_up=1, seconds=0.1)["sleep"]
    assert 0.02 <= found.p50 <= found.p90 <= found.p99
    assert 3 <= found.calls < 20


def test_a_call_waits_for_the_device_that_it_runs_on(monkeypatch):
    """Not for the present one, which another GPU or Apple's is not."""

    class Elsewhere:
        device = torch.device("meta")

        def __call__(self, left, right):
            assert left.device == right.device == self.device
            waited.append("called")

    waited = []
    monkeypatch.setattr(torch.accelerator, "synchronize", waited.append)
    _call(Elsewhere(), (8, 16), 1)()
    assert waited == ["called", torch.device("meta")]


def test_memory_is_what_came_on_top():
    meter = MemoryMeter()
    # Not of what an allocator has kept.
    held = torch.frombuffer(mmap.mmap(-1, 64 * 2**20), dtype=torch.uint8).fill_(1)
    assert 60 * 2**20 < meter.peak() < 200 * 2**20
    del held


def test_peak_rates_are_measured_for_both_formats():
    rates = peak_rates(rounds=1)
    assert set(rates) == {"float32", "bfloat16"}
    assert all(1e8 < rate < 1e15 for rate in rates.values())


def test_a_rate_is_two_operations_a_mac_in_the_best_time(monkeypatch):
    clock = iter([0, 4, 0, 1, 0, 2, 0, 3])  # seconds of float32 and bfloat16 in turn
    monkeypatch.setattr(measure.time, "perf_counter", lambda: next(clock))
    operations = 2 * 9 * 64 * 64 * 96 * 128
    assert peak_rates(rounds=2) == {"float32": operations / 2, "bfloat16": operations / 1}


def test_the_peak_of_float32_is_not_tf32s(monkeypatch):
    allowed = []
    monkeypatch.setattr(measure.F, "conv2d", lambda *a, **k: allowed.append(torch.backends.cudnn.allow_tf32))
    peak_rates(rounds=1)
    assert allowed == [False, False]


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    network = Tiny(dd.InputSpec(multiple=8), "stereo").eval()
    file = tmp_path_factory.mktemp("benchmark") / "tiny.onnx"
    export(network, file, check_sizes=[(16, 24)])
    sample = dd.create_dataset("middlebury2003")[0]
    small = {k: v[..., :60, :90] if hasattr(v, "ndim") else v for k, v in sample.items()}
    return benchmark(
        [network, str(file)], size=(40, 60), batch=np.int64(2), rounds=3, data=[small], memory=False
    )


def test_rows_say_what_ran_where_and_what_it_costs(measured):
    ours, theirs = measured.rows
    assert (ours.name, ours.runtime, ours.precision, ours.device) == ("tiny", "torch", "float32", "cpu")
    assert (theirs.name, theirs.runtime) == ("tiny.onnx", "onnxruntime")
    assert ours.throughput == pytest.approx(2 / ours.p50)
    assert ours.parameters == sum(p.numel() for p in Tiny().parameters())
    assert ours.peak_share == pytest.approx(4 * ours.macs / ours.p50 / measured.peak["float32"])
    assert theirs.macs is None
    assert ours.accuracy["epe"] == pytest.approx(theirs.accuracy["epe"], abs=1e-2)
    assert "tiny.onnx" in str(measured)


def test_figures_are_written_as_json_and_as_a_page(measured, tmp_path):
    text = measured.write_json(tmp_path / "speed.json").read_text()
    found = json.loads(text, parse_constant=pytest.fail)  # Infinity and NaN are no JSON
    assert found["environment"]["cpu"]["model"]
    assert {"torch", "onnxruntime"} <= found["environment"]["packages"].keys()
    assert {"p50", "p90", "p99", "throughput", "memory", "macs", "peak_share"} <= found["rows"][0].keys()
    page = write_speed(measured, tmp_path / "speed.html").read_text()
    assert page.count("<circle") == 2
    assert "tiny.onnx" in page
    assert f"{measured.what}, {measured.where}, {measured.date}" in page
    assert not re.search(r"(src|href)=\"http", page)


@pytest.mark.parametrize(
    ("ranges", "said"),
    [
        ((64, 64), "1 x 8x12 px, disparities up to 64 px"),
        ((64, 192), "1 x 8x12 px, disparities up to 64 px (a), disparities up to 192 px (b)"),
        ((None, None), "1 x 8x12 px"),
    ],
)
def test_a_table_says_how_far_each_row_searched(ranges, said):
    rows = [Row(name, "", "", (8, 12), 1, max_disparity=px) for name, px in zip("ab", ranges, strict=True)]
    result = Benchmark(rows, {"cpu": {"model": "Abacus"}, "threads": 2}, {}, "")
    assert result.what == said
    assert " ".join(str(result).split()).startswith(said)


def test_a_network_seen_larger_searches_in_the_pixels_of_the_image():
    rows = [_row(load_predictor(name), name, (32, 32), 1) for name in ("coex_slim", "coex_slim@2", "sgbm")]
    assert [row.max_disparity for row in rows] == [96, 96, 192]


def test_tables_have_milliseconds_megabytes_millions_billions_and_per_cent():
    row = Row("[a]", "torch", "float32", (8, 12), 2, p50=0.01234, p90=12.3456, p99=12.5)
    row.throughput, row.memory, row.parameters, row.macs = 162.07, 3 * 2**20, 1_234_000, 5_600_000_000
    row.peak_share, row.accuracy = 0.456, {"epe": 1.2344}
    result = Benchmark([row], {"cpu": {"model": "Abacus"}, "threads": 2}, {"float32": 1.5e12}, "", "epe")
    figures = ["12.34", "12350", "12500", "162.1", "3", "1.23", "5.6", "46", "1.234"]
    assert list(row.figures("epe").values()) == figures
    assert "peak, measured: float32 1500 GFLOP/s" in str(result)
    (line,) = (line for line in str(result).splitlines() if "[a]" in line)
    assert re.findall(r"[^│\s]+", line) == ["[a]", "torch", "float32", *figures]
    assert re.findall('data-value="([^"]*)"', speed._table(result, [])) == figures
    assert row.figures(None).keys() == row.figures("epe").keys() - {"epe"}
    assert set(Row("b", "", "", (8, 12), 1, p50=1, p90=1, p99=1, throughput=1).figures("epe").values()) == {
        "",
        "1000",
        "1",
    }


def test_a_machine_is_what_the_rows_ran_on():
    found = {"cpu": {"model": "Abacus"}, "threads": 2, "gpus": ["Lovelace", "Hopper"]}
    rows = [Row(device, "torch", "float32", (8, 8), 1, device) for device in ("cuda:1", "cpu", "cuda")]
    assert Benchmark(rows, found, {}, "").where == "Hopper and Abacus, 2 threads and Lovelace"
    assert Benchmark(rows[1:2], found, {}, "").where == "Abacus, 2 threads"
    assert Benchmark(rows[1:2], {**found, "threads": 1}, {}, "").where == "Abacus, 1 thread"
    assert "Lovelace" not in str(Benchmark(rows[1:2], found, {}, ""))


def test_memory_is_measured_where_the_row_ran(monkeypatch):
    asked = []

    def run(command, **_):
        asked.append(json.loads(command[-1]))
        return subprocess.CompletedProcess(command, 0, "7\n", "")

    monkeypatch.setattr(subprocess, "run", run)
    row = Row("a", "torch", "float32", (8, 12), 2, "cuda:1")
    assert _memory({"network": "dsnet_slim"}, row) == 7
    assert (asked[0]["device"], asked[0]["size"], asked[0]["batch"]) == ("cuda:1", [8, 12], 2)


def test_the_front_is_what_nothing_beats_in_both():
    def row(name, p50, epe):
        return Row(name, "torch", "float32", (8, 8), 1, p50=p50, accuracy={"epe": epe})

    rows = [row("slow", 3.0, 1.0), row("fast", 1.0, 2.0), row("worse", 2.0, 2.5), row("middle", 2.5, 1.5)]
    rows.append(row("middle in another runtime", 2.6, 1.4999))
    result = Benchmark(rows, {}, {}, "", "epe")
    assert [r.name for r in result.front()] == ["fast", "middle", "slow"]
    dots = re.findall(r"<title>(\w+) · torch, ([\d.]+), .*?fill:var\(--series-(\d)", pareto_chart(result))
    assert dots[:3] == [("slow", "3000", "0"), ("fast", "1000", "0"), ("worse", "2000", "7")]
    shares = [dataclasses.replace(r, accuracy={"miou": r.accuracy["epe"]}) for r in rows]
    assert [r.name for r in Benchmark(shares, {}, {}, "", "miou").front()] == ["fast", "worse"]
    assert pareto_chart(Benchmark(rows, {}, {}, "")) is None


def test_each_runs_where_it_can():
    found = list(_variants(["dsnet_slim", "a.onnx", "a.xml", "sgbm"], ["torch", "openvino"], ["auto"]))
    assert found == [
        ("dsnet_slim", "torch", "auto"),
        ("dsnet_slim", "openvino", "auto"),
        ("a.onnx", "openvino", "auto"),
        ("a.xml", "openvino", "auto"),
        ("sgbm", None, "auto"),
    ]


def test_a_file_runs_once_in_a_runtime_that_computes_in_what_it_holds():
    found = list(_variants(["dsnet_slim", "a.onnx"], ["torch", "onnxruntime"], ["float32", "bfloat16"]))
    assert found == [
        ("dsnet_slim", "torch", "float32"),
        ("dsnet_slim", "torch", "bfloat16"),
        ("dsnet_slim", "onnxruntime", "float32"),
        ("a.onnx", "onnxruntime", "float32"),
    ]
    assert list(_variants(["a.pt2"], [], ["auto", "float32"])) == [("a.pt2", None, "auto")]
    assert list(_variants(["a.onnx"], ["openvino"], ["bfloat16"])) == [("a.onnx", "openvino", "bfloat16")]
    # It says why not.
    assert list(_variants(["a.onnx"], [], ["bfloat16"])) == [("a.onnx", None, "bfloat16")]


def test_networks_of_one_name_are_told_apart_in_every_runtime():
    world = dd.create_dataset("world", length=1, size=[48, 80], max_disparity=32)
    networks = [Tiny(task="stereo").eval() for _ in range(2)]
    with torch.no_grad():
        networks[1].head.bias.add_(100)
    rows = benchmark(
        networks, runtimes=["onnxruntime"], size=(32, 64), rounds=1, memory=False, data=world
    ).rows
    assert [row.name for row in rows] == ["tiny", "tiny #2"]
    assert rows[1].accuracy["epe"] > rows[0].accuracy["epe"] + 50


def test_weights_of_one_network_are_told_apart_by_their_files(tmp_path):
    files = [tmp_path / name / "student.onnx" for name in ("first", "second")]
    for file in files:
        export(Tiny(task="stereo").eval(), file, check_sizes=[(16, 24)])
    given = [*map(str, files), str(files[0])]
    rows = benchmark(given, size=(16, 24), rounds=1, memory=False).rows
    names = ["first/student.onnx", "second/student.onnx", "first/student.onnx #2"]
    assert [row.name for row in rows] == names


def test_accuracy_is_that_of_a_file_for_any_size(tmp_path):
    world = dd.create_dataset("world", length=1, size=[48, 80], max_disparity=32)
    options = {"runtimes": ["onnxruntime"], "size": (32, 64), "rounds": 1, "memory": False, "data": world}
    said = []
    (row,) = benchmark(["dsnet_slim"], **options, max_disparity=64, on_progress=said.append).rows
    assert {"tracing dsnet_slim", "measuring latency: 1 round, none begun after 120 s"} < set(said)
    assert row.p50 > 0
    assert row.accuracy["epe"] > 0


@pytest.mark.parametrize(
    ("networks", "options", "words"),
    [
        ([], {}, "there is no network to measure"),
        (["dsnet_slm"], {}, "did you mean 'dsnet_slim'"),
        (["sgbm"], {"runtimes": ["onnx"]}, "there is no runtime 'onnx'"),
        (["a.xml"], {"runtimes": ["torch"]}, "there is no file a.xml"),
        (["dsnet_slim"], {"runtimes": ["tensorrt"]}, "tensorrt is not installed: pip install tensorrt"),
        (["dsnet_slim"], {"size": (0, 3)}, r"size is \(height, width\) in px, got \(0, 3\)"),
        (["dsnet_slim"], {"size": 64}, r"size is \(height, width\) in px, got 64"),
        (["dsnet_slim"], {"batch": 0}, "batch is a whole number, 1 or more, got 0"),
        (["dsnet_slim"], {"rounds": 0}, "rounds is a whole number, 1 or more, got 0"),
        (["dsnet_slim"], {"rounds": 2.5}, r"rounds is a whole number, 1 or more, got 2\.5"),
        (["dsnet_slim"], {"precisions": ()}, "precisions is empty"),
    ],
)
def test_mistakes_are_one_line(networks, options, words):
    with pytest.raises(UserError, match=words):
        benchmark(networks, **{"size": (32, 64), "memory": False, **options})


@pytest.mark.full
def test_the_command_line_measures_in_every_runtime_that_is_there(tmp_path, capsys):
    command = [
        "benchmark",
        "dsnet_slim",
        "sgbm",
        "--runtime",
        "torch",
        "--size",
        "48x96",
        "--max-disparity",
        "32",
    ]
    command += [
        "--rounds",
        "3",
        "--threads",
        "1",
        "--json",
        str(tmp_path / "a.json"),
        "--html",
        str(tmp_path / "a.html"),
    ]
    assert cli.main(command) == 0
    rows = json.loads((tmp_path / "a.json").read_text())["rows"]
    assert [row["name"] for row in rows] == ["dsnet_slim", "sgbm"]
    assert rows[0]["memory"] > 2**20
    command = [
        "benchmark",
        "dsnet_slim",
        "--runtime",
        "onnxruntime,openvino",
        "--size",
        "48x96",
        "--rounds",
        "3",
    ]
    assert cli.main([*command, "--max-disparity", "32", "--json", str(tmp_path / "b.json")]) == 0
    rows = json.loads((tmp_path / "b.json").read_text())["rows"]
    assert [row["runtime"] for row in rows] == ["onnxruntime", "openvino"]
    assert all(row["macs"] and row["memory"] for row in rows)


def script_of(name, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location(Path(name).stem, BENCHMARKS / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_figures_of_a_gpu_are_written_as_they_come_whatever_fails(tmp_path, monkeypatch):
    def wordless():
        raise AssertionError

    def interrupted():
        raise KeyboardInterrupt

    script = script_of("gpu/run.py", monkeypatch)
    output = tmp_path / "gpu.json"
    log = script.Log(100, script.parse(["--smoke", "--output", str(output)]))
    log.fact("peak_flops", wordless)
    log.add("part", "a", "eager", wordless)
    log.add("part", "b", "eager", lambda: lambda: None)
    with pytest.raises(KeyboardInterrupt):
        log.add("part", "c", "eager", interrupted)
    found = json.loads(output.read_text())
    assert found["peak_flops"] == found["rows"][0]["note"] == "AssertionError: it does not say why"
    assert [row["what"] for row in found["rows"]] == ["a", "b"]
    assert found["rows"][1]["p50"] >= 0


@pytest.mark.full
@pytest.mark.parametrize("script", ["gpu/run.py", "loader.py"])
def test_benchmarks_run_small_anywhere(script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    output = tmp_path / "figures.json"
    assert script_of(script, monkeypatch).main(["--smoke", "--output", str(output)]) == 0
    assert json.loads(output.read_text())["environment"]["cpu"]["model"]
