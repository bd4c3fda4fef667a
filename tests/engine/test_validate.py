"""Validation while training: the numbers of `evaluate` and of the definitions, on the same images, leaving no trace."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file

from stego_dist.engine.evaluate import evaluate
from stego_dist.engine.inputs import make_segmenter
from stego_dist.engine.opened import Opened
from stego_dist.engine.results import evaluate_run
from stego_dist.engine.selection import Selected, better, describe
from stego_dist.engine.setup import make_accelerator
from stego_dist.engine.train import train
from stego_dist.engine.validate import make_validator
from stego_dist.errors import ConfigError
from stego_dist.metrics.label_free import code_sum, label_free_score, middle, spread
from stego_dist.models.segmenter import Segmenter
from stego_dist.report.page import write_page
from stego_dist.report.panels import write_samples
from stego_dist.report.tables import selection
from stego_dist.rundir import RunDir, read_metrics
from tests.tiny import build_shards, config_at, embed_and_search


def parts(config):
    opened = Opened(config, torch.device("cpu"))
    return make_segmenter(config, opened.backbone.dim, opened.shard_set).eval(), opened


def test_all_images_give_the_numbers_of_evaluation(prepared):
    config = config_at(prepared, "train.validate_every=1", "train.panels=2")
    segmenter, opened = parts(config)
    accelerator = make_accelerator()
    validator = make_validator(config, accelerator, segmenter, opened)
    first, second = validator(), validator()  # the second from kept features
    expected = evaluate(config, accelerator, segmenter, opened.backbone, clusters=("learned",)).results["measures"]
    for found in (first, second):
        for name in ("learned", "linear"):
            for measure in ("accuracy", "miou"):
                got, wanted = found.numbers[f"val/{measure}_{name}"], expected[name][measure]
                assert got == pytest.approx(wanted, abs=2e-3)  # features are kept as float16
    assert {k: v for k, v in first.numbers.items() if k != "val/seconds"} == {
        k: v for k, v in second.numbers.items() if k != "val/seconds"
    }
    assert len(first.panels) == 2 and set(first.panels[0].predictions) == {"learned", "linear"}


@pytest.mark.parametrize("which", ["learned", "kmeans"])
def test_the_label_free_score_is_that_of_its_definition(prepared, which):
    config = config_at(prepared, "train.validate_every=1", "eval.score_images=5", "eval.features=online")
    segmenter, opened = parts(config)
    torch.manual_seed(1)
    segmenter.set_kmeans(torch.randn(2, 6 + 24), 2.0)
    numbers = make_validator(config, make_accelerator(), segmenter, opened).score(segmenter, which)
    samples, joint, sums = opened.training, np.zeros((2, 2), np.int64), 0
    width = 6 if which == "learned" else 30
    with torch.no_grad():
        for i in np.linspace(0, len(samples) - 1, 5).round().astype(int):
            image = samples.view(i, 32, "bilinear")[0][None]
            enlarged = F.interpolate(image[..., 4:28, 4:28].float(), (32, 32), mode="bilinear")
            straight, zoomed = (segmenter.encode(opened.backbone(x))[:, :width] for x in (image, enlarged))
            winners = [segmenter.cosines(code, which).argmax(1).flatten() for code in (middle(straight, 0.75), zoomed)]
            np.add.at(joint, tuple(w.numpy() for w in winners), 1)
            sums = sums + code_sum(straight)
    assert numbers["val/label_free"] == pytest.approx(label_free_score(joint), abs=0.01)
    assert numbers["val/spread"] == pytest.approx(spread(sums), rel=1e-3)
    assert numbers["val/largest_cluster"] == pytest.approx(joint.sum(1).max() / joint.sum(), abs=0.02)
    assert 0 <= numbers["val/label_free_error"] < 1


@pytest.fixture(scope="module")
def validated(prepared):
    config = config_at(
        prepared, f"run_dir={prepared / 'validated'}", "train.validate_every=2", "train.validate_images=3",
        "train.panels=2", "train.log_every=3", "train.steps=7",
    )  # fmt: skip
    assert train(config, draw=write_samples) == 0
    return config


def test_validation_is_a_line_of_its_own_and_shows_its_cost(validated):
    lines = read_metrics(RunDir(Path(validated.run_dir)).metrics)
    assert [(line["step"], "val/label_free" in line) for line in lines] == [
        (2, True), (3, False), (4, True), (6, False), (6, True), (7, False), (7, True),
    ]  # fmt: skip
    for line in lines:
        if "val/label_free" in line:
            assert 0 < line["validation_share"] < 1 and "val/miou_linear" in line


def test_pictures_are_drawn_at_every_validation(validated):
    files = sorted((Path(validated.run_dir) / "samples").iterdir())
    assert [f.name for f in files] == [f"step-{step:08d}.png" for step in (2, 4, 6, 7)]
    with Image.open(files[0]) as sheet:
        assert sheet.height > 2 * 40 and sheet.width > 4 * 40  # two images; image, label, clusters, linear probe


def test_validation_does_not_disturb_training(validated, prepared):
    config = config_at(prepared, f"run_dir={prepared / 'unvalidated'}", "train.steps=7")
    train(config)
    a, b = (load_file(Path(c.run_dir) / "model.safetensors") for c in (validated, config))
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_without_labels_there_is_the_label_free_score(tmp_path):
    build_shards(tmp_path, labels=False)
    config = config_at(tmp_path, "clusters.count=3", "train.validate_every=3")
    embed_and_search(config)
    assert train(config) == 0
    line = read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]
    assert "val/label_free" in line and not any("miou" in key or "accuracy" in key for key in line)
    with pytest.raises(ConfigError, match=r"train\.select=miou needs labels, which split val"):
        train(
            config_at(
                tmp_path,
                "clusters.count=3",
                "train.select=miou",
                "train.validate_every=3",
                f"run_dir={tmp_path / 'other'}",
            )
        )


def test_a_shard_set_without_the_split_has_the_label_free_score_alone(prepared, tmp_path, capsys):
    settings = ["train.validate_every=null", "data.eval_split=test", "train.steps=2", "train.select=label_free"]
    config = config_at(prepared, f"run_dir={tmp_path / 'run'}", *settings)
    assert train(config) == 0
    assert "label-free score alone" in capsys.readouterr().err
    lines = [line for line in read_metrics(tmp_path / "run" / "metrics.jsonl") if "val/label_free" in line]
    assert len(lines) == 2 and not any("miou" in key for line in lines for key in line)
    _, meta = Segmenter.load(tmp_path / "run" / "model.safetensors")
    assert meta["selected"]["by"] == "label_free" and 0 <= meta["label_free"]["label_free"] <= 1


# --- selection


def test_better_is_better_and_a_number():
    numbers = {"val/label_free": 0.2, "val/miou_learned": 0.5}
    assert better("last", None, 4, numbers) is None
    assert better("label_free", None, 4, numbers) == Selected(4, 0.2)
    assert better("miou", Selected(2, 0.5), 4, numbers) is None
    assert better("miou", Selected(2, 0.4), 4, numbers) == Selected(4, 0.5)
    assert better("miou", None, 4, {"val/miou_learned": float("nan")}) is None and better("miou", None, 4, {}) is None
    assert describe("miou", Selected(2, 0.4), 6) == {"by": "miou", "uses_labels": True, "step": 2, "score": 0.4}
    assert describe("label_free", None, 6) == {"by": "last", "uses_labels": False, "step": 6}


@pytest.mark.parametrize("select", ["label_free", "miou"])
def test_the_selected_weights_become_the_model_and_the_record_says_so(prepared, tmp_path, select, monkeypatch):
    scores = iter([0.1, 0.7, 0.3, 0.7, 0.2, 0.6])
    from stego_dist.engine import train as module

    validated = module.make_validator

    def scored(*arguments):
        validator = validated(*arguments)

        def validate(check):
            found = validator(check)
            found.numbers.update(dict.fromkeys(("val/label_free", "val/miou_learned"), next(scores)))
            return found

        validate.score = validator.score
        return validate

    monkeypatch.setattr(module, "make_validator", scored)
    settings = ["train.validate_every=1", "train.keep_checkpoints=1", "train.checkpoint_every=3"]
    config = config_at(prepared, f"run_dir={tmp_path / 'run'}", f"train.select={select}", *settings)
    assert train(config) == 0
    run = RunDir(tmp_path / "run")
    assert sorted(p.name for p in run.checkpoints.iterdir()) == ["step-00000002", "step-00000006"]
    model = load_file(run.model)
    best, last = (load_file(run.checkpoints / f"step-0000000{n}" / "model.safetensors") for n in (2, 6))
    assert torch.equal(model["head.linear.weight"], best["head.linear.weight"])
    assert not torch.equal(model["head.linear.weight"], last["head.linear.weight"])
    expected = {"by": select, "uses_labels": select == "miou", "step": 2, "score": 0.7}
    assert json.loads(run.status.read_text())["selected"] == expected
    results = evaluate_run(config, run).results
    assert results["selected"] == expected and results["step"] == 2
    how = {"miou": "mIoU, that is by labels", "label_free": "label-free score"}[select]
    words = f"weights of step 2, selected by {how} (0.700)"
    assert selection(results) == words and words in write_page(run).read_text()


def test_selection_needs_validation(prepared):
    with pytest.raises(ConfigError, match=r"train\.select: miou chooses by validation, which train\.validate_every=0"):
        config_at(prepared, "train.select=miou")
