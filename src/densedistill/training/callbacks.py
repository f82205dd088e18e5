"""What happens between steps: counting, validation, checkpoints, stopping."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import lightning as L

from ..data.loader import FROM_TERMINAL
from .checkpoint import save_checkpoint, state_of
from .log import RunLog
from .module import TrainingModule
from .validation import Validator


class Interrupted(KeyboardInterrupt):
    """Training was asked to stop and did, with a checkpoint; the message says how to go on."""


class AtOnce(BaseException):
    """A second Ctrl-C, which does not wait for the step; Lightning turns a KeyboardInterrupt into exit
    status 1."""


class Pilot(L.Callback):
    """Counts steps and, after each, does what is due: average, log, validate, checkpoint, stop.

    One callback, because the order matters: a checkpoint holds what a validation found and what the logs
    have seen.

    Args:
        log: where figures go.
        validator: None when there is nothing to validate on.
    """

    def __init__(self, log: RunLog, validator: Validator | None):
        self.run_log, self.validator = log, validator
        self._saved_at = time.monotonic()
        self._signal: int | None = None
        self._stepping = False
        self.interrupted = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take Ctrl-C, termination and the end of the terminal for the length of a `with` block.

        What is ignored stays so: the last under nohup, the first where a script has put us in the background.
        Lightning would turn the first into exit status 1. Were the second taken within its `fit`, its own
        handler would stay behind, hold the training in memory, and ignore termination.
        """
        before = {number: self._listen(number) for number in (*FROM_TERMINAL, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                if handler is not None:
                    signal.signal(number, handler)

    def _listen(self, number: int) -> Any:
        """Return who listened before; None where the signal is not taken. Only a main thread may take one."""
        main = threading.current_thread() is threading.main_thread()
        ignored = signal.getsignal(number) == signal.SIG_IGN
        return signal.signal(number, self._on_signal) if main and not ignored else None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Open the logs, and take back termination, which Lightning has taken meanwhile."""
        assert isinstance(pl_module, TrainingModule)
        self._listen(signal.SIGTERM)
        self._stepping = True
        self.run_log.start(pl_module)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Finish the step, when this batch was its last part."""
        module = pl_module
        assert isinstance(module, TrainingModule)
        self.run_log.collect(module)
        if (batch_idx + 1) % module.recipe.trainer.accumulate:
            return
        module.counters.step += 1
        if module.average:
            module.average.update(module.step)
        finished = self._agree(trainer, module.course.finished(module.step, module.watch.seconds))
        stopping = self._agree(trainer, self._signal is not None)
        self.run_log.step(module, finished)
        if self.validator and self._validation_due(trainer, module, finished):
            module.watch.stop()
            self._validate(trainer, module)
            module.watch.start()
        if finished or stopping or self._checkpoint_due(trainer, module):
            module.watch.stop()
            self._save(trainer, module)
            module.watch.start()
        if finished or stopping:
            self.interrupted = stopping and not finished
            trainer.should_stop = True

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Close the logs."""
        self.run_log.close()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if not self._stepping or (self._signal is not None and number == signal.SIGINT):
            raise AtOnce
        self._signal = number
        self.run_log.say("stopping after this step; Ctrl-C again stops at once")

    @staticmethod
    def _agree(trainer: L.Trainer, decision: bool) -> bool:
        """Return whether any process decided so: clocks and signals differ between them."""
        if trainer.world_size == 1:
            return decision
        return trainer.strategy.reduce_boolean_decision(decision, all=False)

    def _validation_due(self, trainer: L.Trainer, module: TrainingModule, finished: bool) -> bool:
        every, schedule = module.recipe.trainer.validate_every, module.recipe.schedule
        if finished:
            return True
        if every is not None:
            return module.step % every == 0
        if schedule.unit == "epochs":
            return module.step % module.course.steps_per_epoch == 0
        done = module.course.tenths(module.step, module.watch.seconds)
        return self._agree(trainer, done > module.counters.validations)

    def _validate(self, trainer: L.Trainer, module: TrainingModule) -> None:
        assert self.validator is not None
        figure = self.validator.run(module, self.run_log)
        module.counters.validations = module.course.tenths(module.step, module.watch.seconds)
        if self.validator.improves(figure, module.counters.best):
            module.counters.best, module.counters.best_step = figure, module.step
            if trainer.is_global_zero:
                save_checkpoint(module.run.best, state_of(module))

    def _checkpoint_due(self, trainer: L.Trainer, module: TrainingModule) -> bool:
        config = module.recipe.trainer
        if config.checkpoint_every and module.step % config.checkpoint_every == 0:
            return True
        late = config.checkpoint_minutes is not None and (
            time.monotonic() - self._saved_at > config.checkpoint_minutes * 60
        )
        return self._agree(trainer, late)

    def _save(self, trainer: L.Trainer, module: TrainingModule) -> None:
        self._saved_at = time.monotonic()
        if trainer.is_global_zero:
            self.run_log.flush()
            save_checkpoint(module.run.last, state_of(module))
