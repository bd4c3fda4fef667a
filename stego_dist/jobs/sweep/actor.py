"""What Ray Tune runs: an actor that performs one trial after the other, so that what a trial has opened stays warm.

Tune asks for a step, waits, and decides. A trial runs in a thread of its own that stands still at every report until it
is decided that it goes on, so a trial that is stopped has trained exactly so many steps.
"""

from __future__ import annotations

import os
import queue
import threading
from pathlib import Path
from typing import Any

from ray import tune

from stego_dist.jobs.sweep.trial import Work


class TrialEnded(BaseException):
    """The trial is not wanted any more. No Exception: nothing on the way may take it for a failure."""


class TrialThread:
    """A trial that stands still at every report."""

    def __init__(self, work: Work, root: Path, n: int) -> None:
        self._reports: queue.Queue[dict[str, Any]] = queue.Queue()
        self._go, self._ended = threading.Semaphore(0), False
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(work, root, n), name=f"trial {n}", daemon=True)

    def next(self) -> dict[str, Any]:
        """Go on to the next report or to the end (`done`). Raises what the trial raised."""
        if self._thread.ident is None:
            self._thread.start()
        else:
            self._go.release()
        found = self._reports.get()
        if self._failure is not None:
            raise self._failure
        return found

    def end(self) -> None:
        """Let it end where it stands, and wait for that."""
        self._ended = True
        self._go.release()
        if self._thread.ident is not None:
            self._thread.join()

    def _report(self, step: int, numbers: dict[str, float]) -> None:
        self._reports.put({"step": step, **numbers, "done": False})
        self._go.acquire()
        if self._ended:
            raise TrialEnded

    def _run(self, work: Work, root: Path, n: int) -> None:
        try:
            result = work(root, n, self._report)
            self._reports.put({"step": result.step, "objective": result.objective, "done": True})
        except TrialEnded:
            pass
        except BaseException as error:
            self._failure = error
            self._reports.put({})


class TrialActor(tune.Trainable):  # type: ignore[misc]
    """Takes `work`, `root` (the sweep's folder), `trial` and `cwd` (the driver's, for relative paths)."""

    trial: TrialThread

    def setup(self, config: dict[str, Any]) -> None:
        """Make ready for a trial."""
        if os.path.isdir(config["cwd"]):  # noqa: PTH112
            os.chdir(config["cwd"])
        self.trial = TrialThread(config["work"], Path(config["root"]), config["trial"])

    def step(self) -> dict[str, Any]:
        """The next report."""
        return self.trial.next()

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Make ready for another trial."""
        self.trial.end()
        self.setup(new_config)
        return True

    def cleanup(self) -> None:
        """End the trial."""
        self.trial.end()
