"""Evaluation against a plain restatement of the published order of work; nothing but the model changes its integers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment

from stego_dist.crf.dense import dense_crf
from stego_dist.data.manifest import ShardSet
from stego_dist.data.samples import ShardSamples
from stego_dist.engine.baselines import RAW, Baseline, run_baselines
from stego_dist.engine.evaluate import evaluate
from stego_dist.engine.inputs import make_backbone, make_segmenter
from stego_dist.engine.setup import make_accelerator
from stego_dist.errors import UserError
from tests.tiny import build_shards, config_at


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


def test_without_labels_there_are_shares_and_no_scores(tmp_path):
    build_shards(tmp_path, labels=False)
    config = config_at(tmp_path, "clusters.count=3", "eval.crf=both")
    backbone = make_backbone(config)
    segmenter = make_segmenter(config, backbone.dim, ShardSet.open(config.data.shards)).eval()
    evaluation = evaluate(config, make_accelerator(), segmenter, backbone)
    assert "measures" not in evaluation.results and not evaluation.results["labelled"]
    assert sum(evaluation.results["cluster_shares"]["learned"]) == pytest.approx(1)
    assert len(evaluation.panels) == 2 and evaluation.panels[0].label is None


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
