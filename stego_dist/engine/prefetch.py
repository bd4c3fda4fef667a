"""Keeps the next batches ready: a thread reads them while the step computes, on a GPU with a stream of its own."""

from __future__ import annotations

import threading
from collections.abc import Generator
from queue import Full, Queue

import torch

from stego_dist.engine.feed import Batch

DEPTH = 2
POLL_S = 0.1
"""How long the reader waits for room before it looks whether it is still wanted."""

Ready = tuple[Batch, torch.cuda.Event | None]


def prefetch(batches: Generator[Batch], device: torch.device) -> Generator[Batch]:
    """The same batches on the device, in the same order, up to DEPTH of them in advance.

    What the reader raises is raised here, in its turn. The first batch is read by the caller's thread, because that is
    where worker processes have to be started. Closing the iterator ends the thread and closes `batches`.
    """
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def read() -> Ready | None:
        with torch.cuda.stream(stream):  # None: stays as it is
            batch = next(batches, None)
            if batch is None:
                return None
            if stream is None:
                return batch, None
            return batch.pinned().to(device), stream.record_event()

    queue: Queue[Ready | BaseException | None] = Queue(DEPTH)
    stop = threading.Event()

    def put(item: Ready | BaseException | None) -> None:
        while not stop.is_set():
            try:
                return queue.put(item, timeout=POLL_S)
            except Full:
                continue

    def read_on() -> None:
        try:
            while not stop.is_set() and (item := read()) is not None:
                put(item)
            put(None)
        except BaseException as error:
            put(error)

    item: Ready | BaseException | None = read()
    reader = threading.Thread(target=read_on, name="prefetch", daemon=True)
    reader.start()
    try:
        while item is not None:
            if isinstance(item, BaseException):
                raise item
            yield _arrived(*item, device)
            item = queue.get()
    finally:
        stop.set()
        reader.join()
        batches.close()


def _arrived(batch: Batch, copied: torch.cuda.Event | None, device: torch.device) -> Batch:
    """The batch, once the current stream is made to wait for the copy."""
    if copied is not None:
        current = torch.cuda.current_stream(device)
        current.wait_event(copied)
        for column in batch.columns():
            if column is not None:
                column.record_stream(current)
    return batch
