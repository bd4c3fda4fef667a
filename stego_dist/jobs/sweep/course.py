"""Where a sweep stands: what is left to do, what runs, what became of the rest, and how often each trial failed."""

from __future__ import annotations

import time
from collections import deque

from stego_dist.errors import UserError
from stego_dist.jobs.sweep.plan import Folder, Plan, Result, trial_config
from stego_dist.jobs.sweep.search import propose
from stego_dist.jobs.sweep.space import Values
from stego_dist.jobs.sweep.tell import Scoreboard
from stego_dist.jobs.sweep.trial import collapse_of, curve_of


class Course:
    """Begins trials and takes in their ends; the sweep's folder is always up to date.

    Args:
        retries: how often a trial is tried again that failed or lost its worker.
    """

    def __init__(self, plan: Plan, folder: Folder, retries: int, board: Scoreboard) -> None:
        self.plan, self.folder, self.retries, self.board = plan, folder, retries, board
        self.results = folder.results()
        self.todo = deque(n for n in range(plan.trials) if n not in self.results)
        self.running: dict[int, Values] = {}
        self._failures: dict[int, int] = {}
        self._begun: dict[int, float] = {}

    @property
    def finished(self) -> bool:
        """Whether every trial has a result."""
        return not self.todo and not self.running

    def take(self) -> int | None:
        """Begin the next trial: its values and configuration are written. None: none is left."""
        while self.todo:
            n = self.todo.popleft()
            values = self.folder.values(n)
            if values is None:
                values = propose(self.plan, n, self.results, self.running)
                try:
                    config = trial_config(self.plan, self.folder, n, values)
                except UserError as error:  # impossible together, as only Optuna proposes them
                    self._finish(Result(n, "failed", values, reason=str(error), finished=time.time()))
                    continue
                self.folder.write_trial(n, values, config)
            self.running[n] = values
            self._begun[n] = time.time()
            self.board.start(n, values)
            return n
        return None

    def ended(self, n: int, step: int) -> None:
        """A trial came to its end, or was stopped early at this step."""
        found = self.folder.read_result(n)
        if found is None:
            run = self.folder.run(n)
            curve = [point for point in curve_of(run, self.plan.objective) if point[0] <= step]
            found = Result(
                trial=n, state="stopped", values=self.running[n], objective=curve[-1][1] if curve else None, step=step,
                curve=curve, warnings=collapse_of(run), seconds=time.time() - self._begun[n], finished=time.time(),
            )  # fmt: skip
        self._finish(found)

    def failed(self, n: int, reason: str) -> None:
        """A trial failed, or its worker died: it is tried again, first of all, or marked as failed."""
        self._failures[n] = self._failures.get(n, 0) + 1
        again = self._failures[n] <= self.retries
        self.board.lost(n, reason, again)
        values = self.running.pop(n)
        if again:
            self.todo.appendleft(n)
            return
        seconds = time.time() - self._begun[n]
        self._finish(Result(n, "failed", values, reason=reason, seconds=seconds, finished=time.time()))

    def _finish(self, result: Result) -> None:
        self.folder.write_result(result)
        self.running.pop(result.trial, None)
        self.results[result.trial] = result
        self.board.finish(result)
