"""Figures of a training as they come: metrics.jsonl, TensorBoard and a line that shows rate and time left."""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import UserError

if TYPE_CHECKING:
    from .module import TrainingModule


class RunLog:
    """Writes what the first process has to say; on the others it collects and stays silent.

    Args:
        directory: of the run.
        every: steps between lines.
        first: whether this is the first process.
        step: where the training starts from.
    """

    def __init__(self, directory: Path, every: int, first: bool, step: int = 0):
        self.every, self.first = every, first
        self._sums: dict[str, Tensor] = {}
        self._count = 0
        self._board: Any = None
        self._bar = Bar() if first else None
        self._directory, self._start = directory, step

    def start(self, module: TrainingModule) -> None:
        """Open the TensorBoard files and begin counting the rate."""
        if self.first:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(self._directory / "tensorboard", purge_step=self._start or None)
            assert self._bar is not None
            self._bar.start(module.step)

    def collect(self, module: TrainingModule) -> None:
        """Take in the losses of one backward pass."""
        for name, value in module.parts.items():
            self._sums[name] = self._sums.get(name, torch.zeros_like(value)) + value
        self._count += 1

    def step(self, module: TrainingModule, finished: bool) -> None:
        """Log the mean losses since the last line, when a line is due."""
        due = finished or module.step % self.every == 0
        values: dict[str, float] = {}
        if due:
            values = {f"loss/{name}": value for name, value in self._means(module).items()}
            values |= {"lr": module.rate, "gradient": float(module.norm)}
            self._sums, self._count = {}, 0
            self.write(module, values)
        if self._bar:
            self._bar.update(module, values.get("loss/total"), finished)

    def _means(self, module: TrainingModule) -> dict[str, float]:
        """Return the mean losses since the last line, over all processes."""
        means = torch.stack([value.float() for value in self._sums.values()]) / self._count
        if module.trainer.world_size > 1:
            torch.distributed.all_reduce(means)
            means /= module.trainer.world_size
        return dict(zip(self._sums, means.tolist(), strict=True))

    def write(self, module: TrainingModule, values: dict[str, float]) -> None:
        """Log `values` at the module's step; UserError where the disk does not take them."""
        if not self.first:
            return
        try:
            module.run.log(module.step, module.watch.seconds, values)
            for name, value in values.items():
                self._board.add_scalar(name, value, module.step)
        except OSError as error:
            raise UserError(f"cannot write {self._directory}: {error.strerror or error}") from None

    def picture(self, module: TrainingModule, name: str, image: Tensor) -> None:
        """Show `image` (3, H, W), uint8, in TensorBoard."""
        if self._board is not None:
            self._board.add_image(name, image, module.step)

    def say(self, text: str) -> None:
        """Print a line without breaking the progress line."""
        if self._bar:
            self._bar.line(text)

    def flush(self) -> None:
        """Bring everything to the disk."""
        if self._board is not None:
            self._board.flush()

    def close(self) -> None:
        """Close the files and end the progress line."""
        if self._board is not None:
            self._board.close()
            self._board = None
        if self._bar:
            self._bar.close()


class Bar:
    """One line on a terminal, rewritten in place; in a file, a line every half minute."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._shown = 0.0
        self._loss: float | None = None
        self._first, self._since = 0, time.monotonic()
        self._open = False

    def start(self, step: int) -> None:
        """Begin counting at `step`."""
        self._first, self._since, self._shown = step, time.monotonic(), 0.0

    def update(self, module: TrainingModule, loss: float | None, finished: bool) -> None:
        """Show where training is, when the last time is long enough ago."""
        self._loss = self._loss if loss is None else loss
        now = time.monotonic()
        if not finished and now - self._shown < (0.5 if self._terminal else 30):
            return
        self._shown = now
        rate = (module.step - self._first) / max(1e-9, now - self._since)
        progress = module.course.progress(module.step, module.watch.seconds)
        left = module.watch.seconds * (1 - progress) / max(progress, 1e-9)
        steps = f"/{module.course.steps}" if module.course.steps else ""
        epoch = f" epoch {module.epoch}"
        speed = f"{rate:.2f} steps/s" if rate >= 1 or rate == 0 else f"{1 / rate:.1f} s/step"
        loss_text = "" if self._loss is None else f"  loss {self._loss:.4g}"
        line = f"{progress:4.0%} step {module.step}{steps}{epoch}{loss_text}  {speed}  {duration(left)} left"
        _show(f"\r\x1b[K{line}" if self._terminal else line + "\n")
        self._open = self._terminal

    def line(self, text: str) -> None:
        """Print `text` on a line of its own."""
        self.close()
        _show(text + "\n")

    def close(self) -> None:
        """End the line."""
        if self._open:
            _show("\n")
            self._open = False


def _show(text: str) -> None:
    """Write `text` on the screen, if there still is one: a training goes on when its terminal is closed.

    A signal that comes while a line is written finds the stream taken, which is a RuntimeError.
    """
    with contextlib.suppress(OSError, RuntimeError):
        sys.stderr.write(text)
        sys.stderr.flush()


def duration(seconds: float) -> str:
    """Return `seconds` as people say it: `45 s`, `12 min`, `3 h 05`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d}"
