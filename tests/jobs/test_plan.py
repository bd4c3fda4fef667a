"""Estimates by hand, what the advice says, and that probes measure real parts."""

from __future__ import annotations

import itertools
from dataclasses import asdict, fields, replace

import pytest

from stego_dist.console import size
from stego_dist.jobs.plan import EVALUATED, INDEX_BYTES, Facts, Figures, estimate, facts_of, sharing
from stego_dist.jobs.probes import Subject, measure, open_samples
from stego_dist.models.backbone import Backbone
from tests.tiny import build_shards, config_at

FACTS = Facts(
    dim=384, grid=28, resolution=224, crops=5, parameters=22_000_000, embed_batch=16, descriptor_bytes=2, k=30,
    knn_memory=2e9, knn_method="auto", excludes_same_image=False, code="flat", eval_resolution=320,
    keeps_evaluated=True, steps=7000, batch=32, group=16, features="online", label_classes=27, accumulate=1,
)  # fmt: skip
FIGURES = Figures(
    pack=100, sample_bytes=50_000, embed=200, train=4, knn_flops=4e10, knn_matmul_flops=8e10, knn_scan_flops=1e10,
    knn_query_seconds=1e-4, disk_read=1e9, disk_write=5e8, disk_free=1e13, memory=64e9,
)  # fmt: skip


def test_stages_by_hand():
    found = estimate(100_000, FACTS, FIGURES, 4)
    stages, n = found["stages"], 500_000
    assert found["crops"] == n
    assert stages["shards"]["bytes"] == n * 50_000
    assert stages["shards"]["seconds"] == pytest.approx(100_000 / 100 / 4 + n * 50_000 / 5e8 / 4)
    assert stages["embedding"]["bytes"] == n * 384 * 2
    assert stages["embedding"]["seconds"] == pytest.approx(n / 200 / 4 + n * 768 / 5e8 / 4)
    assert stages["bank"]["bytes"] == n * (384 * 28 * 28 * 2 + 224 * 224)
    assert stages["knn exact"]["bytes"] == n * 30 * 12
    same = estimate(100_000, replace(FACTS, excludes_same_image=True), FIGURES, 4)["stages"]["knn exact"]
    assert same["memory_per_worker"] == pytest.approx(stages["knn exact"]["memory_per_worker"] + 8 * n)
    # two groups: two of the four workers train, a group and its neighbours each
    assert sharing(FACTS, 4) == 2
    assert stages["training online"]["seconds"] == pytest.approx(7000 * (1 / 4 + 32 / 200))
    read = 32 * 384 * 28 * 28 * 2 + 16 * 224 * 224
    assert stages["training bank"]["seconds"] == pytest.approx(7000 * (1 / 4 + read / 1e9))
    assert stages["evaluation"]["seconds"] == pytest.approx(EVALUATED * 2 * (320 / 224) ** 2 / 200 / 4)
    of = found["total"]["of"]
    assert of == ["shards", "embedding", f"knn {found['knn']['method']}", "training online"]
    assert found["total"]["seconds"] == pytest.approx(sum(stages[name]["seconds"] for name in of))
    from_bank = estimate(100_000, replace(FACTS, features="bank"), FIGURES, 4)
    kept = EVALUATED * (2 * 2 * 384 * 40 * 40 + 320 * 320)  # straight and mirrored at 320 pixels, stride 8, and labels
    assert stages["evaluation bank"]["bytes"] == kept
    seconds = stages["evaluation"]["seconds"] + kept / 5e8 / 4
    assert stages["evaluation bank"]["seconds"] == pytest.approx(seconds)
    assert from_bank["total"]["bytes"] == pytest.approx(found["total"]["bytes"] + stages["bank"]["bytes"] + kept)
    online = estimate(100_000, replace(FACTS, features="bank", keeps_evaluated=False), FIGURES, 4)
    assert online["total"]["bytes"] == pytest.approx(found["total"]["bytes"] + stages["bank"]["bytes"])


def test_more_images_cost_more_and_more_workers_less():
    sizes = [estimate(10**p, FACTS, FIGURES, 8) for p in range(3, 10)]
    for smaller, larger in itertools.pairwise(sizes):
        for name, stage in smaller["stages"].items():
            assert all(stage[what] <= larger["stages"][name][what] for what in stage)
        assert smaller["total"]["seconds"] < larger["total"]["seconds"]
    assert (sizes[0]["knn"]["method"], sizes[-1]["knn"]["method"]) == ("exact", "ivf")
    assert estimate(10**6, FACTS, FIGURES, 64)["total"]["seconds"] < sizes[3]["total"]["seconds"]
    grown = sizes[-1]["stages"]["embedding"]["memory_per_worker"] - sizes[0]["stages"]["embedding"]["memory_per_worker"]
    assert grown == INDEX_BYTES * 5 * (10**9 - 10**3)


def test_the_method_that_is_asked_for_is_counted():
    for method in ("exact", "ivf"):
        found = estimate(10**4, replace(FACTS, knn_method=method), FIGURES, 4)
        assert found["knn"]["method"] == method and f"knn {method}" in found["total"]["of"]
        assert found["knn"]["why"] == f"knn.method={method}"


