"""Evaluation from what was kept: the same results without backbone and images, and only where it fits."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from stego_dist.data.samples import ShardSamples
from stego_dist.engine.baselines import parse_baselines, run_baselines
from stego_dist.engine.evaluate import evaluate
from stego_dist.engine.inputs import evaluated_views, make_segmenter
from stego_dist.engine.mirror import mirror_counts
from stego_dist.engine.opened import Opened, keep_opened
from stego_dist.engine.seen import EvaluationFeatures
from stego_dist.engine.setup import make_accelerator
from stego_dist.engine.validate import make_validator
from stego_dist.errors import ConfigError, StaleInputError, UserError
from stego_dist.models.backbone import Backbone
from tests.jobs.test_views_job import make_stale
from tests.tiny import config_at, keep_views

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def kept(prepared, tmp_path_factory) -> Path:
    """Shards, bank, table, and the views at two resolutions."""
    root = Path(shutil.copytree(prepared, tmp_path_factory.mktemp("kept") / "kept"))
    keep_views(config_at(root, "eval.more_resolutions=[24]"))
    return root


def model(config):
    """What evaluation takes, the centres of k-means drawn."""
    opened = Opened(config, CPU)
    segmenter = make_segmenter(config, opened.backbone.dim, opened.shard_set).eval()
    segmenter.kmeans.normal_(generator=torch.Generator().manual_seed(1))
    return segmenter, opened


def evaluated(config):
    segmenter, opened = model(config)
    return evaluate(config, make_accelerator(), segmenter, opened.backbone)


@pytest.fixture
def nothing_runs(monkeypatch):
    """The backbone, and what reads images, fail."""
    monkeypatch.setattr(Backbone, "forward", lambda *_: pytest.fail("the backbone ran"))
    monkeypatch.setattr(ShardSamples, "_read", lambda *_: pytest.fail("a sample was read"))


@pytest.mark.parametrize("overrides", [[], ["eval.flip=false"], ["eval.more_resolutions=[24]", "eval.batch_size=2"]])
def test_results_are_those_of_the_backbone(kept, overrides):
    online, bank = (
        evaluated(config_at(kept, "eval.panels=5", f"eval.features={features}", *overrides))
        for features in ("online", "bank")
    )
    same = total = 0
    for a, b in zip(online.panels, bank.panels):
        assert a.name == b.name and (a.image == b.image).all() and (a.label == b.label).all()
        for name, prediction in a.predictions.items():
            same, total = same + (prediction == b.predictions[name]).sum(), total + prediction.size
    assert len(bank.panels) == 5 and same / total >= 0.999
    results = [e.results | e.results.get("more_resolutions", {}).get("24", {}) for e in (online, bank)]
    for name, entry in results[0]["measures"].items():
        assert results[1]["measures"][name]["accuracy"] == pytest.approx(entry["accuracy"], abs=2e-3)
        assert np.sum(results[1]["measures"][name]["confusion"]) == np.sum(entry["confusion"])


def test_neither_backbone_nor_images_are_needed(kept, nothing_runs):
    config = config_at(kept, "eval.panels=0", "train.panels=0", "train.validate_every=1", "eval.more_resolutions=[24]")
    evaluated(config)
    segmenter, opened = model(config)
    make_validator(config, make_accelerator(), segmenter, opened)()
    source = EvaluationFeatures(config, opened.evaluated, opened.backbone, CPU, opened=opened)
    joint = mirror_counts(make_accelerator(), source, segmenter, ("kmeans",))["kmeans"]
    assert joint.sum() == 5 * (40 // opened.backbone.stride) ** 2


def test_validation_gives_the_same_numbers(kept):
    found = []
    for features in ("online", "bank"):
        config = config_at(kept, "train.validate_every=1", f"eval.features={features}")
        segmenter, opened = model(config)
        found.append(make_validator(config, make_accelerator(), segmenter, opened)().numbers)
    for name, value in found[0].items():
        if name != "val/seconds":
            assert found[1][name] == pytest.approx(value, abs=5e-3), name


def test_baselines_of_the_same_backbone_read_it_too_and_others_do_not(kept, monkeypatch):
    config = config_at(kept, "eval.features=bank", "train.steps=2")
    opened = Opened(config, CPU)
    ran = []
    forward = Backbone.forward
    monkeypatch.setattr(Backbone, "forward", lambda self, x: ran.append(self) or forward(self, x))
    run_baselines(config, make_accelerator(), opened.backbone, parse_baselines(["raw", "pca"]), probes=False)
    assert not ran
    found, _ = run_baselines(config, make_accelerator(), opened.backbone, parse_baselines(["random"]), probes=False)
    assert ran and set(found) == {"random network"}


def test_online_does_not_look_at_it(kept, monkeypatch):
    monkeypatch.setattr("stego_dist.engine.inputs.ViewStore", None)
    evaluated(config_at(kept, "eval.features=online"))


def test_another_backbones_features_are_not_taken(kept, capfd):
    changed = "backbone.options.num_heads=4"
    expected = evaluated(config_at(kept, changed, "eval.features=online")).results["measures"]
    capfd.readouterr()
    assert evaluated(config_at(kept, changed)).results["measures"] == expected
    said = capfd.readouterr().err
    assert "the view store" in said and "backbone.options: made with" in said and "the backbone computes them" in said
    with pytest.raises(StaleInputError, match=r"(?s)backbone\.options: made with .*features CONFIG --overwrite"):
        evaluated(config_at(kept, changed, "eval.features=bank"))


def test_what_was_not_kept_is_computed_or_asked_for(kept, capfd):
    evaluated(config_at(kept, "eval.resolution=48"))
    assert "from the bank" not in capfd.readouterr().err
    with pytest.raises(UserError, match=r"the view store not found: .*val-48.*stego-dist features CONFIG"):
        evaluated(config_at(kept, "eval.resolution=48", "eval.features=bank"))
    evaluated(config_at(kept, "eval.crop=none"))
    with pytest.raises(ConfigError, match=r"eval\.features: whole images"):
        config_at(kept, "eval.crop=none", "eval.features=bank")


def test_what_is_open_is_shared_until_something_changes(kept, tmp_path):
    root = Path(shutil.copytree(kept, tmp_path / "kept"))
    first = keep_opened(config_at(root), CPU)
    (views,) = evaluated_views(config_at(root))
    store = first.views(views)
    assert store is not None
    same = config_at(root, "loss.self_pair.shift=0.3", "seed=3", "train.lr_head=0.1", "run_dir=elsewhere")
    assert keep_opened(same, CPU) is first
    make_stale(root / "features" / "views" / "val-40")
    second = keep_opened(config_at(root), CPU)
    assert second is not first and second.views(views) is None
    assert keep_opened(config_at(root, "data.resolution=40"), CPU) is not second
