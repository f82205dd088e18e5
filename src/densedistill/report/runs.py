"""What a run directory holds, read without torch."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import UserError

FILES = ("recipe.yaml", "metrics.jsonl", "metrics.json", "environment.json")


@dataclass(frozen=True)
class RunRecord:
    """The files of one run.

    Args:
        name: what the report calls it.
        recipe: the resolved recipe as YAML text, "" when missing.
        log: one mapping a logged step: `step`, `time` in seconds, `loss/…`, `validate/…`.
        rows: final figures, each with `name` and `data`.
        environment: machine and versions.
    """

    name: str
    recipe: str = ""
    log: list[dict[str, Any]] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    environment: dict[str, Any] = field(default_factory=dict)

    @property
    def staged(self) -> bool:
        """Whether it is a chain or ladder of several trainings, whose rows bear the stages' names."""
        return any(f"\n{kind}:" in self.recipe for kind in ("chain", "ladder"))

    def curve(self, key: str, against: str = "step") -> tuple[list[float], list[float]]:
        """Return the logged values of `against` ("step" or "time") and of `key`, where both were logged, the
        latter as a number: null stands for what is not finite."""
        points = [
            (entry[against], entry[key])
            for entry in self.log
            if entry.get(key) is not None and against in entry
        ]
        return [float(x) for x, _ in points], [float(y) for _, y in points]

    def keys(self, prefix: str) -> list[str]:
        """Return the logged keys that begin with `prefix`, in order of appearance."""
        return list(dict.fromkeys(key for entry in self.log for key in entry if key.startswith(prefix)))


def read_run(path: str | os.PathLike[str], name: str | None = None) -> RunRecord:
    """Read the run directory `path`; `name` defaults to the directory's.

    Raises:
        UserError: no such directory, nothing of a run in it, or a file that cannot be read.
    """
    root = Path(path)
    if not root.is_dir():
        raise UserError(f"there is no run directory '{path}'")
    if not any((root / file).is_file() for file in FILES):
        raise UserError(f"'{path}' is not a run directory: it has none of {', '.join(FILES)}")
    recipe = root / "recipe.yaml"
    metrics = _read_json(root / "metrics.json")
    rows = metrics.get("rows", [])
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"'{root / 'metrics.json'}': rows must be a list of mappings")
    return RunRecord(
        name or root.resolve().name,
        recipe.read_text(encoding="utf-8") if recipe.is_file() else "",
        read_log(root / "metrics.jsonl"),
        rows,
        _read_json(root / "environment.json"),
    )


def read_runs(paths: Iterable[str | os.PathLike[str]]) -> list[RunRecord]:
    """Read several run directories; those of one name are told apart by as many parents as it takes."""
    roots = [Path(path).resolve() for path in paths]
    records = []
    for root in roots:
        depth = 1
        while (
            depth < len(root.parts) and sum(r.parts[-depth:] == root.parts[-depth:] for r in set(roots)) > 1
        ):
            depth += 1
        records.append(read_run(root, "/".join(root.parts[-depth:])))
    return records


def read_log(path: Path) -> list[dict[str, Any]]:
    """Read a `metrics.jsonl`, [] when missing; a last line that a killed run left half written is dropped."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    entries = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            if number == len(lines):
                break
            raise UserError(f"'{path}', line {number}: not JSON") from None
        if not isinstance(entry, dict):
            raise UserError(f"'{path}', line {number}: not a mapping")
        entries.append(entry)
    return entries


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"'{path}' is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"'{path}': a mapping was expected")
    return content
