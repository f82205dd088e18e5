"""The correlations by matrix products beside the direct formulation: one product and mean a displacement.

    python benchmarks/correlation.py --json benchmarks/results/correlation.json

At the sizes of DWARF's levels for an input of 384x1280, or --scale of it; forward, and forward with backward.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from study import write_study
from torch import Tensor

from densedistill.networks.layers.correlation import correlation_1d, correlation_2d, correlation_3d

# Channels and stride of what is correlated on each level; the 9 channels are two cost volumes.
MAPS = {
    "level 2": (32, 4),
    "level 3": (64, 8),
    "level 4": (96, 16),
    "level 5": (128, 32),
    "level 6": (196, 64),
}


def direct(fixed: Tensor, searched: Tensor, reach: int = 4, rows: int | None = None) -> Tensor:
    """Return what `correlation_2d` returns, a displacement at a time."""
    rows = reach if rows is None else rows
    height, width = fixed.shape[-2:]
    padded = F.pad(searched, (reach, reach, rows, rows))
    shifts = [(dy, dx) for dy in range(2 * rows + 1) for dx in range(2 * reach + 1)]
    return torch.stack([(fixed * padded[..., y : y + height, x : x + width]).mean(1) for y, x in shifts], 1)


def seconds(function: Callable[[], Any], device: torch.device, repeats: int) -> float:
    """Return the least time of a call, which other work on the machine disturbs least."""
    times = []
    for number in range(repeats + 2):
        start = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize()
        if number >= 2:
            times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", type=float, default=0.5, help="of the input's sides (default 0.5)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device(arguments.device)
    cases = [("1D", name, *m, correlation_1d, lambda x, y: direct(x, y, rows=0)) for name, m in MAPS.items()]
    cases += [("2D", name, *m, correlation_2d, direct) for name, m in MAPS.items()]
    cases += [
        ("3D", "level 2", 9, 4, correlation_3d, direct),
        ("3D", "level 4", 9, 16, correlation_3d, direct),
    ]
    table = Table(title=f"ms, direct / ours, {device}, one thread")
    for heading in ("kind", "of", "forward", "times", "with backward", "times"):
        table.add_column(heading, justify="right")
    rows = []
    for kind, name, channels, stride, ours, theirs in cases:
        size = [max(2, round(side * arguments.scale / stride)) for side in (384, 1280)]
        x, y = (torch.randn(1, channels, *size, device=device, requires_grad=True) for _ in range(2))
        torch.testing.assert_close(ours(x, y), theirs(x, y), atol=1e-4, rtol=1e-4)
        row: dict[str, Any] = {"kind": kind, "of": name, "channels": channels, "size": size}
        for label, function in (("direct", theirs), ("ours", ours)):

            def forward(function: Any = function, x: Tensor = x, y: Tensor = y) -> None:
                with torch.no_grad():
                    function(x, y)

            def backward(function: Any = function, x: Tensor = x, y: Tensor = y) -> None:
                torch.autograd.grad(function(x, y).sum(), (x, y))

            row[f"{label}_forward"] = 1e3 * seconds(forward, device, arguments.repeats)
            row[f"{label}_backward"] = 1e3 * seconds(backward, device, arguments.repeats)
        cells = []
        for way in ("forward", "backward"):
            before, after = row[f"direct_{way}"], row[f"ours_{way}"]
            cells += [f"{before:.2f} / {after:.2f}", f"{before / after:.1f}"]
        table.add_row(kind, name, *cells)
        rows.append(row)
    Console().print(table)
    write_study({"rows": rows}, arguments.json)


if __name__ == "__main__":
    main()