def test_advice_says_what_binds():
    assert estimate(1000, FACTS, FIGURES, 4)["notes"] == []
    few = " ".join(estimate(10**6, FACTS, FIGURES, 4)["notes"])
    assert "training looks at 224,000 of 5,000,000 crops" in few and "the bank" not in few
    full = estimate(10**6, FACTS, replace(FIGURES, disk_free=1e12), 4)
    assert any(note.startswith("the bank needs 3.26 TB more, of 1 TB free: train online") for note in full["notes"])
    much = estimate(10**9, FACTS, FIGURES, 4)["notes"]
    assert any("the inverted file (flat) takes" in note and "knn.ivf_code=sq8 or pq" in note for note in much)
    assert any("the list of the images takes 1 TB" in note for note in much)
    assert any("A worker needs up to".lower() in note.lower() for note in much)
    exact = estimate(10**8, replace(FACTS, knn_method="exact"), FIGURES, 4)["notes"]
    assert any("is read again for every chunk" in note and "about 275 workers" in note for note in exact)


def test_the_workers_that_a_day_takes():
    notes = estimate(3 * 10**7, FACTS, FIGURES, 4)["notes"]
    (note,) = [note for note in notes if "would be done in a day" in note]
    assert " takes " in note and " of " in note
    workers = int(note.split("about ")[1].split()[0].replace(",", ""))
    assert estimate(3 * 10**7, FACTS, FIGURES, workers)["total"]["seconds"] <= 86400
    assert estimate(3 * 10**7, FACTS, FIGURES, int(workers * 0.97) - 1)["total"]["seconds"] > 86400
    slow = estimate(1000, FACTS, replace(FIGURES, train=0.01), 4)["notes"]
    assert any("no number of such workers" in note for note in slow)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (999.9, "1 kB"), (1536, "1.54 kB"), (5e13, "50 TB"), (3e18, "3e+03 PB")],
)
def test_sizes(count, text):
    assert size(count) == text


@pytest.mark.parametrize("built", [True, False])
def test_probes_measure_what_is_not_given(tmp_path, built):
    if built:
        build_shards(tmp_path)
    config = config_at(tmp_path)
    samples, b = open_samples(config), config.backbone
    assert (samples is not None) == built
    backbone = Backbone(b.name, weights="random", options=b.options)
    subject = Subject(config, backbone, samples, "none", clusters=2, classes=2)
    figures, origins = measure(subject, {"disk_free": 7.0, "embed": 5.0})
    assert figures.disk_free == 7 and figures.embed == 5
    assert set(origins) == {field.name for field in fields(Figures)} and origins["embed"] == "given"
    assert all(value > 0 or name == "knn_query_seconds" for name, value in asdict(figures).items())
    assert origins["knn_flops"] == origins["train"] == "measured"
    if built:
        assert origins["pack"] == "measured" and origins["sample_bytes"] == "manifest"
        split = samples.split
        assert figures.sample_bytes == split.bytes / split.num_samples
    else:
        assert origins["pack"] == origins["sample_bytes"] == "assumed"
    assert not list(tmp_path.glob("tmp*"))


def test_crops_of_whole_images_are_smaller(tmp_path):
    build_shards(tmp_path)
    config = config_at(tmp_path)
    backbone = Backbone(config.backbone.name, weights="random", options=config.backbone.options)
    given = {"embed": 1.0, "train": 1.0, "disk_read": 1.0, "disk_write": 1.0, "memory": 1.0, "disk_free": 1.0}
    given |= {"knn_flops": 1.0, "knn_matmul_flops": 1.0, "knn_scan_flops": 1.0, "knn_query_seconds": 1.0}
    found = {}
    for crops in ("none", "five"):
        subject = Subject(config, backbone, open_samples(config), crops, 2, 2)
        found[crops], origins = measure(subject, given)
        assert origins["pack"] == "measured"
    assert found["five"].sample_bytes < found["none"].sample_bytes


def test_facts_come_from_the_configuration(tmp_path):
    facts = facts_of(config_at(tmp_path), dim=24, stride=8, parameters=100, crops=5, classes=2)
    assert (facts.grid, facts.resolution, facts.k, facts.batch, facts.group, facts.features) == (4, 32, 5, 8, 4, "bank")
    assert facts.bank_bytes == 24 * 4 * 4 * 2 + 32 * 32
    assert facts.evaluated_bytes == 2 * 24 * 5 * 5 * 2 + 40 * 40
    config = config_at(tmp_path, "eval.features=online")
    assert facts_of(config, dim=24, stride=8, parameters=100, crops=5, classes=2).evaluated_bytes == 0
    assert replace(facts, label_classes=0).bank_bytes == 24 * 4 * 4 * 2


def test_accumulation_and_labels_change_what_training_holds():
    whole, parts, plain = (
        estimate(1000, facts, FIGURES, 1)["stages"]["training bank"]["memory_per_worker"]
        for facts in (FACTS, replace(FACTS, accumulate=2), replace(FACTS, label_classes=0))
    )
    assert plain < whole and whole - parts == pytest.approx(16 * (8 * 7 * 384 * 28 * 28 + 224 * 224))
