"""Workers that get through all tasks although some of them die.

In: tasks in lanes, and how a worker is started. Out: the result of every task, once.

1. Tasks wait in lanes. A worker stays on its lane, so that it can keep what the lane needs in memory.
2. A worker that dies (a killed process, a lost node) costs the task it was at, which goes to another worker. A new one
   is asked for and gets tasks once it answers; where its node is gone for good, the others finish the job.
3. A failing task stops the handing out; what others are at is finished, then the error is raised.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from stego_dist import console
from stego_dist.errors import UserError

T = TypeVar("T")
R = TypeVar("R")
START_TIMEOUT_S = 300.0
"""How long a pool without a single worker waits for one: for CPUs that others hold, nodes that come back, imports."""


@dataclass(eq=False)
class Job(Generic[T]):
    """A task, and how often it was lost with its worker."""

    task: T
    lane: Hashable
    lost: int = 0


class Lanes(Generic[T]):
    """What is left to do."""

    def __init__(self, tasks: Iterable[T], lane: Callable[[T], Hashable] | None = None) -> None:
        """Each lane keeps the order of its tasks; without `lane` there is one, which all workers share."""
        self._ahead: deque[Job[T]] = deque()
        self._lanes: dict[Hashable, deque[Job[T]]] = {}
        for task in tasks:
            key = lane(task) if lane else None
            self._lanes.setdefault(key, deque()).append(Job(task, key))
        self._left = sum(map(len, self._lanes.values()))

    def __len__(self) -> int:
        return self._left

    def go_ahead(self, tasks: Iterable[T]) -> None:
        """Add tasks that are taken before all others, in their order."""
        for task in tasks:
            self._ahead.append(Job(task, _AHEAD))
            self._left += 1

    def put_back(self, job: Job[T]) -> None:
        """A job whose worker died is the next of its lane."""
        (self._ahead if job.lane is _AHEAD else self._lanes[job.lane]).appendleft(job)
        self._left += 1

    def take(self, own: Hashable, taken: Collection[Hashable]) -> Job[T]:
        """The next job for a worker on lane `own`, where others are on the lanes `taken`.

        It is of its own lane while that has any, then of the first lane that nobody is on, else of the fullest.
        """
        self._left -= 1
        if self._ahead:
            return self._ahead.popleft()
        if not self._lanes.get(own):
            waiting = [key for key, jobs in self._lanes.items() if jobs]
            fullest = max(waiting, key=lambda key: len(self._lanes[key]))
            own = next((key for key in waiting if key not in taken), fullest)
        return self._lanes[own].popleft()

    def one_by_one(self, make: Callable[[], Callable[[T], R]], then: Callable[[R], Iterable[T]] | None) -> Iterator[R]:
        """The results of all jobs by one worker, which is this process."""
        fn, own = make(), None
        while self:
            job = self.take(own, ())
            own = own if job.lane is _AHEAD else job.lane
            result = fn(job.task)
            self.go_ahead(then(result) if then else ())
            yield result


_AHEAD = object()


@dataclass(eq=False)
class _Member:
    """An actor, and the lane it is on."""

    actor: Any
    lane: Hashable = _AHEAD


class Pool(Generic[T, R]):
    """Runs jobs on the actors that `start` gives: they answer `ping()` when they live, and `run(task)`.

    Args:
        ray: the module, connected.
        start: gives a new actor; called again for each that dies.
        lanes: the tasks.
        then: follow-up tasks of a result.
        attempts: workers that a task may lose, and starts in a row that may fail.
        name: how errors call a task.
    """

    def __init__(
        self,
        ray: Any,
        start: Callable[[], Any],
        lanes: Lanes[T],
        *,
        then: Callable[[R], Iterable[T]] | None,
        attempts: int,
        name: Callable[[T], str],
    ) -> None:
        self.ray, self.start, self.lanes, self.then, self.attempts, self.name = ray, start, lanes, then, attempts, name
        errors = ray.exceptions
        self.deaths = (errors.RayActorError, errors.ObjectLostError, errors.NodeDiedError, errors.WorkerCrashedError,
                       errors.OutOfMemoryError)  # fmt: skip
        self._starting: dict[Any, _Member] = {}
        self._idle: list[_Member] = []
        self._busy: dict[Any, tuple[_Member, Job[T]]] = {}
        self._failed_starts = 0
        self._failure: Exception | None = None

    def results(self, workers: int) -> Iterator[R]:
        """The results in the order in which they come. Raises what a task raised, or UserError: see the class."""
        try:
            for _ in range(workers):
                self._ask_for_one()
            while self._busy or (self.lanes and self._failure is None):
                self._hand_out()
                yield from self._collect(self._wait())
            if self._failure is not None:
                raise self._failure
        finally:
            for member in [*self._starting.values(), *self._idle, *(member for member, _ in self._busy.values())]:
                self.ray.kill(member.actor)

    def _ask_for_one(self) -> None:
        member = _Member(self.start())
        self._starting[member.actor.ping.remote()] = member

    def _hand_out(self) -> None:
        while self._idle and self.lanes and self._failure is None:
            member = self._idle.pop()
            others = [*self._idle, *(busy for busy, _ in self._busy.values())]
            job = self.lanes.take(member.lane, {other.lane for other in others})
            if job.lane is not _AHEAD:
                member.lane = job.lane
            self._busy[member.actor.run.remote(job.task)] = member, job

    def _wait(self) -> Any:
        """The next call that came back. Raises UserError when no worker lives and none can be had."""
        done, _ = self.ray.wait([*self._busy, *self._starting], timeout=None if self._busy else START_TIMEOUT_S)
        if not done:
            raise UserError(
                f"no worker of the Ray cluster is left, and in {START_TIMEOUT_S:.0f} s none could be started. See with "
                "`ray status` which nodes live and whether their CPUs and GPUs are free, then start the command again: "
                "it goes on from what is finished"
            )
        return done[0]

    def _collect(self, call: Any) -> Iterator[R]:
        """Take in a call that came back: a worker that has started, a result, a failure or a death."""
        job = None
        if call in self._starting:
            member = self._starting.pop(call)
        else:
            member, job = self._busy.pop(call)
        try:
            error, result = self.ray.get(call)
        except self.deaths as death:
            self._lost(member, job, death)
            return
        except Exception as bug:  # raised when what others are at is finished
            error, result = bug, None
        self._idle.append(member)
        if job is None:
            self._failed_starts = 0
        elif error is not None:
            self._failure = self._failure or error
        else:
            self.lanes.go_ahead(self.then(result) if self.then else ())
            self._hand_out()
            yield result

    def _lost(self, member: _Member, job: Job[T] | None, death: Exception) -> None:
        """A worker died: its job goes to another, and a new one is asked for, unless they all die while they start."""
        self.ray.kill(member.actor)  # one that is cut off may still live
        lines = str(death).strip().split("\n")
        reason = lines[-1 if getattr(death, "actor_init_failed", False) else 0]  # a traceback ends with what was raised
        if job is None:
            self._failed_starts += 1
            console.warn(f"a worker died while it started ({reason})")
            if self._failed_starts >= self.attempts:
                if not (self._busy or self._idle or self._starting):
                    self._failure = self._failure or UserError(
                        f"{self._failed_starts} Ray workers in a row died while they started ({reason}). Is the "
                        "package installed alike on all nodes, and is there memory?"
                    )
                return
        else:
            job.lost += 1
            self.lanes.put_back(job)
            console.warn(f"a worker died at {self.name(job.task)} ({reason})")
            if job.lost >= self.attempts:
                self._failure = self._failure or UserError(
                    f"{self.name(job.task)}: {job.lost} workers died at it, one after the other ({reason}). Most often "
                    "memory ran out (see `dmesg`): use fewer workers or smaller batches, or machines with more memory. "
                    "What is finished is kept"
                )
        if self._failure is None:
            self._ask_for_one()


class Worker:
    """What runs as a Ray actor; keeps what `make` built. Calls give (error of the user's, result)."""

    def __init__(self, make: Callable[[], Callable[[Any], Any]]) -> None:
        self.make = make
        self.fn: Callable[[Any], Any] | None = None

    def ping(self) -> tuple[None, None]:
        """That it lives."""
        return None, None

    def run(self, task: Any) -> tuple[UserError | None, Any]:
        """The result of a task, or the user's error as a value."""
        try:
            if self.fn is None:
                self.fn = self.make()
            return None, self.fn(task)
        except UserError as error:
            return error, None
