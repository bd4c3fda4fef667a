"""`import`: a published checkpoint becomes a run whose codes and predictions are those of the published module."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
import torch.nn.functional as F

from stego_dist.cli import main
from stego_dist.config import load_config
from stego_dist.data.manifest import ShardSet
from stego_dist.data.samples import ShardSamples
from stego_dist.engine.inputs import make_backbone
from stego_dist.models.segmenter import Segmenter
from stego_dist.rundir import RunDir
from tests.published_stego import CODE, Published, write_checkpoint
from tests.ranks import on_ranks
from tests.tiny import config_at


def imported(workspace, module, *more, code=0, **content):
    """Run the verb; the run's folder."""
    write_checkpoint(workspace / "stego.ckpt", module, **content)
    config_at(workspace)
    run = workspace / "imported"
    arguments = [str(workspace / "stego.ckpt"), "--config", str(workspace / "config.yaml"), "--out", str(run)]
    assert main(["import", *arguments, *more]) == code
    return RunDir(run)


@pytest.fixture
def published():
    return Published(extra=1)


@torch.no_grad()
def test_codes_and_clusters_are_those_of_the_module(workspace, published):
    run = imported(workspace, published, "eval.resolution=32", "eval.flip=false")
    config = load_config(run.config)
    assert config.name == "imported" and config.clusters.count == 3 and config.eval.clusters == "learned"
    assert (config.loss.self_pair.weight, config.loss.random_pair.shift, config.train.steps) == (0.5, 0.7, 7)
    backbone, (segmenter, meta) = make_backbone(config), Segmenter.load(run.model)
    assert meta["step"] == 6999 and meta["clusters"] == ["kmeans", "learned"] and segmenter.kmeans.norm() > 0
    assert not torch.equal(segmenter.kmeans, segmenter.cluster.centres)

    samples = ShardSamples(ShardSet.open(config.data.shards), "val")
    counts = {"learned": torch.zeros(3, 2, dtype=torch.long), "linear": torch.zeros(2, 2, dtype=torch.long)}
    for i in range(len(samples)):
        image, label = samples.view(i, 32, "bilinear")
        code = published.net((image[None].float() - backbone.mean) / backbone.std)
        assert code.shape == (1, CODE, 4, 4)
        torch.testing.assert_close(segmenter.head(backbone(image[None])), code, rtol=1e-4, atol=1e-5)
        large = F.interpolate(code, (32, 32), mode="bilinear", align_corners=False)
        cosines = torch.einsum("bchw,kc->bkhw", large, F.normalize(published.cluster_probe.clusters, dim=1))
        for name, scores in (("learned", cosines), ("linear", published.linear_probe(large))):
            for c in (0, 1):
                counts[name][:, c] += scores.argmax(1)[0][label == c].bincount(minlength=len(counts[name]))

    assert main(["eval", str(run.root)]) == 0
    results = json.loads(run.results.read_text())
    assert results["measures"]["linear"]["confusion"] == counts["linear"].tolist()
    assert results["headline_clusters"] == "learned" and set(results["measures"]) == {"learned", "kmeans", "linear"}
    assert sorted(results["measures"]["learned"]["confusion"]) == sorted(counts["learned"].tolist())
    assert (run.root / "report.html").exists() and main(["report", str(run.root)]) == 0
    assert json.loads(run.status.read_text())["state"] == "done"
    source = json.loads(run.provenance.read_text())["imported"]
    assert source["file"] == "stego.ckpt" and source["settings"]["nested"] == {"rate": 1.5}


def test_without_the_shard_set_there_are_learned_clusters_alone(workspace, published, capsys):
    shutil.move(workspace / "shards", workspace / "elsewhere")
    run = imported(workspace, published)
    assert "no k-means over training codes: " in capsys.readouterr().err
    assert Segmenter.load(run.model)[1]["clusters"] == ["learned"]
    assert main(["eval", str(run.root), f"data.shards={workspace / 'elsewhere'}"]) == 0
    assert set(json.loads(run.results.read_text())["measures"]) == {"learned", "linear"}


def test_what_does_not_fit_is_named(workspace, published, capsys):
    imported(workspace, published, "backbone.options.depth=2", code=1)
    assert "the backbone (as vit_tiny_patch16_224" in capsys.readouterr().err
    other = Published()
    other.linear_probe = torch.nn.Conv2d(CODE, 27, 1)
    imported(workspace, other, code=1)
    assert "was trained for 27 classes, but the shard set" in capsys.readouterr().err
    run = imported(workspace, published)
    imported(workspace, published, code=1)
    assert "already holds a run" in capsys.readouterr().err
    imported(workspace, Published(), "--overwrite")
    assert Segmenter.load(run.model)[0].num_clusters == 2


def test_published_keys_of_attention_are_taken_over(workspace, published):
    run = imported(workspace, published, hyper_parameters={"n_classes": 2, "cfg": {"dino_feat_type": "KK"}})
    assert load_config(run.config).backbone.feature == "keys"


def test_coefficients_are_the_checkpoints_or_unknown(workspace, published):
    run = imported(workspace, published, "loss.preset=iaroa")
    loss = load_config(run.config).loss
    assert loss.preset is None and (loss.self_pair.weight, loss.self_pair.shift) == (0.5, 0.18)
    shutil.rmtree(run.root)
    run = imported(workspace, published, "loss.preset=null", hyper_parameters={"n_classes": 2, "cfg": {}})
    assert load_config(run.config).loss.self_pair.shift == "auto" and main(["eval", str(run.root)]) == 0
    results = json.loads(run.results.read_text())
    assert results["coefficients"]["self"]["shift"] is None


def test_two_processes_import_the_same(workspace, published, tmp_path):
    one = imported(workspace, published)
    two = workspace / "two"
    arguments = [str(workspace / "stego.ckpt"), "--config", str(workspace / "config.yaml"), "--out", str(two)]
    assert on_ranks(2, main, ["import", *arguments], log=tmp_path / "log") == [0, 0]
    (a, meta), (b, other) = (Segmenter.load(run.model) for run in (one, RunDir(two)))
    assert {**meta, "name": "two"} == other
    for key, value in a.state_dict().items():
        torch.testing.assert_close(value, b.state_dict()[key], rtol=1e-4, atol=1e-5)
