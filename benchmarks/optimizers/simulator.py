"""The simulator that both sides call: it counts, flips outcomes, crashes and takes its time."""

from __future__ import annotations

import random
import threading
import time

from benchmarks.optimizers.tasks import Example, Task, Texts


class Crash(Exception):
    """The target broke; the message says what would mend it."""


def crashes(task: Task, texts: Texts, rule: int) -> str | None:
    """The component that makes the examples of `rule` crash, or None."""
    return next((name for name in task.names if f"CRASH{rule}" in texts[name].split()), None)


class Simulator:
    """Calls of a task, counted.

    `solved_at` is the count at the moment when one candidate had scored 1 on every validation
    example. `noise` is the share of outcomes flipped, drawn per call from a seeded stream; a
    failure by flip names the example's rule as any other does. A text with the token `CRASHk`
    crashes on the examples of rule k.
    """

    def __init__(self, task: Task, *, noise: float = 0.0, seed: int = 0) -> None:
        self.task = task
        self.calls = 0
        self.crashes = 0
        self.solved_at: int | None = None
        self._solved_time: float | None = None
        self._noise = noise
        self._flips = random.Random(f"flips {seed}")
        self._passed: dict[tuple[tuple[str, str], ...], set[str]] = {}
        self._lock = threading.Lock()

    def __call__(self, texts: Texts, example: Example) -> tuple[float, str]:
        """Score and feedback of one rollout; raises `Crash`."""
        with self._lock:
            self.calls += 1
            flip = self._noise > 0 and self._flips.random() < self._noise
            if where := crashes(self.task, texts, example.rule):
                self.crashes += 1
                raise Crash(f"FAIL remove CRASH{example.rule} in {where}")
            score, feedback = self.task.judge(texts, example.rule)
            if flip:
                score = 1.0 - score
                feedback = "ok" if score else self.task.missing(example.rule)
            if score and example.split == "validation":
                passed = self._passed.setdefault(tuple(sorted(texts.items())), set())
                passed.add(example.id)
                if self.solved_at is None and len(passed) == self.task.validation:
                    self.solved_at, self._solved_time = self.calls, time.perf_counter()
            return score, feedback

    def value(self, texts: Texts) -> float:
        """What a prompt set is truly worth; an example that crashes is worth nothing."""
        broken = {rule for rule in range(self.task.rules) if crashes(self.task, texts, rule)}
        return self.task.value(texts, broken=broken)

    def seconds_to_target(self, started: float) -> float:
        """Seconds from `started` until it was solved, or until now where it was not."""
        ended = self._solved_time if self._solved_time is not None else time.perf_counter()
        return ended - started
