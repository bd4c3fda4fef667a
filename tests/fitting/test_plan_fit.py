"""What a fit chooses from the folder, the machine and what was asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stego_dist.errors import ConfigError, UserError
from stego_dist.fitting import plan as plan_module
from stego_dist.fitting.folder import Folder
from stego_dist.fitting.plan import Request, fit_config, plan_fit
from stego_dist.jobs.plan import Figures, facts_of

FIGURES = Figures(
    pack=100, sample_bytes=5e4, embed=10, train=4, knn_flops=1e9, knn_matmul_flops=1e9, knn_scan_flops=1e9,
    knn_query_seconds=0, disk_read=1e9, disk_write=1e9, disk_free=1e11, memory=1e10,
)  # fmt: skip
OUT = Path("out")


def folder(count: int, shorter: int = 600) -> Folder:
    return Folder(Path("photos"), tuple(f"{i:06d}" for i in range(count)), 10**6 * count, shorter, 800)


def planned(count: int, figures: Figures = FIGURES, shorter: int = 600, **asked):
    """The choice, and its configuration."""

    def measure(config, crops):
        facts = facts_of(config, dim=384, stride=16, parameters=10**7, crops=1 if crops == "none" else 5, classes=0)
        return facts, figures

    request = Request(backbone="vit_small_patch16_224", weights="random", **asked)
    choice = plan_fit(folder(count, shorter), request, OUT, measure)
    return choice, fit_config(folder(count, shorter), request, choice, OUT)


def test_whole_images_where_there_are_enough():
    choice, config = planned(200)
    assert (choice.images, choice.samples, choice.crops, choice.resolution, choice.steps) == (
        200,
        200,
        "none",
        448,
        1000,
    )
    assert choice.features == "bank" and choice.seconds == pytest.approx(sum(choice.stages.values()))
    assert (config.knn.k, config.knn.positives, config.data.resolution, config.eval.resolution) == (30, 7, 448, 448)
    assert config.run_dir == "out" and config.clusters.count == plan_module.CLUSTERS


@pytest.mark.parametrize(("count", "samples", "k", "positives"), [(1, 5, 5, 4), (2, 10, 10, 7), (7, 35, 30, 7)])
def test_few_images_are_cut_into_crops_and_have_fewer_neighbours(count, samples, k, positives):
    choice, config = planned(count)
    assert (choice.crops, choice.samples, choice.resolution) == ("five", samples, 224)
    assert (config.knn.k, config.knn.positives) == (k, positives)
    assert choice.shown == count


def test_one_image_whole_is_refused_with_the_reason():
    with pytest.raises(UserError, match="one image to learn from"):
        planned(1, crops="none")


def test_small_images_are_not_blown_up():
    assert planned(200, shorter=200)[0].resolution == 224


def test_a_time_limit_takes_steps_and_images_away():
    free = planned(5000)[0]
    less = planned(5000, seconds=free.seconds / 2)[0]
    little = planned(5000, seconds=240)[0]
    assert free.images == 5000 and free.steps == 1000
    assert less.seconds <= free.seconds / 2 and 500 <= less.steps < 1000 and 16 <= less.images < 5000
    assert little.steps < 1000 and little.seconds <= 240 and little.images < less.images
    least = planned(5000, seconds=1)[0]
    assert (least.images, least.steps) == (16, 100) and least.seconds > 1  # said, not hidden


def test_small_sets_need_no_workers_beside_this_process():
    few, many = planned(60), planned(5000)
    assert few[0].alone and few[1].features.workers == 1
    assert not many[0].alone and many[1].features.workers is None
    assert planned(60, overrides=("features.workers=2",))[1].features.workers == 2
    name = "starts, clusters, report"
    assert many[0].stages[name] - few[0].stages[name] == plan_module.WORKERS_SECONDS


def test_a_preview_is_small():
    choice, _ = planned(5000, preview=True)
    assert (choice.images, choice.steps, choice.shown, choice.resolution) == (64, 150, 16, 224)


def test_features_are_kept_only_where_the_disk_holds_them():
    assert planned(5000, replace(FIGURES, disk_free=5e9))[0].features == "online"
    with pytest.raises(UserError, match=r"needs about .* GB, and .* GB are free.*--images"):
        planned(5000, replace(FIGURES, disk_free=1e9))


def test_what_was_asked_for_is_taken():
    choice, config = planned(
        300, classes=9, images=40, steps=77, resolution=320, seed=3, overrides=("head.code_dim=90", "knn.k=12")
    )
    assert (choice.images, choice.steps, choice.resolution) == (40, 77, 320)
    assert (config.clusters.count, config.seed, config.head.code_dim, config.knn.k) == (9, 3, 90, 12)
    with pytest.raises(ConfigError, match="--images must be at least 1"):
        planned(300, images=0)
    with pytest.raises(ConfigError, match="head.code_dmi"):
        planned(300, overrides=("head.code_dmi=90",))


def test_a_folder_is_looked_at(tmp_path):
    for n, size in enumerate(((40, 30), (60, 50), (80, 70))):
        path = tmp_path / "a" / f"{n}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.zeros((size[1], size[0], 3), np.uint8)).save(path)
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    (tmp_path / "notes.txt").write_text("no image either")
    found = Folder.look(tmp_path)
    assert found.keys == ("a/0", "a/1", "a/2", "broken") and (found.shorter, found.longer) == (50, 60)
    with pytest.raises(UserError, match="no folder"):
        Folder.look(tmp_path / "gone")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no images"):
        Folder.look(tmp_path / "empty")
    (tmp_path / "empty" / "x.jpg").write_bytes(b"no image")
    with pytest.raises(UserError, match="none of 1 images"):
        Folder.look(tmp_path / "empty")
