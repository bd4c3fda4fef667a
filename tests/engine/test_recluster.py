"""Other clusters for a trained head: given, or chosen from its codes."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from stego_dist.cli import main
from stego_dist.engine.cluster_count import MARGIN, Tried, by_margin, choose_count
from stego_dist.engine.train import train
from stego_dist.errors import ConfigError
from stego_dist.inference.model import OpenedRun
from stego_dist.inference.names import write_names
from stego_dist.models.segmenter import Segmenter
from stego_dist.rundir import RunDir
from tests.tiny import config_at


class Unscored:
    """Stands in for the label-free score, which has tests of its own."""

    class accelerator:
        device = torch.device("cpu")

    def of_centres(self, segmenter, centres):
        return {"val/label_free": 0.0, "val/label_free_error": 0.0, "val/agreement": 0.0}


@pytest.mark.parametrize("modes", [3, 6, 11])
def test_the_number_of_modes_is_found(modes, tmp_path):
    rng = np.random.default_rng(modes)
    centres = rng.normal(size=(modes, 24))
    codes = (centres[rng.integers(modes, size=6000)] + 0.45 * rng.normal(size=(6000, 24))).astype(np.float32)
    segmenter = Segmenter(dim=4, code_dim=24, projection="linear", num_clusters=2, num_classes=None)
    found = choose_count(config_at(tmp_path), segmenter, codes, Unscored())
    assert modes <= found.chosen <= 1.5 * modes  # each cluster too many cuts one mode, and costs an M-th of the margin
    assert [each.count for each in found.tried] == sorted(each.count for each in found.tried)


def test_the_rule_takes_the_largest_that_stands_apart():
    def tried(*margins):
        return [Tried(n + 2, margin, 0, 0, 0) for n, margin in enumerate(margins)]

    assert by_margin(tried(0.5, 0.6, MARGIN * 0.6, 0.1)) == 4
    assert by_margin(tried(0.5, 0.1, 0.1)) == 2


@pytest.fixture
def trained(workspace) -> RunDir:
    config = config_at(workspace)
    train(config)
    return RunDir(workspace / "run")


def test_a_run_takes_another_number(trained, capsys):
    before, meta = Segmenter.load(trained.model)
    opened = OpenedRun.open(trained.root)
    write_names(trained.names, opened.names("kmeans"), opened.digest("kmeans"))
    assert main(["cluster", str(trained.root), "--count", "5", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    after, now = Segmenter.load(trained.model)
    assert said["clusters"] == 5 == after.num_clusters == after.cluster.centres.shape[0]
    for name, tensor in before.head.state_dict().items():
        assert torch.equal(tensor, after.head.state_dict()[name])
    assert torch.equal(before.linear.conv.weight, after.linear.conv.weight)
    assert now["label_free"] == said["label_free"] and now["step"] == meta["step"] and now["count"] is None
    assert not trained.names.exists() and (trained.root / "names-before.yaml").exists()
    assert main(["eval", str(trained.root), "--baseline", "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert len(results["measures"]["kmeans"]["cluster_to_class"]) == 5
    assert len(results["baselines"]["raw features"]["measures"]["kmeans"]["cluster_to_class"]) == 5


def test_a_run_chooses_a_number_which_the_report_shows(trained, capsys):
    assert main(["cluster", str(trained.root)]) == 0
    found = Segmenter.load(trained.model)[1]["count"]
    assert found["chosen"] in {each["count"] for each in found["tried"]}
    assert "numbers of clusters" in capsys.readouterr().out
    assert main(["eval", str(trained.root)]) == 0
    assert "How many clusters?" in (trained.root / "report.html").read_text("utf-8")


@pytest.mark.parametrize("count", ["0", "1", "-3", "many"])
def test_what_is_no_number(count, trained):
    with pytest.raises(ConfigError, match="number of clusters"):
        from stego_dist.cli.cluster import parse_count

        parse_count(count)
