"""How far training is, and the learning rate there."""

from __future__ import annotations

import math

from ..recipes import Schedule


class Course:
    """A recipe's schedule over a training whose epoch has `steps_per_epoch` steps.

    Position is (step, seconds): steps done, and seconds of training, which count when the length is in
    minutes.
    """

    def __init__(self, schedule: Schedule, steps_per_epoch: int):
        self.schedule, self.steps_per_epoch = schedule, steps_per_epoch

    @property
    def steps(self) -> int | None:
        """The number of steps, None when only the time is known."""
        if self.schedule.minutes is not None:
            return None
        if self.schedule.steps is not None:
            return self.schedule.steps
        return max(1, round(self.schedule.length * self.steps_per_epoch))

    def progress(self, step: int, seconds: float) -> float:
        """Return the share that is done, 0 to 1."""
        done = seconds / 60 / self.schedule.length if self.steps is None else step / self.steps
        return min(1.0, done)

    def tenths(self, step: int, seconds: float) -> int:
        """Return how many tenths are done."""
        return int(self.progress(step, seconds) * 10)

    def finished(self, step: int, seconds: float) -> bool:
        """Return whether training ends here."""
        return self.progress(step, seconds) >= 1.0

    def factor(self, step: int, seconds: float) -> float:
        """Return what the largest learning rate is multiplied with in the step that starts here."""
        schedule, progress = self.schedule, self.progress(step, seconds)
        warmup = schedule.rise
        if warmup:
            risen = max(progress, 1e-3) / warmup
            if self.steps is not None:
                # The first step has a rate above zero and the last of the warm-up the full one.
                risen = (step + 1) / max(1.0, warmup * self.steps)
            if risen < 1.0:
                return risen
        if schedule.name == "milestones":
            position = self._position(step, seconds)
            return schedule.gamma ** sum(milestone <= position for milestone in schedule.milestones)
        rest = (progress - warmup) / (1 - warmup - schedule.hold)
        rest = min(1.0, max(0.0, rest))
        if schedule.name == "poly":
            fall = (1 - rest) ** schedule.power
        else:
            fall = 1 - rest if schedule.name == "one_cycle" else 0.5 * (1 + math.cos(math.pi * rest))
        return schedule.final + (1 - schedule.final) * fall

    def _position(self, step: int, seconds: float) -> float:
        if self.schedule.unit == "epochs":
            return step // self.steps_per_epoch
        return step if self.schedule.unit == "steps" else seconds / 60
