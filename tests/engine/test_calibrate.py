"""Calibration: of the pairs that training draws, the same on any number of processes, kept by the run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from stego_dist.config import Config, load_config
from stego_dist.engine import calibrate as calibrating
from stego_dist.engine.calibrate import calibrate_config
from stego_dist.engine.learner import Learner
from stego_dist.engine.opened import Opened
from stego_dist.engine.results import evaluate_run
from stego_dist.engine.setup import make_accelerator
from stego_dist.engine.train import train
from stego_dist.errors import StaleInputError, UserError
from stego_dist.losses.calibration import QUANTILES, WEIGHTS
from stego_dist.losses.correspondence import centre, correlation
from stego_dist.losses.draws import draw_step
from stego_dist.losses.sampling import bilinear, pair_places
from stego_dist.report.page import write_page
from stego_dist.report.summary import facts
from stego_dist.rundir import RunDir, read_json, read_metrics, write_json
from tests.engine.faults import command
from tests.ranks import on_ranks
from tests.tiny import build_shards, config_at, embed_and_search

AUTO = ["loss.preset=null", "loss.calibration_images=12"]


def record_of(config: Config) -> dict:
    return json.loads(RunDir(Path(config.run_dir)).calibration.read_text())


def chosen(record: dict) -> dict[str, tuple[float, float]]:
    return {kind: (entry["weight"], entry["shift"]) for kind, entry in record["kinds"].items()}


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model.safetensors")


def assert_same_weights(one: Path, other: Path) -> None:
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture(scope="module")
def trained(prepared, tmp_path_factory) -> Config:
    """A run whose coefficients were calibrated."""
    config = config_at(prepared, f"run_dir={tmp_path_factory.mktemp('calibrated') / 'run'}", *AUTO)
    assert train(config) == 0
    return config


def test_correspondences_are_those_of_the_first_batches_of_training(prepared, trained):
    """Quantiles over all values of what the feed hands to the steps 0 and 1 (the first of two groups), as the loss
    centres and pairs them."""
    accelerator = make_accelerator()
    learner = Learner(trained, accelerator, RunDir(Path(trained.run_dir)), Opened(trained, accelerator.device))
    feed, values, ids = learner.batches(0), {"self": [], "knn": [], "random": []}, []
    for step, groups in ((0, range(2)), (1, range(1))):
        batch = next(feed)
        rows = len(groups) * 4
        draws = draw_step(seed=0, step=step, groups=groups, size=4, points=3, negatives=2, channels=24, dropout=0.0)
        maps = torch.cat([batch.anchors[:rows], batch.neighbours[:rows]]).float()
        places = pair_places(draws.points, draws.points_other, draws.negatives, (4, 4))
        feats = bilinear(maps.flatten(2).transpose(1, 2).flatten(0, 1), places)
        fd = correlation(feats[:, :, :1], feats)
        for kind, part in (("self", fd[:, :, :1]), ("knn", fd[:, :, 3:]), ("random", fd[:, :, 1:3])):
            values[kind].append(centre(part, (1, 3, 4)).flatten().numpy())
        ids += batch.ids[:rows].tolist()
    record = record_of(trained)
    assert record["ids"] == ids and (record["anchors"], record["images"]) == (12, len(set(ids)))
    for kind, parts in values.items():
        entry, every = record["kinds"][kind], np.concatenate(parts)
        assert entry["pairs"] == len(every) == sum(entry["counts"]) and entry["weight"] == WEIGHTS[kind]
        assert entry["shift"] == pytest.approx(np.quantile(every, QUANTILES[kind]), abs=2e-3)
        assert entry["mean"] == pytest.approx(every.mean(), abs=1e-5)
        assert entry["above_shift"] == pytest.approx((every > entry["shift"]).mean(), abs=2e-3)
        assert entry["above_shift"] == pytest.approx(1 - QUANTILES[kind], abs=2e-3)
        assert 0 < entry["same_cluster"] <= 1 and entry["above_configured"] is None


def test_a_run_keeps_what_was_asked_and_what_was_chosen(trained):
    run = RunDir(Path(trained.run_dir))
    assert load_config(run.config) == trained and trained.loss.self_pair.shift == "auto"
    coefficients = read_json(run.status, "", "")["coefficients"]
    for kind, (weight, shift) in chosen(record_of(trained)).items():
        told = {"weight": weight, "shift": shift, "weight_from": "auto", "shift_from": "auto"}
        assert coefficients[kind] == told
    assert chosen(calibrate_config(trained)) == chosen(record_of(trained))


def test_the_numbers_enter_the_loss(prepared, trained, tmp_path):
    """The same numbers given by hand train the same weights; a part of them leaves the rest to calibration."""
    numbers = chosen(record_of(trained))
    by_hand = [
        f"loss.{kind}_pair.{key}={value}"
        for kind, pair in numbers.items()
        for key, value in zip(("weight", "shift"), pair)
    ]
    config = config_at(prepared, f"run_dir={tmp_path / 'by_hand'}", *AUTO, *by_hand)
    train(config)
    assert_same_weights(Path(config.run_dir), Path(trained.run_dir))
    assert not RunDir(Path(config.run_dir)).calibration.exists()
    config = config_at(prepared, f"run_dir={tmp_path / 'partly'}", *AUTO, *by_hand[2:])
    train(config)
    assert_same_weights(Path(config.run_dir), Path(trained.run_dir))
    told = json.loads((tmp_path / "partly" / "status.json").read_text())["coefficients"]
    assert told["self"]["shift_from"] == "auto" and told["knn"]["shift_from"] == "configuration"
    assert record_of(config)["kinds"]["knn"]["above_configured"] == pytest.approx(0.5, abs=1e-3)


def test_a_resumed_run_keeps_its_coefficients(prepared, trained, tmp_path, monkeypatch, capsys):
    config = config_at(prepared, f"run_dir={tmp_path / 'run'}", *AUTO, "train.steps=3")
    train(config)
    before = RunDir(Path(config.run_dir)).calibration.read_bytes()

    def never(*arguments, **more):
        raise AssertionError("calibrated again")

    monkeypatch.setattr(calibrating, "choose_coefficients", never)
    capsys.readouterr()
    config = config_at(prepared, f"run_dir={tmp_path / 'run'}", *AUTO, "train.steps=6")
    assert train(config, resume=True) == 0
    assert "as the run began with" in capsys.readouterr().err
    assert_same_weights(Path(config.run_dir), Path(trained.run_dir))
    assert RunDir(Path(config.run_dir)).calibration.read_bytes() == before


def test_a_record_that_is_lost_or_of_something_else_is_refused(trained, prepared, tmp_path):
    root = Path(shutil.copytree(trained.run_dir, tmp_path / "run"))
    config, run = config_at(prepared, f"run_dir={root}", *AUTO, "train.steps=8"), RunDir(root)
    record = record_of(config)
    write_json(run.calibration, {**record, "fingerprint": {**record["fingerprint"], "clusters": 5}})
    with pytest.raises(StaleInputError, match="clusters: made with 5, now 2"):
        train(config, resume=True)
    run.calibration.unlink()
    with pytest.raises(UserError, match=r"the run's calibration not found: .*put the file back"):
        train(config, resume=True)
    assert train(config, overwrite=True) == 0 and chosen(record_of(config)) == chosen(record)


def test_a_run_begun_anew_is_calibrated_anew(prepared, tmp_path):
    run = f"run_dir={tmp_path / 'run'}"
    train(config_at(prepared, run, *AUTO))
    train(config_at(prepared, run, "train.steps=1"), overwrite=True)
    assert not (tmp_path / "run" / "calibration.json").exists()


@pytest.mark.ranks
def test_processes_and_workers_do_not_enter(prepared, trained, tmp_path):
    config_at(prepared, *AUTO)
    arguments = ["train", str(prepared / "config.yaml"), *AUTO, f"run_dir={tmp_path / 'run'}", "data.workers=2"]
    assert on_ranks(2, command, None, *arguments, log=tmp_path / "log") == [0, 0]
    one, two = record_of(trained), json.loads((tmp_path / "run" / "calibration.json").read_text())
    assert one == two
    logged = [read_metrics(run / "metrics.jsonl") for run in (Path(trained.run_dir), tmp_path / "run")]
    for x, y in zip(*logged, strict=True):
        for key in ("loss/total", "above_shift/self", "above_shift/random"):
            assert x[key] == pytest.approx(y[key], rel=1e-3, abs=1e-5)


def test_online_agrees_with_the_bank(prepared, trained):
    online, bank = calibrate_config(config_at(prepared, *AUTO, "train.features=online")), record_of(trained)
    assert online["ids"] == bank["ids"]
    for kind, entry in online["kinds"].items():
        assert entry["shift"] == pytest.approx(bank["kinds"][kind]["shift"], abs=3e-3)  # float16 in the bank
        assert entry["mean"] == pytest.approx(bank["kinds"][kind]["mean"], abs=2e-3)


def test_the_share_of_a_cluster_is_counted_over_the_features(prepared, monkeypatch):
    """With the centres given, every pair's clusters are counted one by one."""
    kept = {}

    def recorded(clusters, points):
        kept["clusters"], kept["points"] = clusters, points
        return dict.fromkeys(("self", "knn", "random"), 0.5)

    config = config_at(prepared, *AUTO)
    centres = np.eye(24, dtype=np.float32)[:2]
    monkeypatch.setattr(calibrating, "spherical_kmeans", lambda *_, **__: centres)
    monkeypatch.setattr(calibrating, "same_cluster_shares", recorded)
    groups = []
    drawn = calibrating.training_pairs
    monkeypatch.setattr(
        calibrating, "training_pairs", lambda *a, **k: (groups.append(g.feats) or g for g in drawn(*a, **k))
    )
    assert calibrate_config(config)["kinds"]["knn"]["same_cluster"] == 0.5
    feats = torch.cat(groups)
    assert kept["points"] == 9 and kept["clusters"].shape == (12, 4, 9)
    margin = (feats[..., 0] - feats[..., 1]).abs() > 1e-2  # float16 may decide otherwise
    assert torch.equal(kept["clusters"][margin], (feats[..., 1] > feats[..., 0]).long()[margin])
    assert calibrate_config(replace_clusters(config, 10**6))["kinds"]["knn"]["same_cluster"] is None


