"""What results.json holds beside the scores: chosen images, clusters, neighbours, curves, on any number of ranks."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

from stego_dist.data.manifest import ShardSet
from stego_dist.data.samples import ShardSamples
from stego_dist.engine.evaluate import evaluate
from stego_dist.engine.findings import NEIGHBOURS, training_curves
from stego_dist.engine.inputs import make_backbone
from stego_dist.engine.results import evaluate_run
from stego_dist.engine.setup import make_accelerator
from stego_dist.engine.train import train
from stego_dist.metrics.confusion import confusion, scores
from stego_dist.metrics.matching import match_clusters
from stego_dist.models.segmenter import Segmenter
from stego_dist.rundir import RunDir, append_metrics
from tests.launching import stego
from tests.tiny import build_shards, config_at, embed_and_search

OVERRIDES = ("eval.panels=3", "eval.correspondences=4")


@pytest.fixture(scope="module")
def trained(prepared, tmp_path_factory):
    """A trained run in a copy of the prepared folder."""
    root = shutil.copytree(prepared, tmp_path_factory.mktemp("findings") / "work")
    train(config_at(root))
    return root


@pytest.fixture(scope="module")
def found(trained):
    config = config_at(trained, *OVERRIDES)
    return evaluate_run(config, RunDir(trained / "run"))


def test_scores_of_images_are_what_their_panels_show(found):
    results = found.results
    mapping = found.matchings["kmeans"].cluster_to_class
    shown = results["per_image"]["shown"]
    assert [entry["name"] for entry in shown] == [panel.name for panel in found.panels]
    assert [entry["rank"] for entry in shown] == ["best", "median", "worst", "spread", "spread", "spread"]
    for panel, entry in zip(found.panels, shown):
        classes = np.array(mapping)[panel.predictions["kmeans"]]
        counts = confusion(torch.from_numpy(classes), torch.from_numpy(panel.label), 2, 2).numpy()
        assert entry["accuracy"] == scores(counts).accuracy and entry["miou"] == scores(counts).miou
    best, median, worst = (entry["accuracy"] for entry in shown[:3])
    assert best >= median >= worst
    quantiles = results["per_image"]
    assert quantiles["accuracy"][-1] == best and quantiles["accuracy"][0] == worst
    assert quantiles["accuracy"][3] == median and quantiles["images"] == 5


def test_counts_of_single_images_add_up(found):
    total = sum(found.image_counts.values()).astype(np.int64)
    assert match_clusters(total).matrix.tolist() == found.results["measures"]["kmeans"]["confusion"]


def test_neighbours_are_the_tables(trained, found):
    samples = ShardSamples(ShardSet.open(trained / "shards"), "train")
    files = sorted((trained / "features" / "knn").glob("*.ids.npy"))
    ids = np.concatenate([np.load(file) for file in files])
    similarities = np.concatenate([np.load(str(file).replace(".ids.", ".similarities.")) for file in files])
    rows = found.results["neighbours"]
    assert len(rows) == 6 and len({row["id"] for row in rows}) == 6
    for row in rows:
        assert row["name"] == samples.name(row["id"])
        assert [other["id"] for other in row["neighbours"]] == ids[row["id"], 1 : NEIGHBOURS + 1].tolist()
        cosines = [other["similarity"] for other in row["neighbours"]]
        np.testing.assert_allclose(cosines, similarities[row["id"], 1 : NEIGHBOURS + 1], atol=1e-4)
        assert not any(other["same_image"] for other in row["neighbours"])


def test_what_cannot_be_had_is_left_out_by_name(trained, tmp_path):
    root = shutil.copytree(trained, tmp_path / "work")
    config = config_at(root, *OVERRIDES)
    shutil.rmtree(root / "features" / "knn")
    results = evaluate_run(config, RunDir(root / "run")).results
    assert "neighbours" not in results and "knn build" in results["neighbours_missing"]
    assert set(results["correspondences"]["training"]["kinds"]) == {"self", "random"}
    for tar in (root / "shards").rglob("train*.tar"):
        tar.unlink()
    shutil.rmtree(root / "features")
    results = evaluate_run(config, RunDir(root / "run")).results
    assert "train" in results["training_missing"] and "training" not in results["correspondences"]
    assert results["correspondences"]["labels"]["images"] == 4
    results = evaluate_run(config_at(root, "eval.correspondences=0"), RunDir(root / "run")).results
    assert "correspondences" not in results and "training_missing" not in results


def test_online_features_give_the_histograms_of_the_bank(trained, found, tmp_path):
    root = shutil.copytree(trained, tmp_path / "work")
    for file in (root / "features").glob("manifest.json"):
        file.unlink()
    online = evaluate_run(config_at(root, *OVERRIDES), RunDir(root / "run")).results["correspondences"]["training"]
    bank = found.results["correspondences"]["training"]
    for kind, entry in online["kinds"].items():
        assert entry["mean"] == pytest.approx(bank["kinds"][kind]["mean"], abs=2e-3)  # float16 in the bank


def test_without_labels_clusters_have_examples_and_stability(tmp_path):
    build_shards(tmp_path, labels=False)
    config = config_at(tmp_path, "clusters.count=3", "eval.clusters=learned", *OVERRIDES)
    embed_and_search(config)
    train(config)
    found = evaluate_run(config, RunDir(tmp_path / "run"))
    results = found.results["cluster_examples"]
    assert found.results["correspondences"]["labels"] is None and "per_image" not in found.results
    shares = found.results["cluster_shares"]["learned"]
    assert [sheet["cluster"] for sheet in results["examples"]] == sorted(range(3), key=lambda c: -shares[c])
    for sheet in results["examples"]:
        for image in sheet["images"]:
            inside = found.examples[image["id"]].predictions["learned"] == sheet["cluster"]
            assert image["share"] == pytest.approx(inside.mean()) and found.examples[image["id"]].name == image["name"]
        best = max(matrix[sheet["cluster"], 0] / matrix.sum() for matrix in found.image_counts.values())
        assert best == (sheet["images"][0]["share"] if sheet["images"] else 0)

    backbone = make_backbone(config)
    segmenter, _ = Segmenter.load(RunDir(tmp_path / "run").model)
    samples = ShardSamples(ShardSet.open(tmp_path / "shards"), "val")
    agreed = positions = 0
    for i in range(len(samples)):
        x = samples.image_view(i, 40, "bilinear")[None]
        with torch.no_grad():
            codes = segmenter.head(backbone(x)), segmenter.head(backbone(x.flip(-1))).flip(-1)
        maps = [segmenter.cosines(code, "learned").argmax(1) for code in codes]
        agreed, positions = agreed + int((maps[0] == maps[1]).sum()), positions + maps[0].numel()
    assert results["stability"]["agreement"] == pytest.approx(agreed / positions)


def test_no_panels_means_no_pictures(trained):
    config = config_at(trained, "eval.panels=0", "eval.correspondences=0")
    found = evaluate_run(config, RunDir(trained / "run"))
    assert found.panels == [] and found.results["per_image"]["shown"] == []


def test_curves_are_means_of_consecutive_lines(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for step in range(1, 1001):
        append_metrics(path, {"step": step, "loss/self": step, "memory_gb": 1.0})
    append_metrics(path, {"step": 1000, "val/miou_learned": 0.5, "val/seconds": 3.0})
    append_metrics(path, {"step": 1001, "loss/self": float("nan")})
    curves = training_curves(path)
    assert set(curves) == {"loss/self", "val/miou_learned"} and curves["val/miou_learned"]["value"] == [0.5]
    assert curves["loss/self"]["step"] == list(range(5, 1001, 5)) and curves["loss/self"]["value"][:2] == [3.0, 8.0]
    assert training_curves(tmp_path / "none.jsonl") == {}


@pytest.mark.ranks
def test_two_processes_find_the_same(trained, found):
    stego(2, "eval", str(trained / "run"), *OVERRIDES)
    two = json.loads((trained / "run" / "results.json").read_text())
    for key in ("per_image", "neighbours", "measures"):
        assert two[key] == json.loads(json.dumps(found.results[key])), key


def test_an_evaluation_alone_keeps_counts(trained):
    config = config_at(trained)
    segmenter, _ = Segmenter.load(RunDir(trained / "run").model)
    evaluation = evaluate(config, make_accelerator(), segmenter, make_backbone(config), clusters=("kmeans",))
    assert sorted(evaluation.image_counts) == [0, 1, 2, 3, 4]
