"""Evaluation against a plain restatement of the published order of work; nothing but the model changes its integers."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.optimize import linear_sum_assignment
from scipy.stats import entropy

from stego_dist.crf.dense import dense_crf
from stego_dist.data.card import load_card
from stego_dist.data.manifest import ShardSet
from stego_dist.data.pack import build
from stego_dist.data.plan import BuildOptions
from stego_dist.data.samples import ShardSamples
from stego_dist.engine.baselines import RAW, Baseline, run_baselines
from stego_dist.engine.evaluate import evaluate
from stego_dist.engine.inputs import make_backbone, make_segmenter
from stego_dist.engine.mirror import agreement
from stego_dist.engine.readouts import fit_readouts
from stego_dist.engine.scoring import cluster_use
from stego_dist.engine.setup import make_accelerator
from stego_dist.errors import UserError
from tests.tiny import build_shards, config_at, write_images


@pytest.fixture(scope="module")
def model(prepared):
    config = config_at(prepared)
    backbone = make_backbone(config)
    segmenter = make_segmenter(config, backbone.dim, ShardSet.open(config.data.shards)).eval()
    torch.manual_seed(1)
    segmenter.kmeans.normal_()
    return backbone, segmenter


def run(prepared, model, *overrides):
    backbone, segmenter = model
    config = config_at(prepared, *overrides)
    return evaluate(config, make_accelerator(), segmenter, backbone)


def published_order(prepared, model):
    """Upsample the flip-averaged code, then probes; one image at a time. Yields (image, label, log-probabilities)."""
    backbone, segmenter = model
    samples = ShardSamples(ShardSet.open(prepared / "shards"), "val")
    for i in range(len(samples)):
        image, label = samples.view(i, 40, "bilinear")
        x = image[None]
        with torch.no_grad():
            code = (segmenter.head(backbone(x)) + segmenter.head(backbone(x.flip(-1))).flip(-1)) / 2
            code = F.interpolate(code, (40, 40), mode="bilinear", align_corners=False)
            probs = {"linear": segmenter.linear(code).log_softmax(1)[0]}
            for name in ("kmeans", "learned"):
                cosines = F.cosine_similarity(code.unsqueeze(1), segmenter.centres(name)[None, :, :, None, None], dim=2)
                probs[name] = (2 * cosines).log_softmax(1)[0]
        yield image, label, probs


def count(pred, label, rows=2):
    matrix = np.zeros((rows, 2), np.int64)
    for p, t in zip(pred.flatten().tolist(), label.flatten().tolist()):
        if t != 255:
            matrix[p, t] += 1
    return matrix


def test_equals_the_published_order_of_work(prepared, model):
    evaluation = run(prepared, model, "eval.crf=both", "eval.crf_workers=1")
    wanted = {name: np.zeros((2, 2), np.int64) for name in ("kmeans", "learned", "linear", "kmeans+crf", "linear+crf")}
    for image, label, probs in published_order(prepared, model):
        for name, p in probs.items():
            wanted[name] += count(p.argmax(0), label)
            if name + "+crf" in wanted:
                bgr = np.ascontiguousarray(image.permute(1, 2, 0).numpy()[..., ::-1])
                wanted[name + "+crf"] += count(dense_crf(bgr, p.numpy()).argmax(0), label)
    measures = evaluation.results["measures"]
    assert set(measures) == set(wanted)
    for name, matrix in wanted.items():
        if not name.startswith("linear"):
            rows, columns = linear_sum_assignment(matrix, maximize=True)
            matrix = matrix[rows[np.argsort(columns)]]
        assert measures[name]["confusion"] == matrix.tolist(), name
        assert measures[name]["accuracy"] == pytest.approx(np.trace(matrix) / matrix.sum())
        iou = [matrix[c, c] / (matrix[c].sum() + matrix[:, c].sum() - matrix[c, c]) for c in range(2)]
        assert measures[name]["miou"] == pytest.approx(np.mean(iou))


@pytest.mark.parametrize("overrides", [["eval.batch_size=1"], ["eval.batch_size=5", "data.workers=2"]])
def test_batches_and_workers_do_not_matter(prepared, model, overrides):
    base, other = run(prepared, model), run(prepared, model, *overrides)
    for name, entry in base.results["measures"].items():
        assert other.results["measures"][name]["confusion"] == entry["confusion"]
    assert [p.name for p in base.panels] == [p.name for p in other.panels] == ["picture_00", "picture_04"]


def test_panels_hold_what_was_counted_with_the_crf_too(prepared, model):
    """With all images pictured, their predictions are the results."""
    for overrides in (["eval.batch_size=2"], ["eval.crop=none", "eval.crf_backend=torch"]):
        found = run(prepared, model, "eval.crf=both", "eval.panels=5", "eval.crf_workers=1", *overrides)
        assert len(found.panels) == 5
        for name, measure in found.results["measures"].items():
            counts = sum(count(panel.predictions[name], panel.label % 256) for panel in found.panels)
            rows = list(found.matchings[name].cluster_to_class) if name in found.matchings else [0, 1]
            assert counts[np.argsort(rows)].tolist() == measure["confusion"], name
        names = [*found.panels[0].predictions]
        assert names == ["kmeans", "kmeans+crf", "learned", "linear", "linear+crf"]


def test_flip_averaging_can_be_left_out(prepared, model):
    a, b = run(prepared, model), run(prepared, model, "eval.flip=false")
    assert a.results["measures"]["linear"]["confusion"] != b.results["measures"]["linear"]["confusion"]


def test_more_clusters_than_classes(prepared):
    config = config_at(prepared, "clusters.count=4")
    backbone = make_backbone(config)
    segmenter = make_segmenter(config, backbone.dim, ShardSet.open(config.data.shards)).eval()
    entry = evaluate(config, make_accelerator(), segmenter, backbone).results["measures"]["learned"]
    assert len(entry["cluster_to_class"]) == 4 and sorted(entry["cluster_to_class"])[:2] == [-1, -1]
    assert set(entry["published_counting"]) == {"accuracy", "miou"}
    assert len(entry["confusion"]) == 3  # the unmatched clusters' pixels count as wrong


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory):
    """Shards without labels, and a model that clusters them."""
    root = tmp_path_factory.mktemp("unlabelled")
    build_shards(root, labels=False)
    config = config_at(root, "clusters.count=3")
    backbone = make_backbone(config)
    segmenter = make_segmenter(config, backbone.dim, ShardSet.open(config.data.shards)).eval()
    torch.manual_seed(2)
    segmenter.kmeans.normal_()
    return root, (backbone, segmenter)


def test_without_labels_there_are_shares_and_no_scores(unlabelled):
    root, model = unlabelled
    evaluation = run(root, model, "clusters.count=3", "eval.crf=both", "eval.panels=5", "eval.crf_workers=1")
    results = evaluation.results
    assert "measures" not in results and not results["labelled"]
    assert [*results["cluster_shares"]] == ["kmeans", "kmeans+crf", "learned"]
    assert len(evaluation.panels) == 5 and evaluation.panels[0].label is None
    for name, shares in results["cluster_shares"].items():
        ids = np.stack([panel.predictions[name] for panel in evaluation.panels])
        assert shares == pytest.approx([(ids == cluster).mean() for cluster in range(3)])
    json.dumps(results, allow_nan=False)


def test_use_of_clusters_by_its_definitions(unlabelled):
    """Shares, their entropy and the agreement with mirror images, one image at a time."""
    root, (backbone, segmenter) = unlabelled
    results = run(root, (backbone, segmenter), "clusters.count=3", "eval.more_resolutions=[48]").results
    samples = ShardSamples(ShardSet.open(root / "shards"), "val")
    assert [*results["cluster_use"]] == ["kmeans", "learned"]
    for name, use in results["cluster_use"].items():
        agreed = positions = 0
        for i in range(len(samples)):
            x = samples.image_view(i, 40, "bilinear")[None]
            with torch.no_grad():
                codes = segmenter.head(backbone(x)), segmenter.head(backbone(x.flip(-1))).flip(-1)
            maps = [segmenter.cosines(code, name).argmax(1) for code in codes]
            agreed, positions = agreed + int((maps[0] == maps[1]).sum()), positions + maps[0].numel()
        shares = np.array(results["cluster_shares"][name])
        assert use["agreement"] == pytest.approx(agreed / positions) and 0 < use["agreement"] < 1
        assert use["entropy"] == pytest.approx(entropy(shares) / np.log(3))
        assert (use["largest"], use["median"], use["smallest"]) == tuple(np.sort(shares)[::-1])
        assert use["used"] == (shares > 0).sum() and use["clusters"] == 3
    more = results["more_resolutions"]["48"]["cluster_use"]["kmeans"]
    assert more["agreement"] is None and more["entropy"] != results["cluster_use"]["kmeans"]["entropy"]


def test_use_of_clusters_is_never_nan():
    counts = {"kmeans": np.array([[7]]), "learned": np.array([[0], [0]]), "learned+crf": np.array([[4], [4]])}
    found = cluster_use(counts | {"linear": np.array([[3]])}, {"kmeans": agreement(np.zeros((1, 1), np.int64))})
    assert [use["entropy"] for use in found.values()] == [None, None, 1.0]
    assert [use["agreement"] for use in found.values()] == [None, None, None]
    assert [use["used"] for use in found.values()] == [1, 0, 2]
    json.dumps(found, allow_nan=False)


def test_a_baseline_without_labels_says_how_its_clusters_are_used(unlabelled):
    root, (backbone, _) = unlabelled
    config = config_at(root, "clusters.count=3", "eval.more_resolutions=[48]", "train.steps=4", "eval.crf=cluster")
    found, _ = run_baselines(config, make_accelerator(), backbone, [Baseline(RAW)])
    (results,) = found.values()
    assert [*results["cluster_use"]] == ["kmeans", "kmeans+crf", "learned"] and "more_resolutions" not in results
    assert 0 < results["cluster_use"]["kmeans"]["agreement"] <= 1
    assert results["cluster_use"]["kmeans"]["used"] == 3  # found by k-means, so none is empty
    json.dumps(found, allow_nan=False)


def test_what_nobody_reads_of_a_baseline_is_left_out(prepared, model):
    backbone, segmenter = model
    config = config_at(prepared, "eval.more_resolutions=[48]")
    brief = evaluate(config, make_accelerator(), segmenter, backbone, brief=True)
    whole = evaluate(config, make_accelerator(), segmenter, backbone)
    assert brief.results["measures"] == whole.results["measures"]
    assert "more_resolutions" in whole.results and len(whole.image_counts) == 5 and len(whole.panels) == 2
    assert "more_resolutions" not in brief.results and not brief.image_counts and not brief.panels
    found, _ = run_baselines(config, make_accelerator(), backbone, [Baseline(RAW)], probes=False)
    assert "more_resolutions" not in found["raw features"]


def test_the_baseline_clusters_raw_features(prepared, model):
    config = config_at(prepared)
    found, _ = run_baselines(config, make_accelerator(), model[0], [Baseline(RAW)], probes=False)
    results = found["raw features"]
    assert set(results["measures"]) == {"kmeans"}
    assert results["measures"]["kmeans"]["accuracy"] > 0.6  # two textures: easy for features even of a random network


def test_a_corrupt_image_is_named_by_shard_and_sample(workspace, model):
    samples = ShardSamples(ShardSet.open(workspace / "shards"), "val")
    tar = samples.shard_set.tar(samples.split.shards[0])
    content = bytearray(tar.read_bytes())
    start = samples.header_offset(0) + 512
    content[start : start + 200] = bytes(200)
    tar.write_bytes(content)
    with pytest.raises(UserError) as caught:
        run(workspace, model, "data.workers=1")
    assert tar.name in str(caught.value) and samples.key(0) in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_a_resolution_that_does_not_fit_is_named(prepared, model):
    with pytest.raises(UserError, match=r"eval\.resolution: 42 is not a multiple of the patch size"):
        run(prepared, model, "eval.resolution=42")


# --- resolutions, whole images, clusters, CRF backends


def test_each_resolution_has_numbers_of_its_own(prepared, model):
    both = run(prepared, model, "eval.more_resolutions=[48,40]").results
    alone = run(prepared, model, "eval.resolution=48").results
    assert list(both["more_resolutions"]) == ["48"]
    for name, entry in alone["measures"].items():
        assert both["more_resolutions"]["48"]["measures"][name] == entry
        assert both["measures"][name]["confusion"] != entry["confusion"]
    with pytest.raises(UserError, match=r"eval\.more_resolutions: 42 is not a multiple"):
        run(prepared, model, "eval.more_resolutions=[42]")


def test_whole_images_count_every_pixel_once(prepared, model):
    """Images of 52×44 come to 47×40; the last column is repeated to 48 for the network, and is not counted."""
    backbone, segmenter = model
    samples = ShardSamples(ShardSet.open(prepared / "shards"), "val")
    wanted = np.zeros((2, 2), np.int64)
    for i in range(len(samples)):
        image, label = samples.view(i, 40, "bilinear", "none")
        assert image.shape == (3, 40, 47) and label.shape == (40, 47)
        x = torch.cat([image, image[:, :, -1:]], 2)[None]
        with torch.no_grad():
            code = (segmenter.head(backbone(x)) + segmenter.head(backbone(x.flip(-1))).flip(-1)) / 2
            logits = segmenter.linear(F.interpolate(code, (40, 48), mode="bilinear", align_corners=False))
        wanted += count(logits[0, :, :, :47].argmax(0), label)
    for batch in (1, 3):
        results = run(prepared, model, "eval.crop=none", f"eval.batch_size={batch}", "eval.crf=both").results
        assert results["measures"]["linear"]["confusion"] == wanted.tolist() and results["crop"] == "none"
        assert np.sum(results["measures"]["linear+crf"]["confusion"]) == wanted.sum()
    assert run(prepared, model, "eval.crop=none", "eval.resolution=37").results["measures"]["linear"]["miou"] > 0


def test_images_of_several_sizes_are_evaluated_whole(tmp_path, model):
    source = write_images(tmp_path / "source")
    for i in (1, 3):
        for kind, suffix in (("imgs", "jpg"), ("labels", "png")):
            path = source / kind / "val" / f"picture_{i:02d}.{suffix}"
            Image.open(path).crop((0, 0, 30, 44)).save(path)
    build(load_card("folder"), source, tmp_path / "shards", BuildOptions(min_shards=5))
    one, three = (
        run(tmp_path, model, "eval.crop=none", f"eval.batch_size={size}").results["measures"] for size in (1, 3)
    )
    for name, entry in one.items():
        assert three[name]["confusion"] == entry["confusion"]
        assert np.sum(entry["confusion"]) > 3 * 38 * 47 + 2 * 30 * 40


def test_three_countings_of_extra_clusters(prepared):
    config = config_at(prepared, "clusters.count=4")
    backbone = make_backbone(config)
    segmenter = make_segmenter(config, backbone.dim, ShardSet.open(config.data.shards)).eval()
    entry = evaluate(config, make_accelerator(), segmenter, backbone).results["measures"]["learned"]
    majority = entry["majority_matching"]
    assert majority["accuracy"] >= entry["accuracy"] and -1 not in majority["cluster_to_class"]


def test_crf_backends_and_processes_agree(prepared, model):
    library, torch_ = (
        run(prepared, model, "eval.crf=both", f"eval.crf_backend={backend}", f"eval.crf_workers={workers}")
        for backend, workers in (("library", 2), ("torch", 1))
    )
    for name, entry in library.results["measures"].items():
        other = np.array(torch_.results["measures"][name]["confusion"])
        assert np.abs(other - entry["confusion"]).sum() <= 0.002 * other.sum(), name


def test_a_probe_to_convergence_and_several_seeds(prepared, model):
    backbone, segmenter = model
    config = config_at(prepared, "eval.linear=converged", "eval.cluster_seeds=3", "eval.crf=both")
    accelerator = make_accelerator()
    more, how = fit_readouts(config, accelerator, segmenter, backbone)
    assert list(more) == ["linear_converged", "kmeans#1", "kmeans#2"]
    assert how["linear_converged"]["gradient"] < 1e-5 and how["linear_converged"]["positions"] > 100
    results = evaluate(config, accelerator, segmenter, backbone, more=more).results
    assert list(results["measures"]) == [
        "kmeans", "kmeans+crf", "learned", "linear", "linear+crf", "linear_converged", "linear_converged+crf",
    ]  # fmt: skip
    assert results["measures"]["linear_converged"]["accuracy"] > results["measures"]["linear"]["accuracy"]
    spread = results["cluster_seeds"]["kmeans"]
    assert spread["count"] == 3 and spread["miou"]["values"][0] == results["measures"]["kmeans"]["miou"]
    assert spread["miou"]["mean"] == pytest.approx(np.mean(spread["miou"]["values"]))
    assert spread["miou"]["std"] == pytest.approx(np.std(spread["miou"]["values"], ddof=1))
    assert fit_readouts(config_at(prepared), accelerator, segmenter, backbone) == ({}, {})


def test_a_converged_probe_has_the_lowest_training_loss(prepared, model):
    backbone, segmenter = model
    config = config_at(prepared, "eval.linear=converged", "eval.linear_points=100000")
    more, how = fit_readouts(config, make_accelerator(), segmenter, backbone)
    samples = ShardSamples(ShardSet.open(prepared / "shards"), "train")
    losses = {"linear": 0.0, "linear_converged": 0.0}
    positions = 0
    for i in range(len(samples)):
        image, label = samples.view(i, 32, "bilinear")
        wanted = label[4::8, 4::8].long()  # the pixels at the centres of the 4×4 codes
        with torch.no_grad():
            code = segmenter.head(backbone(image[None]))
            for name, probe in {"linear": segmenter.linear, **more}.items():
                logits = probe(code)[0].flatten(1).T
                losses[name] += float(F.cross_entropy(logits, wanted.flatten(), ignore_index=255, reduction="sum"))
        positions += int((wanted != 255).sum())
    assert positions == how["linear_converged"]["positions"]
    assert losses["linear_converged"] / positions == pytest.approx(how["linear_converged"]["training_loss"], rel=2e-2)
    assert losses["linear_converged"] < losses["linear"]


def test_labels_that_are_all_ignored_give_no_number_and_no_nan(tmp_path, model):
    source = write_images(tmp_path / "source")
    for path in (source / "labels" / "val").iterdir():
        Image.fromarray(np.full((44, 52), 255, np.uint8)).save(path)
    build(load_card("folder"), source, tmp_path / "shards", BuildOptions(min_shards=5))
    results = run(tmp_path, model, "eval.crf=both").results
    assert {entry["miou"] for entry in results["measures"].values()} == {None}
    assert results["measures"]["linear"]["left_out"] == results["classes_without_pixels"] == results["classes"]
    json.dumps(results, allow_nan=False)
