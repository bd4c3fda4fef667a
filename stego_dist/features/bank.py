"""The bank as training reads it: dense features and labels by sample id, from a memory map or held on the device.

The neighbour of an anchor may be any sample, so every rank can reach all of them. A resident bank is a plain copy of
the files: whichever is read, the batches have the same bits.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stego_dist.console import size
from stego_dist.errors import UserError
from stego_dist.features.store import FeatureStore

Hold = Literal["auto", "memory-map", "device"]
Ids = NDArray[np.int64]
SHARE = 0.7
"""Share of the device's free memory that a resident bank may take; the rest is for the step."""
PIECE = 64 << 20
"""Bytes that are copied to the device at a time."""


class Bank(Protocol):
    """Features and labels of samples by id."""

    labelled: bool
    """Whether there are labels."""

    def features(self, ids: Ids) -> Tensor:
        """Dense features (n, C, h, w), float16."""
        ...

    def labels(self, ids: Ids) -> Tensor:
        """Labels (n, R, R), uint8, 255 ignored."""
        ...


class MappedBank:
    """Reads rows of the store's files into host memory; the system's page cache is shared by the ranks of a machine."""

    def __init__(self, store: FeatureStore) -> None:
        self.store, self.labelled = store, store.has_labels

    def features(self, ids: Ids) -> Tensor:
        """Dense features (n, C, h, w), float16."""
        return torch.from_numpy(self.store.rows("bank", ids))

    def labels(self, ids: Ids) -> Tensor:
        """Labels (n, R, R), uint8, 255 ignored."""
        return torch.from_numpy(self.store.rows("labels", ids))


class ResidentBank:
    """Holds all of it on a device (on a CPU: in this process's memory)."""

    def __init__(self, store: FeatureStore, device: torch.device) -> None:
        self.device, self.labelled = device, store.has_labels
        self._features = _load(store, "bank", device)
        self._labels = _load(store, "labels", device) if self.labelled else None
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # other streams read it

    def features(self, ids: Ids) -> Tensor:
        """Dense features (n, C, h, w), float16."""
        return self._features.index_select(0, torch.from_numpy(ids).to(self.device))

    def labels(self, ids: Ids) -> Tensor:
        """Labels (n, R, R), uint8, 255 ignored."""
        assert self._labels is not None
        return self._labels.index_select(0, torch.from_numpy(ids).to(self.device))


def hold_bank(store: FeatureStore, hold: Hold, device: torch.device) -> MappedBank | ResidentBank:
    """The bank of a store as `hold` says.

    "auto" holds it on a GPU when it takes at most SHARE of the free memory; on a CPU it keeps the memory map, because
    the page cache is memory too and is held once for all ranks. Raises UserError when "device" is asked for and it does
    not fit.
    """
    if hold == "memory-map" or (hold == "auto" and device.type == "cpu"):
        return MappedBank(store)
    wanted, free = bank_bytes(store), free_bytes(device)
    if wanted <= SHARE * free:
        return ResidentBank(store, device)
    if hold == "auto":
        return MappedBank(store)
    raise UserError(
        f"train.bank=device, but the bank {store.root} has {size(wanted)} and may take {SHARE:.0%} of the "
        f"{size(free)} that are free on {device}; use train.bank=auto or memory-map"
    )


def bank_bytes(store: FeatureStore) -> int:
    """Bytes of all dense features and labels."""
    kinds = ["bank", "labels"] if store.has_labels else ["bank"]
    return len(store) * sum(int(store.rows(kind, np.arange(1)).nbytes) for kind in kinds)


def free_bytes(device: torch.device) -> int:
    """Free memory of a device; on a CPU what the system can still give to programs."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        return int(fields["MemAvailable"].split()[0]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _load(store: FeatureStore, kind: str, device: torch.device) -> Tensor:
    """All rows of a kind on the device, copied piece by piece so that the host holds little of it."""
    first = torch.from_numpy(store.rows(kind, np.arange(1)))
    whole = torch.empty((len(store), *first.shape[1:]), dtype=first.dtype, device=device)
    piece = max(1, PIECE // first.nbytes)
    for start in range(0, len(store), piece):
        ids = np.arange(start, min(start + piece, len(store)))
        whole[start : start + len(ids)].copy_(torch.from_numpy(store.rows(kind, ids)))
    return whole
