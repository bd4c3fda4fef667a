"""One thread that does what takes long, one job at a time, with a queue before it that can be full."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, Full, Queue
from threading import Thread
from typing import Any, TypeVar

from stego_dist.serve.refusals import Refused

T = TypeVar("T")


class Worker:
    """Does jobs in the order in which they come."""

    def __init__(self, places: int) -> None:
        """places: jobs that may wait."""
        self._jobs: Queue[tuple[Future[Any], Callable[[], Any]] | None] = Queue(places)
        self._thread = Thread(target=self._work, name="worker", daemon=True)  # a stuck job does not hold up the end
        self._thread.start()

    async def do(self, job: Callable[[], T], seconds: float) -> T:
        """The job's result, and what it raises.

        Raises Refused: too many wait (503); not done in time (504), and then a job that waits is left out, while one
        that has begun runs to its end, for nobody.
        """
        future: Future[T] = Future()
        try:
            self._jobs.put_nowait((future, job))
        except Full:
            raise Refused(503, "The server is busy with other images. Try again in a moment.") from None
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), seconds)
        except TimeoutError:
            raise Refused(504, f"This took longer than {seconds:g} s (--timeout) and was given up.") from None

    def close(self, seconds: float) -> None:
        """Leave out what waits, and give the job in work some seconds."""
        while True:
            try:
                self._jobs.get_nowait()
            except Empty:
                break
        self._jobs.put(None)
        self._thread.join(seconds)

    def _work(self) -> None:
        while (entry := self._jobs.get()) is not None:
            future, job = entry
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(job())
                except BaseException as error:  # whoever waits gets it
                    future.set_exception(error)
            del entry, future, job  # an image is not kept until the next comes
