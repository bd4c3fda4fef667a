"""Baselines: what is fitted to frozen features is right, does not depend on the ranks, and is reported by name."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stego_dist.cli import main
from stego_dist.config import dump_config
from stego_dist.data.manifest import ShardSet
from stego_dist.data.samples import ShardSamples
from stego_dist.engine.baselines import parse_baselines, run_baselines
from stego_dist.engine.frozen import FrozenFeatures
from stego_dist.engine.inputs import make_backbone, make_segmenter
from stego_dist.engine.probing import train_probes
from stego_dist.engine.reduction import draw_projection, fit_pca
from stego_dist.engine.selection import describe
from stego_dist.engine.setup import make_accelerator
from stego_dist.errors import ConfigError
from stego_dist.models.head import Head
from stego_dist.models.segmenter import Segmenter
from stego_dist.report.tables import main_rows
from stego_dist.rundir import RunDir, write_json
from tests.models.test_picie import checkpoint
from tests.ranks import on_ranks
from tests.tiny import config_at


@pytest.fixture
def frozen(prepared) -> FrozenFeatures:
    """Of the tiny run's backbone, computed."""
    config = config_at(prepared)
    samples = ShardSamples(ShardSet.open(config.data.shards), "train")
    return FrozenFeatures(config, make_accelerator(), samples, make_backbone(config), None)


def positions(frozen: FrozenFeatures) -> np.ndarray:
    """Features of all positions of all images, float64 (n, C)."""
    return frozen.features(frozen.ids).permute(0, 2, 3, 1).flatten(0, 2).double().numpy()


def test_pca_keeps_the_leading_axes_of_centred_features(frozen):
    head = Head(frozen.backbone.dim, 4, "linear")
    fit_pca(head, make_accelerator(), frozen)
    points = positions(frozen)
    centred = points - points.mean(0)
    axes = np.linalg.svd(centred, full_matrices=False)[2][:4]
    found = head.linear.weight.detach().flatten(1).double().numpy()
    np.testing.assert_allclose(found.T @ found, axes.T @ axes, atol=1e-5)
    code = head(frozen.features(frozen.ids)).permute(0, 2, 3, 1).flatten(0, 2).detach()
    np.testing.assert_allclose(code.mean(0), 0, atol=1e-4)
    variances = np.linalg.eigvalsh(np.cov(centred.T, bias=True))[::-1][:4]
    np.testing.assert_allclose(code.var(0, correction=0), variances, rtol=1e-3)  # in order, not whitened


def test_a_random_projection_roughly_keeps_angles_and_depends_on_the_seed_alone():
    heads = [Head(384, 256, "linear") for _ in range(3)]
    for head, seed in zip(heads, (0, 0, 1)):
        draw_projection(head, seed)
    assert torch.equal(heads[0].linear.weight, heads[1].linear.weight)
    assert not torch.equal(heads[0].linear.weight, heads[2].linear.weight)
    torch.manual_seed(0)
    feats = torch.randn(2, 384, 1, 50) + torch.randn(2, 384, 1, 1)
    codes = heads[0](feats)
    before, after = (F.cosine_similarity(x[0], x[1], dim=0) for x in (feats, codes))
    assert (before - after).abs().mean() < 0.06
    assert (codes.norm() / feats.norm()).item() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("points", [None, 8])
def test_probes_learn_what_the_run_would_teach_them(prepared, frozen, points):
    """The linear probe separates two textures, and the cluster probe's centres move towards the codes."""
    config = config_at(prepared, "train.steps=60", *([f"train.linear_points={points}"] if points else []))
    torch.manual_seed(0)
    dim = frozen.backbone.dim
    segmenter = Segmenter(dim=dim, code_dim=dim, projection="none", num_clusters=2, num_classes=2)
    feats, labels = frozen.features(frozen.ids), frozen.labels(frozen.ids).long()

    @torch.no_grad()
    def measured() -> tuple[float, float]:
        logits = F.interpolate(segmenter.linear(feats), labels.shape[1:], mode="bilinear", align_corners=False)
        loss = F.cross_entropy(logits, labels, ignore_index=255)
        return loss.item(), float(segmenter.cosines(feats, "learned").max(1).values.mean())

    (loss, cosine), head = measured(), {k: v.clone() for k, v in segmenter.head.state_dict().items()}
    train_probes(config, make_accelerator(), segmenter, frozen, cluster=False)
    assert measured()[0] < 0.6 * loss and measured()[1] == cosine  # the clusters were left alone
    train_probes(config, make_accelerator(), segmenter, frozen)
    assert measured()[1] > cosine + 0.05
    assert all(torch.equal(v, head[k]) for k, v in segmenter.head.state_dict().items())


def evaluated(root, out) -> None:
    """What a rank does: from the bank, reduced, and computed online."""
    config = config_at(root, "train.steps=20", "clusters.images=9")
    accelerator = make_accelerator()
    baselines = parse_baselines(["raw", "pca", "random-projection", "random"])
    results, unavailable = run_baselines(config, accelerator, make_backbone(config), baselines)
    assert not unavailable
    if accelerator.is_main_process:
        write_json(out, results)


