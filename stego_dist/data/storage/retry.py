"""Repeating what a network broke: exponential backoff with jitter, up to a limit.

In: something that raises TemporaryError when another try may help. Out: its result, or a UserError that names the
object, what happened, how often it was tried and what to do.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from stego_dist import console
from stego_dist.errors import UserError

T = TypeVar("T")
FIRST_WAIT_S, LONGEST_WAIT_S = 0.25, 30.0
_jitter = random.SystemRandom()  # forked workers share the state of `random`, and would come back all at once


class TemporaryError(Exception):
    """Another try may help: a lost connection, a busy server, a body cut half way."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait
        """Seconds that the server asked to wait."""


class Attempts:
    """Counts the failures in a row of one read or write, and waits between them."""

    def __init__(self, where: str, tries: int) -> None:
        self.where, self.tries, self.failures = where, tries, 0

    def failed(self, error: TemporaryError) -> None:
        """Wait before the next try. Raises UserError when there is none left."""
        self.failures += 1
        if self.failures >= self.tries:
            raise UserError(
                f"{self.where}: {error}; given up after {self.tries} tries. Check that the server can be reached from "
                "this machine and what it says, then start again (data.storage.tries sets how often is tried)."
            ) from None
        wait = pause(self.failures, error.wait)
        if self.failures == 3:
            console.warn(f"{self.where}: {error}; tried {self.failures} of {self.tries} times, going on")
        time.sleep(wait)

    def progressed(self) -> None:
        """Something came: failures are counted anew."""
        self.failures = 0


def pause(failures: int, asked: float | None = None) -> float:
    """Seconds to wait after so many failures: doubling, half of it by chance; never less than the server asked."""
    ceiling = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** (failures - 1))
    return max(_jitter.uniform(ceiling / 2, ceiling), min(asked or 0.0, LONGEST_WAIT_S))


def retry(where: str, tries: int, attempt: Callable[[], T]) -> T:
    """The result of the first `attempt` that raises no TemporaryError. Raises UserError after `tries` of them."""
    attempts = Attempts(where, tries)
    while True:
        try:
            return attempt()
        except TemporaryError as error:
            attempts.failed(error)
