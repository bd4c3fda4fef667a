"""Several gloo ranks without a launcher: forked from a server that has imported everything, so they start at once."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from stego_dist.network import free_port

FIRST_PORT = 10000
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["stego_dist.engine.train", "faiss", "tests.tiny"])


def start_ranks(count: int, work: Callable[..., None], *arguments: Any, log: Path | None = None) -> list[BaseProcess]:
    """Start `count` processes that call `work(*arguments)`, a function of a module; with several, one group of ranks.

    `log`: a folder that gets what rank N prints as N.log.
    """
    port = free_port(FIRST_PORT + os.getpid() % 500 * 20)  # tests that run beside these look elsewhere
    ranks = [CONTEXT.Process(target=_rank, args=(n, count, port, log, work, arguments)) for n in range(count)]
    for rank in ranks:
        rank.start()
    return ranks


def end_ranks(ranks: list[BaseProcess], seconds: float = 120) -> list[int | None]:
    """Exit codes; what has not ended after so long is killed and has None."""
    for rank in ranks:
        rank.join(seconds)
    codes = [rank.exitcode for rank in ranks]
    for rank in ranks:
        rank.kill()
        rank.join()
    return codes


def on_ranks(
    count: int, work: Callable[..., None], *arguments: Any, log: Path | None = None, seconds: float = 120
) -> list[int | None]:
    """Start them and wait: exit codes."""
    return end_ranks(start_ranks(count, work, *arguments, log=log), seconds)


def _rank(rank: int, count: int, port: int, log: Path | None, work: Callable[..., None], arguments: Any) -> None:
    if count > 1:
        os.environ |= {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count),
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true",
        }  # fmt: skip
    with contextlib.ExitStack() as stack:
        if log is not None:
            log.mkdir(parents=True, exist_ok=True)
            stream = stack.enter_context((log / f"{rank}.log").open("a", buffering=1))
            for number in (1, 2):
                os.dup2(stream.fileno(), number)
        sys.exit(work(*arguments))
