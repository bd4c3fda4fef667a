"""What the features job keeps for evaluation: right numbers, whole or not at all, and of any images and views."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stego_dist.data.manifest import ShardSet
from stego_dist.data.samples import ShardSamples
from stego_dist.engine.inputs import evaluated_views, make_backbone, views_dir, views_fingerprint
from stego_dist.errors import StaleInputError, UserError
from stego_dist.features.views import ZOOM, Views, ViewStore
from stego_dist.jobs.embed import embed
from stego_dist.jobs.views import view_job
from tests.jobs.test_embed_job import contents, here, no_work, set_runner, state
from tests.tiny import build_shards, config_at

VAL = 7


@pytest.fixture(autouse=True)
def workers(monkeypatch):
    set_runner(monkeypatch, here)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("made")
    build_shards(root, train=12, val=VAL)
    with pytest.MonkeyPatch.context() as monkeypatch:
        set_runner(monkeypatch, here)
        embed(config_at(root), bank=True)
    return root


@pytest.fixture
def work(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "work"))


def open_kept(config, views: Views | None = None) -> ViewStore:
    views = views or evaluated_views(config)[0]
    fingerprint = views_fingerprint(config, views, ShardSet.open(config.data.shards), make_backbone(config))
    return ViewStore(views_dir(config, views), fingerprint)


def assert_close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    assert found.dtype == torch.float16
    torch.testing.assert_close(found.float(), wanted, rtol=2e-3, atol=1e-3)


def test_the_store_holds_images_and_mirror_images_as_evaluation_sees_them(made):
    config = config_at(made)
    store, backbone = open_kept(config), make_backbone(config)
    samples = ShardSamples(ShardSet.open(config.data.shards), "val")
    assert store.ids.tolist() == list(range(VAL)) and store.shards == [s.name for s in samples.split.shards]
    ids = np.array([3, 0, 6])
    images, labels = map(torch.stack, zip(*(samples.view(i, 40, "bilinear") for i in ids.tolist())))
    assert_close(store.features(ids, ("straight",)), backbone(images))
    assert_close(
        store.features(ids, ("straight", "mirrored")), torch.cat([backbone(images), backbone(images.flip(-1))])
    )
    assert torch.equal(store.labels(ids), labels)


def test_a_sample_of_training_images_is_kept_in_the_same_way(made, tmp_path):
    config = config_at(made, f"features.dir={tmp_path / 'features'}")
    views = Views("train", 32, ("straight", "mirrored", "zoomed"), images=5)
    shard_set, backbone = ShardSet.open(config.data.shards), make_backbone(config)
    job = view_job(config, views, shard_set, backbone, overwrite=False)
    samples = ShardSamples(shard_set, "train")
    assert job.root.name == "train-32-5" and sum(job.forwards(shard) for shard in job.todo) == 3 * 5
    for shard in job.todo:
        job.write(config, samples, backbone, shard)
    job.finish()
    store = open_kept(config, views)
    assert store.ids.tolist() == views.ids(12).tolist() == [0, 3, 6, 8, 11]
    ids = np.array([8, 3])
    images = torch.stack([samples.image_view(i, 32, "bilinear") for i in ids.tolist()])
    first = (32 - round(32 * ZOOM)) // 2
    middle = images[..., first : 32 - first, first : 32 - first].float()
    zoomed = F.interpolate(middle, (32, 32), mode="bilinear")
    assert_close(store.features(ids, ("zoomed", "mirrored")), torch.cat([backbone(zoomed), backbone(images.flip(-1))]))
    with pytest.raises(KeyError, match="does not hold image 4"):
        store.labels(np.array([3, 4]))
    assert not view_job(config, views, shard_set, backbone, overwrite=False).todo


def test_what_is_done_is_not_done_again(work, monkeypatch):
    folder = work / "features" / "views" / "val-40"
    before = state(folder)
    (folder / "parts" / "val-00000.json").unlink()  # as after a kill
    (folder / "manifest.json").unlink()
    (folder / ".val-00000.straight.npy.0123abcd.tmp").write_bytes(b"half")
    embed(config_at(work), bank=True)
    assert contents(folder) == {name: sha for name, (sha, _, _) in before.items()}
    set_runner(monkeypatch, no_work)
    embed(config_at(work), bank=True)
    shutil.rmtree(folder)
    embed(config_at(work, "eval.features=online"), bank=True)
    embed(config_at(work), bank=False)
    assert not folder.exists()


def make_stale(folder: Path) -> None:
    """As if images had been resized in another way."""
    for path in (folder / "manifest.json", *(folder / "parts").iterdir()):
        path.write_text(path.read_text().replace('"data.image_resize": "bilinear"', '"data.image_resize": "nearest"'))


def test_stale_views_are_refused_by_name_and_replaced_when_asked(work):
    config, before = config_at(work), contents(work / "features")
    make_stale(work / "features" / "views" / "val-40")
    with pytest.raises(
        StaleInputError, match=r"(?s)shard val-00000.*  data\.image_resize: made with 'nearest', now 'bil.*--overwrite"
    ):
        embed(config, bank=True)
    embed(config, bank=True, overwrite=True)
    assert contents(work / "features") == before


def test_other_resolutions_lie_beside_each_other(work, monkeypatch):
    embed(config_at(work, "eval.more_resolutions=[24]"), bank=True)
    assert sorted(path.name for path in (work / "features" / "views").iterdir()) == ["train-32-48", "val-24", "val-40"]
    set_runner(monkeypatch, no_work)
    embed(config_at(work, "eval.resolution=24"), bank=True)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("data.eval_split=test", "has no images of split test: no features are kept"),
        ("eval.crop=none", r"whole images \(eval.crop=none\) have sizes of their own"),
        ("eval.resolution=41", "41 is not a multiple of the patch size"),
    ],
)
def test_what_cannot_be_kept_is_said_and_left_out(work, capfd, override, said):
    shutil.rmtree(work / "features" / "views")
    embed(config_at(work, override), bank=True)
    assert re.search(said, capfd.readouterr().err)
    assert [path.name for path in (work / "features" / "views").iterdir()] == ["train-32-48"]


def test_features_that_are_not_finite_name_the_image(made, tmp_path, monkeypatch):
    config = config_at(made, f"features.dir={tmp_path / 'features'}")
    shard_set = ShardSet.open(config.data.shards)
    (views,) = evaluated_views(config)
    job = view_job(config, views, shard_set, make_backbone(config), overwrite=False)
    samples = ShardSamples(shard_set, "val")
    with pytest.raises(UserError, match=rf"sample {samples.key(0)}\.jpg: the backbone's features are not finite"):
        job.write(config, samples, lambda images: torch.full((len(images), 24, 5, 5), 1e6), job.todo[0])
    assert not list(job.root.rglob("*.npy"))
