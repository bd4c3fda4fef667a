"""What Ray Tune asks for: who comes next, what has ended, whether to go on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import cloudpickle, tune
from ray.exceptions import RayActorError, RayTaskError
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import Searcher

from stego_dist.errors import UserError
from stego_dist.jobs.sweep.course import Course
from stego_dist.jobs.sweep.plan import Plan, Result


class Trials(Searcher):  # type: ignore[misc]
    """Gives Tune the next trial; one that failed is given again, as another of Tune's own."""

    def __init__(self, course: Course, concurrent: int, constant: Mapping[str, Any]) -> None:
        super().__init__(metric="objective", mode="max")
        self.course, self.concurrent, self.constant = course, concurrent, constant

    def suggest(self, trial_id: str) -> Any:
        """What TrialActor takes; None: not now."""
        if self.course.finished:
            return Searcher.FINISHED
        n = self.course.take() if len(self.course.running) < self.concurrent else None
        if n is None:
            return Searcher.FINISHED if self.course.finished else None
        return {**self.constant, "trial": n}

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """Is `Ends`' matter."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the sweep's folder says it all."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing."""


class Ends(tune.Callback):  # type: ignore[misc]
    """Takes in what becomes of trials."""

    def __init__(self, course: Course) -> None:
        self.course = course

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
        """A validation."""
        self.course.board.report(trial.config["trial"], result.get("step", 0), result.get("objective"))

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """The end, early or not."""
        self.course.ended(trial.config["trial"], int(trial.last_result.get("step", 0)))

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """A failure."""
        self.course.failed(trial.config["trial"], reason_of(_error_of(trial)))


class Stop(tune.Stopper):  # type: ignore[misc]
    """Ends everything when a signal came."""

    def __init__(self, flag: Any) -> None:
        self.flag = flag

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """No single trial."""
        return False

    def stop_all(self) -> bool:
        """Whether to stop."""
        return self.flag.number is not None


@dataclass(frozen=True)
class _Named:
    """A trial by its number, which it keeps when it is tried again."""

    trial_id: str


class Asha(ASHAScheduler):  # type: ignore[misc]
    """Asynchronous successive halving on training steps: at `grace` times powers of `reduction` only the best
    1/`reduction` of those that have come so far go on."""

    def __init__(self, plan: Plan) -> None:
        # above the last step, so that none is stopped there: it has cost everything but its evaluation
        super().__init__(
            time_attr="step", metric="objective", mode="max", max_t=plan.base.train.steps + 1,
            grace_period=plan.grace, reduction_factor=plan.reduction,
        )  # fmt: skip

    def replay(self, results: Iterable[Result]) -> None:
        """Take in trials of before, in the order in which they ended."""
        for result in sorted(results, key=lambda result: result.finished):
            named = _Named(str(result.trial))
            super().on_trial_add(None, named)
            for step, objective in result.curve:
                super().on_trial_result(None, named, {"step": step, "objective": objective})

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """A trial begins."""
        super().on_trial_add(tune_controller, _named(trial))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> Any:
        """Whether it goes on."""
        return super().on_trial_result(tune_controller, _named(trial), result)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """A trial has ended."""
        super().on_trial_complete(tune_controller, _named(trial), result)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """A trial will not begin."""
        super().on_trial_remove(tune_controller, _named(trial))


def _named(trial: Any) -> _Named:
    return _Named(str(trial.config["trial"]))


def _error_of(trial: Any) -> BaseException | None:
    """What Tune kept of the last error, beside the driver."""
    path = Path(trial.pickled_error_file) if trial.pickled_error_file else None
    return cloudpickle.loads(path.read_bytes()) if path is not None and path.exists() else None


def reason_of(error: BaseException | None) -> str:
    """In words, why a trial failed."""
    if isinstance(error, RayTaskError):
        error = error.cause if isinstance(error.cause, BaseException) else error
    if isinstance(error, RayActorError):
        told = str(error).strip().splitlines()
        why = f"while it started: {told[-1].strip()}" if "creation task" in str(error) else ""
        return f"its worker died ({why or 'killed, out of memory, or its node is gone'})"
    if isinstance(error, UserError):
        return str(error)
    return f"{type(error).__name__}: {str(error).strip().splitlines()[-1] if str(error).strip() else 'no message'}"
