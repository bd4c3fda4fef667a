"""A pool of processes that refine images by the dense CRF while the caller goes on; one thread each.

The processes import neither torch nor the rest of the package unless their backend needs it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from stego_dist.crf.backends import Backend, winners
from stego_dist.errors import UserError

T = TypeVar("T")
WAITING = 2
"""Images a process that are handed over and not finished; with what they hold, this bounds the pool's memory."""


class CrfPool(Generic[T]):
    """Refines images in the order in which they are handed over. Each comes back with the token it was given."""

    def __init__(self, workers: int, backend: Backend) -> None:
        self.backend, self.room = backend, WAITING * workers
        self._pool = ProcessPoolExecutor(workers, get_context("spawn"), _start, (backend,))
        self._waiting: deque[tuple[T, Future[list[NDArray[np.int16]]]]] = deque()

    def submit(self, token: T, image_bgr: NDArray[np.uint8], maps: Sequence[NDArray[np.float32]]) -> None:
        """Refine the maps (K, H, W) of an image (H, W, 3). Take what `finished` gives before the next one."""
        with _explained():
            self._waiting.append((token, self._pool.submit(winners, self.backend, image_bgr, list(maps))))

    def finished(self, everything: bool = False) -> Iterator[tuple[T, list[NDArray[np.int16]]]]:
        """(token, winners (H, W) of each map), waiting until no more than `room` images are under way, or none."""
        while self._waiting and (everything or len(self._waiting) > self.room or self._waiting[0][1].done()):
            token, future = self._waiting.popleft()
            with _explained():
                found = future.result()
            yield token, found

    def close(self) -> None:
        """End the processes; what is under way is given up."""
        self._pool.shutdown(cancel_futures=True)


class _explained:
    """Turns the death of a process into a UserError."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if isinstance(error, BrokenProcessPool):
            raise UserError(
                "a process of the CRF died (killed for lack of memory?); evaluate with fewer of them, "
                "eval.crf_workers=1, or without, eval.crf=none"
            ) from None


def _start(backend: Backend) -> None:
    """In a new process: one thread. The library knows no more, and numpy multiplies no matrices here."""
    if backend == "torch":
        import torch

        torch.set_num_threads(1)
