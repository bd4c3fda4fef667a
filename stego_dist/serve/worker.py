"""One thread that does what takes long, one job at a time, with a queue before it that can be full."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from queue import Full, Queue
from threading import Thread
from typing import Any, TypeVar

from stego_dist.serve.refusals import STOPPING, Refused

T = TypeVar("T")


class Worker:
    """Does jobs in the order in which they come."""

    def __init__(self, places: int) -> None:
        """places: jobs that may wait."""
        self._jobs: Queue[tuple[Future[Any], Callable[[], Any]] | None] = Queue(places)
        self._stopping = asyncio.Event()
        self._thread = Thread(target=self._work, name="worker", daemon=True)
        self._thread.start()

    async def do(self, job: Callable[[], T], seconds: float) -> T:
        """The job's result, and what it raises.

        Raises Refused: too many wait, or the server stops (503); not done in time (504). Then a job that waits is left
        out, while one that has begun runs to its end, for nobody.
        """
        future: Future[T] = Future()
        try:
            self._jobs.put_nowait((future, job))
        except Full:
            raise Refused(503, "The server is busy with other images. Try again in a moment.") from None
        result, stop = asyncio.wrap_future(future), asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait((result, stop), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if result.done():
                return result.result()
            if stop.done():
                raise Refused(503, STOPPING)
            raise Refused(504, f"This took longer than {seconds:g} s (--timeout) and was given up.")
        finally:
            result.cancel()
            stop.cancel()

    def stop(self) -> None:
        """Answer whoever waits; in the event loop."""
        self._stopping.set()

    def ended(self, seconds: float) -> bool:
        """Whether the job in work, and with it the thread, ends within some seconds. After `stop`, outside the loop."""
        with suppress(Full):  # of jobs that are cancelled, behind one that does not end
            self._jobs.put(None, timeout=seconds)
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while (entry := self._jobs.get()) is not None:
            future, job = entry
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(job())
                except BaseException as error:  # whoever waits gets it
                    future.set_exception(error)
            del entry, future, job  # an image is not kept until the next comes
