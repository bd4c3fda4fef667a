"""The bank: mapped and resident give the same bits, and one that does not fit is refused or mapped."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stego_dist.errors import UserError
from stego_dist.features import bank as banks
from stego_dist.features.bank import MappedBank, ResidentBank, bank_bytes, free_bytes, hold_bank
from stego_dist.features.store import FeatureStore, ShardFeatures, write_manifest, write_shard

CPU, GPU = torch.device("cpu"), torch.device("cuda")
COUNTS = (5, 1, 7, 4)
N, DIM, GRID, SIDE = sum(COUNTS), 6, 3, 8


def make(root, labels: bool = True) -> FeatureStore:
    rng = np.random.default_rng(0)
    for shard, count in enumerate(COUNTS):
        features = ShardFeatures(
            np.zeros((count, DIM), np.float32),
            np.arange(count),
            rng.standard_normal((count, DIM, GRID, GRID)).astype(np.float16),
            rng.integers(0, 256, (count, SIDE, SIDE)).astype(np.uint8) if labels else None,
        )
        write_shard(root, f"s{shard}", features, {})
    write_manifest(root, [f"s{shard}" for shard in range(len(COUNTS))], {})
    return FeatureStore(root, {}, "")


@pytest.mark.parametrize("piece", [1, 3 * 2 * DIM * GRID * GRID, banks.PIECE])
def test_mapped_and_resident_are_the_rows_of_the_store(tmp_path, monkeypatch, piece):
    """Whatever the pieces in which the resident bank was read."""
    monkeypatch.setattr(banks, "PIECE", piece)
    store = make(tmp_path)
    ids = np.array([16, 0, 5, 5, 12, 3])
    for bank in (MappedBank(store), ResidentBank(store, CPU)):
        assert bank.labelled
        features, labels = bank.features(ids), bank.labels(ids)
        assert features.dtype == torch.float16 and labels.dtype == torch.uint8
        np.testing.assert_array_equal(features.numpy(), store.rows("bank", ids))
        np.testing.assert_array_equal(labels.numpy(), store.rows("labels", ids))
    np.testing.assert_array_equal(ResidentBank(store, CPU).features(np.arange(N)), store.rows("bank", np.arange(N)))


def test_without_labels(tmp_path):
    store = make(tmp_path, labels=False)
    assert not MappedBank(store).labelled and not ResidentBank(store, CPU).labelled
    assert bank_bytes(store) == N * DIM * GRID * GRID * 2


def test_how_it_is_held(tmp_path, monkeypatch):
    store = make(tmp_path)
    assert bank_bytes(store) == N * (DIM * GRID * GRID * 2 + SIDE * SIDE)
    assert isinstance(hold_bank(store, "auto", CPU), MappedBank)
    assert isinstance(hold_bank(store, "memory-map", GPU), MappedBank)
    assert isinstance(hold_bank(store, "device", CPU), ResidentBank)
    monkeypatch.setattr(banks, "free_bytes", lambda device: int(bank_bytes(store) / banks.SHARE) - 2)
    assert isinstance(hold_bank(store, "auto", GPU), MappedBank)
    with pytest.raises(UserError, match=r"train\.bank=device.*use train\.bank=auto"):
        hold_bank(store, "device", CPU)


def test_free_memory_of_this_machine():
    assert 1e6 < free_bytes(CPU) < 1e15
