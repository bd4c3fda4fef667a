"""Which space a run's clusters are found in: codes alone, or codes beside features where codes have too few modes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment

from stego_dist.config import Config
from stego_dist.engine.clusters import FEATURES, MODES, find_clusters, find_run_clusters, margins_of, mixture, weight_of
from stego_dist.engine.predict import predict_maps
from stego_dist.models.probes import LinearProbe
from stego_dist.models.segmenter import Segmenter

GROUPS, MODES_OF_CODES, EACH = 12, 3, 80


def found_in(config, codes, features, number):
    """A run's clusters, as engine/clustering.py finds them on one process."""
    auto = config.clusters.feature_weight == "auto"
    margins = margins_of(config, codes, number) if auto else None
    return find_run_clusters(config, codes, features, number, weight_of(config, margins), margins)


def config(**clusters: Any) -> Config:
    settings = {"restarts": 20, "iterations": 30, **clusters}
    return Config.model_validate({"name": "x", "data": {"shards": "x"}, "clusters": settings})


def points() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes with three modes, features with twelve groups, four to a mode, and the group of each point."""
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(GROUPS), EACH)
    codes = 5 * np.eye(MODES_OF_CODES, 8)[group % MODES_OF_CODES] + 0.4 * rng.normal(size=(len(group), 8))
    features = np.eye(GROUPS, 16)[group] + 0.11 * rng.normal(size=(len(group), 16))
    return codes.astype(np.float32), features.astype(np.float32), group


def agreement(space: np.ndarray, centres: torch.Tensor, group: np.ndarray) -> float:
    """Share of points in the cluster that is matched to their group."""
    counts = np.zeros((len(centres), GROUPS))
    np.add.at(counts, ((torch.from_numpy(space).float() @ centres.T).argmax(1).numpy(), group), 1)
    rows, columns = linear_sum_assignment(-counts)
    return float(counts[rows, columns].sum() / len(group))


def test_codes_with_a_mode_for_each_cluster_are_clustered_alone():
    codes, features, _ = points()
    found = found_in(config(), codes, features, MODES_OF_CODES)
    assert found.feature_weight == 0 and found.balance == 0
    assert torch.equal(found.centres, find_clusters(config(), codes, MODES_OF_CODES))
    assert found.margins is not None and found.margins[0] == found.margins[1] > 0.5
    assert found.largest == pytest.approx(1 / 3, abs=0.01)


def test_features_tell_apart_what_codes_merge():
    codes, features, group = points()
    found = found_in(config(), codes, features, GROUPS)
    assert 1 < found.feature_weight <= FEATURES and 0 < found.balance <= 1
    unit = lambda rows: rows / np.linalg.norm(rows, axis=1, keepdims=True)  # noqa: E731
    joint = np.concatenate([unit(codes), found.feature_weight * unit(features)], 1)
    alone = agreement(codes, find_clusters(config(), codes, GROUPS), group)
    assert agreement(joint, found.centres, group) > 0.95 > 0.6 > alone


def test_numbers_are_obeyed():
    codes, features, _ = points()
    found = found_in(config(feature_weight=0.5, balance=0), codes, features, MODES_OF_CODES)
    assert (found.feature_weight, found.balance, found.margins) == (0.5, 0, None)
    assert found.centres.shape == (MODES_OF_CODES, 8 + 16)
    plain = found_in(config(feature_weight=0), codes, features, GROUPS)
    assert torch.equal(plain.centres, find_clusters(config(), codes, GROUPS))
    balanced = found_in(config(feature_weight=0, balance=1), codes, features, GROUPS)
    assert not torch.equal(balanced.centres, plain.centres)


def test_mixture_goes_from_one_to_nothing():
    assert [mixture(c, 1.0) for c in (1.5, MODES, 0.75 * MODES, MODES / 2, 0.1)] == pytest.approx([0, 0, 0.5, 1, 1])
    assert mixture(0.1, 0.0) == 0


def test_margins_are_those_of_so_many_and_of_the_best_of_fewer():
    codes, _, _ = points()
    found, fewer = margins_of(config(), codes, GROUPS)
    alone = {n: margins_of(config(), codes, n)[0] for n in (GROUPS, GROUPS // 2, GROUPS // 4)}
    assert found == alone[GROUPS] and fewer == max(alone[GROUPS // 2], alone[GROUPS // 4]) == alone[MODES_OF_CODES]
    assert found < MODES / 2 * fewer


@pytest.mark.parametrize("weight", [0.0, 2.0])
def test_maps_read_the_space_that_clusters_were_found_in(tmp_path: Path, weight: float):
    torch.manual_seed(0)
    model = Segmenter(dim=6, code_dim=4, projection="nonlinear", num_clusters=5, num_classes=3).eval()
    model.set_kmeans(F.normalize(torch.randn(5, 10 if weight else 4), dim=1), weight)
    model.save(tmp_path / "model.safetensors")
    model, _ = Segmenter.load(tmp_path / "model.safetensors")
    assert model.feature_weight == weight
    feats = torch.randn(2, 6, 3, 4)
    code, space = model.head(feats), model.encode(feats)
    joint = torch.cat([F.normalize(code, dim=1), weight * F.normalize(feats, dim=1)], 1) if weight else code
    assert torch.allclose(F.normalize(space, dim=1), F.normalize(joint, dim=1), atol=1e-6)
    extra = LinearProbe(4, 2)
    maps = predict_maps(model, space, (3, 4), ("kmeans", "learned"), {"more": extra})
    cosines = torch.einsum("bchw,kc->bkhw", F.normalize(joint, dim=1), F.normalize(model.kmeans, dim=1))
    assert torch.equal(maps.argmax("kmeans"), cosines.argmax(1))
    assert torch.allclose(maps.log_probs("kmeans"), (2 * cosines).log_softmax(1), atol=1e-5)
    learned = torch.einsum("bchw,kc->bkhw", F.normalize(code, dim=1), F.normalize(model.cluster.centres, dim=1))
    assert torch.equal(maps.argmax("learned"), learned.argmax(1))
    assert torch.allclose(maps.log_probs("learned"), (2 * learned).log_softmax(1), atol=1e-5)
    assert model.linear is not None
    assert torch.equal(maps.argmax("linear"), model.linear(code).argmax(1))
    assert torch.equal(maps.argmax("more"), extra(code).argmax(1))
