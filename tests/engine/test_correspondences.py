"""Correspondences of an evaluation against brute force over pairs, and against what the loss itself logs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stego_dist.crf.affinity import log_affinity
from stego_dist.data.manifest import ShardSet
from stego_dist.data.samples import ShardSamples
from stego_dist.engine import correspondences
from stego_dist.engine.correspondences import draw_positions, label_agreement
from stego_dist.engine.histograms import training_histograms
from stego_dist.engine.inputs import features_fingerprint, make_backbone, make_segmenter, open_table
from stego_dist.engine.supply import features_of, open_bank
from stego_dist.losses.correspondence import correspondence_loss
from stego_dist.losses.draws import draw_step
from stego_dist.losses.sampling import bilinear, pair_places
from stego_dist.metrics.precision_recall import precision_recall
from tests.tiny import build_shards, config_at

CPU = torch.device("cpu")


@pytest.fixture
def parts(prepared, monkeypatch):
    monkeypatch.setattr(correspondences, "POINTS", 9)
    config = config_at(prepared, "eval.correspondences=4")
    backbone = make_backbone(config)
    shard_set = ShardSet.open(config.data.shards)
    return config, shard_set, backbone, make_segmenter(config, backbone.dim, shard_set).eval()


def test_positions_are_what_the_resized_map_holds_there(parts):
    config, shard_set, backbone, segmenter = parts
    samples = ShardSamples(shard_set, "val")
    drawn = draw_positions(config, samples, backbone, segmenter, CPU)
    assert drawn.features.shape == (4, 9, 24) and drawn.codes.shape == (4, 9, 6)
    matched = 0
    for i in range(len(samples)):
        image, label = samples.view(i, 40, "bilinear")
        with torch.no_grad():
            feats = backbone(image[None])
            maps = F.interpolate(feats, (40, 40), mode="bilinear", align_corners=False)[0]
        descriptor = F.normalize(feats.mean((2, 3)), dim=1)[0].numpy()
        for n in range(4):
            if not np.allclose(drawn.descriptors[n], descriptor, atol=1e-5):
                continue
            matched += 1
            x, y = drawn.xy[n].astype(int).T
            wanted = F.normalize(maps[:, y, x], dim=0).T
            np.testing.assert_allclose(drawn.features[n], wanted, atol=1e-5)
            np.testing.assert_array_equal(drawn.rgb[n], image[:, y, x].T)
            signed = np.where(label[y, x] == 255, -1, label[y, x].numpy().astype(int))
            np.testing.assert_array_equal(drawn.labels[n], signed)
    assert matched == 4


def test_agreement_equals_brute_force_over_pairs(parts):
    config, shard_set, backbone, segmenter = parts
    samples = ShardSamples(shard_set, "val")
    drawn = draw_positions(config, samples, backbone, segmenter, CPU)
    found = label_agreement(config, samples, backbone, segmenter, CPU)
    assert found == label_agreement(config, samples, backbone, segmenter, CPU)
    assert found["images"] == 4 and found["points"] == 9 and set(found["pairs"]) == {"within", "knn", "random"}

    same, scores = [], {"features": [], "codes": [], "crf": []}
    for n in range(4):
        for p in range(9):
            for q in range(p + 1, 9):
                if drawn.labels[n, p] < 0 or drawn.labels[n, q] < 0:
                    continue
                same.append(drawn.labels[n, p] == drawn.labels[n, q])
                scores["features"].append(float(drawn.features[n, p] @ drawn.features[n, q]))
                scores["codes"].append(float(drawn.codes[n, p] @ drawn.codes[n, q]))
                scores["crf"].append(
                    float(log_affinity(drawn.xy[n, p], drawn.rgb[n, p], drawn.xy[n, q], drawn.rgb[n, q]))
                )
    within = found["pairs"]["within"]
    assert within["pairs"] == len(same) and within["same_label"] == pytest.approx(np.mean(same))
    for name, values in scores.items():
        wanted = precision_recall(np.array(values), np.array(same)).average_precision
        assert within["curves"][name]["average_precision"] == pytest.approx(wanted, abs=2e-3), name

    cosines = drawn.descriptors @ drawn.descriptors.T - 2 * np.eye(4)
    nearest = [int(np.argmax(row)) for row in cosines]
    pairs = [(n, p, m, q) for n, m in enumerate(nearest) for p in range(9) for q in range(9)]
    pairs = [x for x in pairs if drawn.labels[x[0], x[1]] >= 0 and drawn.labels[x[2], x[3]] >= 0]
    knn = found["pairs"]["knn"]
    assert knn["pairs"] == len(pairs) and set(knn["curves"]) == {"features", "codes"}
    same = np.array([drawn.labels[n, p] == drawn.labels[m, q] for n, p, m, q in pairs])
    cosines = np.array([drawn.features[n, p] @ drawn.features[m, q] for n, p, m, q in pairs])
    wanted = precision_recall(cosines, same).average_precision
    assert knn["curves"]["features"]["average_precision"] == pytest.approx(wanted, abs=2e-3)


def test_without_labels_there_is_no_agreement(tmp_path):
    build_shards(tmp_path, labels=False)
    config = config_at(tmp_path, "clusters.count=3")
    backbone, shard_set = make_backbone(config), ShardSet.open(config.data.shards)
    segmenter = make_segmenter(config, backbone.dim, shard_set)
    assert label_agreement(config, ShardSamples(shard_set, "val"), backbone, segmenter, CPU) is None


def test_histograms_are_of_what_the_loss_sees(parts, prepared):
    _, shard_set, backbone, _ = parts
    config = config_at(prepared, "eval.correspondences=7", "loss.self_pair.shift=0.3", "loss.knn_pair.shift=0.1")
    samples = ShardSamples(shard_set, "train")
    fingerprint = features_fingerprint(config, shard_set, backbone)
    table, bank = open_table(config, fingerprint), open_bank(config, fingerprint, CPU)
    features = features_of(config, samples, backbone, bank, CPU)
    asked = []

    def recorded(ids):
        asked.append(features(ids))
        return asked[-1]

    found = training_histograms(config, samples, table, recorded)
    assert found["anchors"] == 8 and len(asked) == 4  # two groups of 4: anchors and neighbours of each
    above = {"self": [], "knn": [], "random": []}
    for group in range(2):
        draws = draw_step(
            seed=0, step=6, groups=range(group, group + 1), size=4, points=3, negatives=2, channels=24, dropout=0.0
        )
        maps = torch.cat(asked[2 * group : 2 * group + 2])
        places = pair_places(draws.points, draws.points_other, draws.negatives, (4, 4))
        sampled = bilinear(maps.flatten(2).transpose(1, 2).flatten(0, 1), places)
        loss = correspondence_loss(feats=sampled, code=sampled, weights=(1, 1, 1), shifts=(0.3, 0.1, 0.66))
        for kind in above:
            above[kind].append(float(getattr(loss, f"{kind}_pair").above_shift))
    for kind, entry in found["kinds"].items():
        assert entry["above_shift"] == pytest.approx(np.mean(above[kind]), abs=1e-3)
        assert sum(entry["counts"]) == entry["pairs"] == 8 * 81 * (2 if kind == "random" else 1)
        edges = np.array(found["edges"])
        centres = (edges[1:] + edges[:-1]) / 2
        assert np.average(centres, weights=entry["counts"]) == pytest.approx(entry["mean"], abs=edges[1] - edges[0])
    assert [found["kinds"][kind]["shift"] for kind in above] == [0.3, 0.1, 0.66]
    assert found == training_histograms(config, samples, table, features)
    assert set(training_histograms(config, samples, None, features)["kinds"]) == {"self", "random"}
