"""Threads of the libraries that multiply: torch, and FAISS with its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread on the CPU, as a worker with one core has it; as before afterwards."""
    faiss: Any = None
    with suppress(ImportError, OSError):
        import faiss
    before = torch.get_num_threads(), faiss.omp_get_max_threads() if faiss else 0
    _set(faiss, 1, 1)
    try:
        yield
    finally:
        _set(faiss, *before)


def _set(faiss: Any, torch_threads: int, faiss_threads: int) -> None:
    torch.set_num_threads(torch_threads)
    if faiss:
        faiss.omp_set_num_threads(faiss_threads)
