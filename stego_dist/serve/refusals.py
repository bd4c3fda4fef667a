"""What a visitor of the page is told when something can't be done: one sentence and a status of HTTP."""

from __future__ import annotations

from stego_dist.errors import UserError

STOPPING = "The server is stopping."


class Refused(UserError):
    """A request that is not met; the server goes on."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status
