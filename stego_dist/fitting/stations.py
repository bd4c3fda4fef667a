"""Stations of a whole path: commands of this program, one after the other, each printed as a user would type it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence

from stego_dist import console
from stego_dist.errors import UserError

Command = Callable[[Sequence[str]], int]
"""Runs a command line of this program and returns its exit code."""


class Stations:
    """Numbers the stations, and runs commands."""

    def __init__(self, command: Command, total: int) -> None:
        self.command, self.total, self.number = command, total, 0

    def begin(self, what: str) -> None:
        """Say which station begins."""
        self.number += 1
        console.say(f"\n[{self.number}/{self.total}] {what}", style="bold")

    def run(self, *arguments: str) -> None:
        """Run a command; its tables go to stderr. Raises UserError with the same exit code when it fails."""
        console.say("$ stego-dist " + " ".join(arguments), style="dim")
        with contextlib.redirect_stdout(sys.stderr):  # stdout is for the result of the whole
            code = self.command(arguments)
        if code:
            error = UserError(f"`stego-dist {' '.join(arguments)}` ended with exit code {code}, see above")
            error.exit_code = code
            raise error
