"""Who of the processes still lives, and how far each has come: what the others say when one is lost.

A collective that waits for a lost machine says nothing until its timeout, and then not whom it waited for; over NCCL
it ends the process without a word. So every process says once a second, through the store that the process group met
at, that it lives and how far it is, and reads what the others say:

1. *exchange*: a thread with a connection of its own sets this process's line and reads the others';
2. *watch*: another thread (the first one hangs when the store's machine is gone) ends the process with a sentence when
   one has been silent for nine tenths of the timeout, which is before any collective gives up;
3. *findings*: what is known of the others when a collective has failed, at once after a crash.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta

from torch.distributed import TCPStore  # type: ignore[attr-defined]

PATIENCE = 0.9
"""Silence that is given up, as a part of the timeout."""
FRESH = 2.5
"""Intervals within which a process that lives is heard of."""

PHASES = ("waiting for the data of", "in", "after")
"""What a process does in a step, in this order; after it come validation and checkpoint."""


@dataclass
class Peer:
    """What is known of another process."""

    heard: float
    """When it was last heard of, by this machine's clock."""
    line: str = ""
    place: int = 0
    host: str = "an unknown host"
    ended: bool = False
    """It has said that it needs nobody any more."""


class Heartbeat:
    """This process's line in the store, and what it has heard of the others."""

    def __init__(self, rank: int, ranks: int, timeout_s: float, lost: Callable[[str], None]) -> None:
        """`lost` gets a sentence before this process ends because another one was silent for too long."""
        self.rank, self.lost = rank, lost
        self.limit, self.interval = PATIENCE * timeout_s, min(1.0, timeout_s / 20)
        self._place = 0
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=f, daemon=True) for f in (self._exchange, self._watch)]
        self._store_heard = time.monotonic()
        self._peers = {other: Peer(self._store_heard) for other in range(ranks) if other != rank}

    def begin(self) -> None:
        """Start to say and to listen."""
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """Say that this process needs nobody any more, and stop."""
        self._stop.set()
        self._threads[0].join(2 * self.interval + 1)  # not for ever: the store may be gone

    def at(self, step: int, phase: str) -> None:
        """How far this process is: one of PHASES of a step, counted from 1."""
        self._place = step * len(PHASES) + PHASES.index(phase)

    def findings(self) -> str:
        """Which processes don't answer, have ended or are behind; "" when all live and are equally far.

        Waits as long as it takes to tell (three seconds, most often).
        """
        start = time.monotonic()
        deadline = start + (FRESH + 3) * self.interval
        while not (silent := self._silent(FRESH * self.interval)) and time.monotonic() < deadline:
            # what is read soon may have been said before
            if all(peer.ended or peer.heard > start + 1.5 * self.interval for peer in self._peers.values()):
                break
            time.sleep(self.interval / 4)
        if silent:
            return silent
        if ended := [rank for rank, peer in self._peers.items() if peer.ended]:
            return f"{self._names(ended)} has ended"
        behind = [rank for rank, peer in self._peers.items() if peer.place < self._place]
        if not behind:
            return ""
        step, phase = divmod(self._peers[behind[0]].place, len(PHASES))
        return f"{self._names(behind)} lives, but is still {PHASES[phase]} step {step}"

    def _silent(self, limit: float) -> str:
        """The sentence about those that were silent for longer than `limit` seconds; "" when there are none."""
        now = time.monotonic()
        first, silence = self._peers.get(0), now - self._store_heard
        if first and not first.ended and silence > limit:  # with the store's machine everybody seems silent
            at = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
            return f"{self._names([0])} has not answered for {silence:.0f} s (nor does its store at {at})"
        ages = {r: now - peer.heard for r, peer in self._peers.items() if not peer.ended and now - peer.heard > limit}
        return f"{self._names(list(ages))} has not answered for {max(ages.values()):.0f} s" if ages else ""

    def _names(self, ranks: list[int]) -> str:
        """Processes and their hosts."""
        names = [f"process {rank} on {self._peers[rank].host}" for rank in ranks[:8]]
        return " and ".join(names) + (f" and {len(ranks) - 8} more" if len(ranks) > 8 else "")

    def _exchange(self) -> None:
        with contextlib.suppress(RuntimeError):  # the store is gone or does not answer: the watch will say it
            store = TCPStore(
                os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, wait_for_workers=False,
                timeout=timedelta(seconds=self.limit),
            )  # fmt: skip
            host, beats = socket.gethostname(), 0
            known: list[int] = []
            while not self._stop.is_set():
                beats += 1
                store.set(_key(self.rank), f"{beats} {self._place} {host}")
                known += [rank for rank in self._peers if rank not in known and store.check([_key(rank)])]
                for rank, line in zip(known, store.multi_get([_key(rank) for rank in known]) if known else ()):
                    _hear(self._peers[rank], line.decode())
                self._store_heard = time.monotonic()
                self._stop.wait(self.interval)
            store.set(_key(self.rank), f"{beats} ended")

    def _watch(self) -> None:
        last = time.monotonic()
        while not self._stop.wait(self.interval):
            now = time.monotonic()
            if now - last > 5 * self.interval + 1:  # this process stood still, as a suspended job does
                self._store_heard = now
                for peer in self._peers.values():
                    peer.heard = now
            last = now
            if silent := self._silent(self.limit):
                self.lost(silent)
                os._exit(1)  # the main thread may wait in a collective for ever


def _key(rank: int) -> str:
    return f"stego_dist/heartbeat/{rank}"


def _hear(peer: Peer, line: str) -> None:
    """Take in a process's line: a count of its beats, then its place and host, or that it has ended."""
    if line == peer.line:
        return
    peer.heard, peer.line = time.monotonic(), line
    words = line.split()
    peer.ended = words[1] == "ended"
    if not peer.ended:
        peer.place, peer.host = int(words[1]), words[2]


@contextlib.contextmanager
def heartbeat(rank: int, ranks: int, timeout_s: float, lost: Callable[[str], None]) -> Iterator[Heartbeat]:
    """A heartbeat as long as the context lasts; a silent one where there is one process."""
    beat = Heartbeat(rank, ranks, timeout_s, lost)
    if ranks == 1:
        yield beat
        return
    beat.begin()
    try:
        yield beat
    finally:
        beat.end()