def replace_clusters(config: Config, count: int) -> Config:
    return config.model_copy(update={"clusters": config.clusters.model_copy(update={"count": count})})


def spoil_bank(workspace: Path, spoil) -> None:
    for file in sorted((workspace / "features").glob("*.bank.npy")):
        spoil(np.load(file, mmap_mode="r+"))


def test_features_that_say_nothing_are_refused(workspace):
    def everywhere_the_same(array) -> None:
        array[:] = np.arange(24)[None, :, None, None]

    spoil_bank(workspace, everywhere_the_same)
    with pytest.raises(UserError, match=r"the correspondences of self pairs are all 1\.000, so the features are the"):
        train(config_at(workspace, *AUTO))
    assert "all 1.000" in json.loads((workspace / "run" / "status.json").read_text())["error"]


def test_features_that_are_not_finite_name_a_sample(workspace):
    def not_a_number(array) -> None:
        array[-1, 3, 2, 2] = np.nan

    spoil_bank(workspace, not_a_number)
    with pytest.raises(UserError, match=r"the features of sample picture_\d+.* of split train are not finite"):
        train(config_at(workspace, *AUTO, "loss.calibration_images=64"))


def test_one_image_and_no_table(tmp_path):
    build_shards(tmp_path, train=1)
    with pytest.raises(UserError, match="has 1 sample; training compares images"):
        calibrate_config(config_at(tmp_path, *AUTO))
    build_shards(tmp_path / "two", train=2)
    config = config_at(tmp_path / "two", *AUTO, "loss.group_size=2", "train.batch_size=2", "knn.positives=1")
    with pytest.raises(UserError, match=r"KNN table not found: .*stego-dist knn build"):
        calibrate_config(config)
    embed_and_search(config)
    assert calibrate_config(config)["images"] == 2