def test_ranks_do_not_change_them(prepared, tmp_path):
    found = []
    for ranks in (1, 3):
        out = tmp_path / f"{ranks}.json"
        assert set(on_ranks(ranks, evaluated, prepared, out, log=tmp_path / "log")) == {0}
        found.append(json.loads(out.read_text()))
    one, three = found
    assert list(one) == list(three) and len(one) == 4
    assert [one[title]["training_images"] for title in one] == [14, 14, 14, 9]
    for title, entry in one.items():
        assert set(entry["measures"]) == {"kmeans", "learned", "linear"}
        for name, measure in entry["measures"].items():
            other = three[title]["measures"][name]["confusion"]
            assert np.abs(np.array(measure["confusion"]) - other).sum() <= 4, (title, name)  # of 8,000 pixels


def a_run(root) -> RunDir:
    """An untrained run, as good as any."""
    config = config_at(root, "train.steps=3")
    run, backbone = RunDir(root / "run"), make_backbone(config)
    segmenter = make_segmenter(config, backbone.dim, ShardSet.open(config.data.shards))
    segmenter.save(run.model, step=3, name="tiny", selected=describe("last", None, 3))
    run.config.write_text(dump_config(config))
    write_json(run.provenance, {"inputs": {"backbone weights": backbone.weights_digest()}})
    return run


def test_every_kind_is_evaluated_by_name(workspace, capsys):
    run = a_run(workspace)
    checkpoint(workspace / "picie.pth.tar")
    moco = {f"module.encoder_q.{k}": v for k, v in resnet50().items()}
    moco |= {f"module.encoder_k.{k}": v for k, v in resnet50().items()} | {"module.queue": torch.zeros(128, 8)}
    torch.save({"epoch": 800, "arch": "resnet50", "state_dict": moco}, workspace / "moco.pth.tar")
    names = [
        "raw", f"picie:{workspace / 'picie.pth.tar'}", f"mocov2-resnet50:{workspace / 'moco.pth.tar'}",
        "timm:resnet18@random", "dino-vits8",
    ]  # fmt: skip
    assert main(["eval", str(run.root), "--baseline", *names, "eval.crf=none"]) == 1  # one can't be had
    results, printed = json.loads(run.results.read_text()), capsys.readouterr().out
    found = results["baselines"]
    assert list(found) == ["raw features", "PiCIE", "MoCo v2 ResNet-50", "resnet18@random"]
    assert [entry["name"] for entry in found.values()] == names[:4]
    assert [entry["code_dim"] for entry in found.values()] == [24, 129, 2048, 512]
    assert [len(entry["measures"]) for entry in found.values()] == [3, 3, 3, 3]
    assert list(results["unavailable_baselines"]) == ["dino-vits8"]
    assert "no weights for vit_small_patch8_224.dino" in results["unavailable_baselines"]["dino-vits8"]
    assert "Baseline dino-vits8 could not be had: backbone.weights: no weights" in printed
    rows = {row.what: row.backbone for row in main_rows(results)}
    assert rows["raw features, cluster probe by SGD"] == "vit_tiny_patch16_224"
    assert rows["PiCIE, PiCIE's own clusters"] == "PiCIE ResNet-18"
    assert rows["MoCo v2 ResNet-50, linear probe (labels)"] == "resnet50"
    assert main(["report", str(run.root)]) == 0


def resnet50():
    """A state dict by torchvision's names, MoCo's projection for a classifier."""
    import torchvision

    torch.manual_seed(2)
    model = torchvision.models.resnet50(num_classes=128)
    return {k.replace("fc.", "fc.2."): v for k, v in model.state_dict().items()}


def test_without_a_name_it_is_k_means_over_raw_features_alone(workspace):
    run = a_run(workspace)
    assert main(["eval", str(run.root), "eval.flip=false", "--baseline"]) == 0
    baselines = json.loads(run.results.read_text())["baselines"]
    assert list(baselines) == ["raw features"] and set(baselines["raw features"]["measures"]) == {"kmeans"}


def test_unknown_names_are_refused_before_anything_runs(prepared):
    for wrong in ("dino", "raw:x", "picie", "timm:", "mocov2-resnet50"):
        with pytest.raises(ConfigError, match=rf"there is no '{wrong}'; there are raw, pca, .*picie:FILE"):
            parse_baselines(["raw", wrong])
    assert [b.name for b in parse_baselines(["raw", "raw"])] == ["raw"]


def test_a_code_wider_than_the_features_is_named(prepared):
    config = config_at(prepared, "head.code_dim=70")
    results, reasons = run_baselines(config, make_accelerator(), make_backbone(config), parse_baselines(["pca"]))
    assert results == {} and "features of width 24 can't be reduced to 70" in reasons["pca"]


def test_one_that_gives_too_few_points_does_not_end_the_others(prepared):
    config = config_at(prepared, "clusters.count=20", "train.steps=2")
    names = parse_baselines(["timm:resnet18@random", "raw"])  # one position an image
    results, reasons = run_baselines(config, make_accelerator(), make_backbone(config), names)
    assert list(results) == ["raw features"]
    assert "14 points are fewer than the 20 clusters" in reasons["timm:resnet18@random"]
