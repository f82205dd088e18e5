"""The summary page of a labelling: how much each filter kept, and samples to look at."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..data import formats
from ..data.sample import Sample, as_bytes
from ..data.store import Store
from ..errors import UserError, counted
from ..files import write_text
from ..labelling.files import FOLDERS
from ..tasks import Task, get_task
from .markup import Markup, join, tag
from .page import document, header
from .sections import picture_map

SAMPLES = 6
NO_WEIGHTS = hashlib.sha256().hexdigest()  # of a teacher without any


def write_summary(out: Path, manifest: Mapping[str, Any], frames: Any) -> Path:
    """Write `summary.html` of the labels in `out` and return it; the same labels give the same bytes.

    Args:
        out: folder of the labels.
        manifest: theirs.
        frames: the labelled frames, with `.names`.

    Raises:
        UserError: a frame is of another size than its answer, for its file was changed after it was labelled.
    """
    task = get_task(manifest["task"])
    title = f"Labels by {manifest['teacher']['name']}"
    kept = {
        key: counts["kept"] / max(counts["pixels"], 1)
        for key, counts in manifest["counts"]["outputs"].items()
    }
    summary = f"{manifest['frames']} frames; kept: " + ", ".join(
        f"{key} {100 * share:.1f} %" for key, share in kept.items()
    )
    count = min(SAMPLES, len(frames))
    chosen = [i * len(frames) // count for i in range(count)]
    body = [
        tag("section", tag("h2", "What was kept"), _table(manifest["counts"]["outputs"])),
        tag("section", tag("h2", "Samples"), [_figure(out, manifest, task, frames[i]) for i in chosen]),
    ]
    path = out / "summary.html"
    write_text(path, document(title, header(title, summary, _notes(manifest)), body))
    return path


def _notes(manifest: Mapping[str, Any]) -> list[str]:
    filters = [
        f["name"] + "".join(f", {k} {v}" for k, v in f.items() if k != "name") for f in manifest["filters"]
    ]
    digest, shards = manifest["teacher"]["weights_sha256"], manifest["shards"]
    return [
        f"weights {digest[:12]}" if digest != NO_WEIGHTS else "no weights",
        "filters: " + ("; ".join(filters) or "none"),
        f"{manifest['bytes'] / 1e6:.1f} MB in {counted(shards, 'shard')} of up to "
        f"{counted(manifest['shard_size'], 'frame')}",
    ]


def _table(outputs: Mapping[str, Any]) -> Markup:
    names = list(dict.fromkeys(name for counts in outputs.values() for name in counts["filters"]))
    head = tag("tr", [tag("th", text) for text in ("output", "teacher vouches", *names, "kept by all")])
    rows = []
    for key, counts in outputs.items():
        cells = [counts["vouched"], *(counts["filters"].get(name) for name in names), counts["kept"]]
        pixels = max(counts["pixels"], 1)
        shares = ["–" if cell is None else f"{100 * cell / pixels:.1f} %" for cell in cells]
        rows.append(tag("tr", [tag("td", text) for text in (key, *shares)]))
    return tag("div", tag("table", tag("thead", head), tag("tbody", rows), class_="plain"), class_="scroll")


def _figure(out: Path, manifest: Mapping[str, Any], task: Task, sample: Sample) -> Markup:
    name = sample["meta"]["name"]
    first = next(sample[key] for key in task.inputs if key in sample)
    image = as_bytes(first).permute(1, 2, 0).numpy()
    pictures = [("frame", image)]
    for key in manifest["outputs"]:
        values, valid = _stored(out, manifest, name, key)
        if values is not None and values.shape[-2:] != image.shape[:2]:
            (height, width), (rows, columns) = values.shape[-2:], image.shape[:2]
            raise UserError(
                f"{out} has an answer of {width}x{height} px for frame '{name}', which is {columns}x{rows} "
                "px now; name another folder for frames that were changed"
            )
        if values is not None and key in task.colours:
            plane = values[0] if len(values) == 1 else values
            pictures.append((key, task.colours[key](plane, valid)))
            rejected = image.copy()
            rejected[~valid] = (
                (rejected[~valid] * 0.25 + np.array([160, 20, 40])).clip(0, 255).astype(np.uint8)
            )
            pictures.append((f"{key}: rejected", rejected))
    figures = [picture_map(picture, alt=text, caption=text) for text, picture in pictures]
    return join(tag("h3", name), tag("div", figures, class_="strip"))


def _stored(out: Path, manifest: Mapping[str, Any], name: str, key: str) -> tuple[Any, Any]:
    if manifest["write"] == "shards":
        found = Store(out, partial=True).read(name, [key, f"{key}_valid"])
        return found[key].numpy(), found[f"{key}_valid"][0].numpy()
    path = out / FOLDERS[key] / f"{name}.png"
    if key == "flow":
        flow, valid = formats.read_flow_png(path)
        return flow.transpose(2, 0, 1), valid
    if key == "logits":
        return None, None
    values = formats.read_disparity_png(path)
    return values[None], values > 0