def test_results_and_report_show_what_was_used(trained, prepared, tmp_path):
    root = Path(shutil.copytree(trained.run_dir, tmp_path / "run"))
    config = config_at(prepared, f"run_dir={root}", *AUTO, "eval.correspondences=4")
    results = evaluate_run(config, RunDir(root)).results
    for kind, (weight, shift) in chosen(record_of(config)).items():
        entry = results["correspondences"]["training"]["kinds"][kind]
        assert (entry["weight"], entry["shift"]) == (weight, shift)
        assert results["coefficients"][kind]["shift"] == shift and 0 <= entry["above_shift"] <= 1
    told = dict(facts(results, {}))["Shifts of the loss"]
    assert told.startswith(f"self {results['coefficients']['self']['shift']:.4g} (auto), knn ")
    assert told in write_page(RunDir(root)).read_text()

    RunDir(root).calibration.unlink()  # as in a run that was imported
    results = evaluate_run(config, RunDir(root)).results
    entry = results["correspondences"]["training"]["kinds"]["self"]
    assert entry["shift"] is entry["weight"] is entry["above_shift"] is None
    schema = json.loads((Path(calibrating.__file__).parents[1] / "report" / "results.schema.json").read_text())
    jsonschema.validate(results, schema)
    assert "the shift is not known" in write_page(RunDir(root)).read_text()
    assert "self unknown (auto)" in dict(facts(results, {}))["Shifts of the loss"]
