"""Say what there is to run on, how fast it is, and what could be installed.

examples:
  densedistill doctor
  densedistill doctor --json
"""

from __future__ import annotations

import argparse
import json
import re
from importlib import metadata, util
from typing import Any

from ..errors import counted

# Extra of the package -> what it brings, and what that is good for.
EXTRAS = {
    "export": (
        ("onnx", "onnxscript", "onnxruntime", "openvino", "nncf"),
        "export to ONNX and OpenVINO, and run there",
    ),
    "app": (("gradio",), "the web demo"),
    "cluster": (("ray",), "labelling and training on many machines"),
    "data": (("h5py", "pycocotools", "scipy"), "data sets in HDF5 and .mat, COCO's annotations"),
    "zoo": (("transformers", "segmentation_models_pytorch"), "teachers from those libraries"),
    "docs": (("mkdocs",), "building the documentation"),
    "dev": (("pytest", "ruff", "mypy"), "developing densedistill"),
}
RUNTIMES = ("onnxruntime", "openvino", "tensorrt")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `doctor`."""
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(args: argparse.Namespace) -> int:
    """Print the findings; 1 when something needed is missing."""
    found = examine()
    if args.json:
        print(json.dumps(found, indent=2))
    else:
        print("\n".join(describe(found)))
    return 1 if found["missing"] else 0


def examine() -> dict[str, Any]:
    """Return versions, processor, measured speed, GPUs and extras as plain values."""
    from ..environment import environment
    from ..networks.precision import fastest_dtype

    found = environment()
    found["convolution"] = convolution_rates()
    found["auto"] = str(fastest_dtype("cpu")).removeprefix("torch.")
    provided = provided_extras()
    found["extras"] = {
        name: {m: util.find_spec(m) is not None for m in modules}
        for name, (modules, _) in EXTRAS.items()
        if name in provided
    }
    found["runtimes"] = {name: util.find_spec(name) is not None for name in RUNTIMES}
    found["missing"] = missing_dependencies()
    return found


def convolution_rates(rounds: int = 20) -> dict[str, float]:
    """Return the measured rates of a 3x3 convolution on this CPU by number format, in GFLOP/s."""
    from ..deployment.measure import peak_rates

    return {f"{name}_gflops": round(rate / 1e9, 1) for name, rate in peak_rates("cpu", rounds).items()}


def provided_extras() -> list[str]:
    """Return the extras that the installed densedistill declares; all of them in a bare source tree."""
    try:
        return metadata.metadata("densedistill").get_all("Provides-Extra") or []
    except metadata.PackageNotFoundError:
        return list(EXTRAS)


def missing_dependencies() -> list[str]:
    """Return the packages that densedistill needs and that are not installed."""
    missing = []
    try:
        wanted = metadata.requires("densedistill") or []
    except metadata.PackageNotFoundError:
        return []  # run from a source tree that was not installed
    for requirement in wanted:
        if "extra ==" in requirement:
            continue
        name = re.split(r"[;\[<>=!~ ]", requirement)[0]
        try:
            metadata.version(name)
        except metadata.PackageNotFoundError:
            missing.append(name)
    return missing


def describe(found: dict[str, Any]) -> list[str]:
    """Return the findings as lines for a person."""
    cpu, speeds = found["cpu"], found["convolution"]
    versions = ", ".join(f"{name} {version}" for name, version in found["packages"].items())
    amx = "AMX" if "amx_bf16" in cpu["flags"] else "no AMX"
    half = (
        "bfloat16 instructions"
        if {"avx512_bf16", "amx_bf16", "bf16"} & set(cpu["flags"])
        else "none for bfloat16"
    )
    processor = (
        cpu["model"],
        counted(cpu["cores"], "core"),
        counted(found["threads"], "thread"),
        cpu["capability"],
        amx,
        half,
    )
    rates = ", ".join(f"{dtype} {speeds[f'{dtype}_gflops']:.0f} GFLOP/s" for dtype in ("float32", "bfloat16"))
    lines = [
        f"densedistill {found['densedistill']}, Python {found['python']}, {found['platform']}",
        f"packages      {versions}",
        f"processor     {', '.join(processor)}",
        f"convolutions  {rates}: `precision: auto` takes {found['auto']} on the CPU",
        *_too_many(found["threads"], cpu["cores"]),
        "GPU           " + (", ".join(found["gpus"]) or "none that this torch can use"),
        "runtimes      "
        + ", ".join(
            f"{name} {'there' if there else 'not there'}" for name, there in found["runtimes"].items()
        ),
        "",
    ]
    for name, modules in found["extras"].items():
        absent = [module for module, there in modules.items() if not there]
        state = "there" if not absent else f"pip install 'densedistill[{name}]' for {', '.join(absent)}"
        lines.append(f"{name:<8} {EXTRAS[name][1]}: {state}")
    if found["missing"]:
        lines += ["", f"missing: pip install {' '.join(found['missing'])}"]
    return lines


def _too_many(threads: int, cores: int) -> list[str]:
    """Return what to do where torch computes on more threads than a container has processors for."""
    if threads <= cores:
        return []
    wait = f"torch takes {counted(threads, 'thread')}, which wait for each other on {counted(cores, 'core')}"
    return [f"threads       {wait}: set OMP_NUM_THREADS={cores}"]
