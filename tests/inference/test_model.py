"""A loaded run against evaluation; nothing but the image and the settings decides the labels."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stego_dist.config import load_config
from stego_dist.data.manifest import ShardSet
from stego_dist.data.samples import ShardSamples
from stego_dist.engine.inputs import make_backbone
from stego_dist.engine.predict import predict_seen
from stego_dist.engine.seen import EvaluationFeatures
from stego_dist.errors import UserError
from stego_dist.inference.model import Model, OpenedRun
from stego_dist.inference.names import write_names
from stego_dist.rundir import RunDir, write_json
from tests.inference.made import CNN, Contextual, Pointwise, model_of, picture, write_run


@pytest.fixture(scope="module", params=["vit", "cnn"])
def run(request, tiny_run, tmp_path_factory) -> RunDir:
    if request.param == "vit":
        return tiny_run
    return write_run(tmp_path_factory.mktemp("cnn"), backbone=CNN)


def evaluated(run, readout, flip):
    """(image as the network sees it, winners) of evaluation, whole images at their own aspect ratio."""
    config = load_config(run.config, ["eval.crop=none", f"eval.flip={flip}".lower()])
    segmenter, backbone = OpenedRun.open(run.root).segmenter, make_backbone(config)
    samples = ShardSamples(ShardSet.open(config.data.shards), "val")
    features = EvaluationFeatures(config, samples, backbone, torch.device("cpu"), crop="none")
    ids = list(range(len(samples)))
    for seen in features.batches(ids, mirrored=flip, images=ids):
        winners = predict_seen(config, segmenter, seen, ["kmeans", "learned"]).argmax(readout)
        yield from ((seen.images[i], winner.numpy()) for i, winner in zip(seen.ids, winners))


@pytest.mark.parametrize("readout,flip", [("kmeans", True), ("learned", True), ("linear", True), ("kmeans", False)])
def test_equals_evaluation_of_whole_images(run, readout, flip):
    model = Model.load(run.root, readout=readout, flip=flip)
    count = 0
    for image, wanted in evaluated(run, readout, flip):
        found = model(image.permute(1, 2, 0).numpy())
        assert found.size == wanted.shape
        assert np.mean(found.clusters != wanted) < 1e-3  # ties
        count += len(np.unique(wanted)) > 1
    assert count >= 3  # of five images: they have something to tell apart


def pictures():
    sizes = [(44, 52), (40, 40), (52, 44), (44, 52), (300, 45), (41, 40), (44, 52), (1, 9)]
    return [picture(h, w, seed) for seed, (h, w) in enumerate(sizes)]


@pytest.mark.parametrize("scale", [None, 24, "native"])
def test_batches_and_order_do_not_matter(run, scale):
    model = Model.load(run.root, scale=scale, window=64)
    alone = [model(image).labels for image in pictures()]
    for batch_size in (2, 3, 16):
        together = list(model.segment(pictures(), batch_size))
        assert all(np.array_equal(a, s.labels) for a, s in zip(alone, together, strict=True))
        assert all(np.array_equal(image, s.image) for image, s in zip(pictures(), together))
    backwards = list(model.segment(pictures()[::-1]))[::-1]
    assert all(np.array_equal(a, s.labels) for a, s in zip(alone, backwards, strict=True))


def test_an_odd_size_does_not_wait_for_ever():
    model = model_of(Pointwise())
    images = [picture(32, 32), *(picture(24, 24, i) for i in range(100))]
    begun = 0

    def counted():
        nonlocal begun
        for image in images:
            begun += 1
            yield image

    first = next(model.segment(counted(), batch_size=2))
    assert first.size == (32, 32)
    assert begun <= 12


def test_large_images_do_not_wait(monkeypatch):
    monkeypatch.setattr("stego_dist.inference.batches.HELD", 40 * 40 * 3)
    model = model_of(Pointwise())
    begun = []

    def counted():
        for i in range(20):
            begun.append(i)
            yield picture(40, 40, i)

    next(model.segment(counted(), batch_size=8))
    assert len(begun) <= 3


def test_the_scale_is_what_the_network_sees(run):
    image = picture(80, 120)
    assert Model.load(run.root).seen_size((80, 120)) == (40, 60)
    assert Model.load(run.root, scale="native").seen_size((80, 120)) == (80, 120)
    stride = Model.load(run.root).stride
    for scale, rows in ((40, 40), (24, 24), ("native", 80)):
        found = Model.load(run.root, scale=scale)(image)
        assert found.scores.shape[1] == -(-rows // stride)
        assert found.labels.shape == (80, 120)


def test_flip_makes_mirror_images_agree():
    """With a backbone that knows no left and right, an image's mirror image has the mirrored labels."""
    image = picture(64, 64)
    a, b = (model_of(Contextual(), flip=True)(part).labels for part in (image, image[:, ::-1].copy()))
    assert np.array_equal(a, b[:, ::-1])


def test_images_come_in_many_forms(tiny_run, tmp_path):
    model, image = Model.load(tiny_run.root), picture(44, 52)
    Image.fromarray(image).save(tmp_path / "a.png")
    wanted = model(image).labels
    for form in (
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        (tmp_path / "a.png").read_bytes(),
        Image.fromarray(image),
    ):
        assert np.array_equal(model(form).labels, wanted)
    grey = np.array(Image.fromarray(image).convert("L"))
    assert model(Image.fromarray(grey)).labels.shape == (44, 52)


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8), b"no image", "missing.png"],
)
def test_what_is_no_image_is_refused(tiny_run, image):
    with pytest.raises(UserError):
        Model.load(tiny_run.root)(image)


def test_an_image_too_long_to_be_seen_is_refused(tiny_run):
    with pytest.raises(UserError, match="cut it into pieces"):
        Model.load(tiny_run.root, scale=4000)(np.zeros((1, 30_000, 3), np.uint8))


def test_names_come_from_the_file(own_run):
    opened = OpenedRun.open(own_run.root)
    defaults = Model.load(own_run.root).names
    assert [c.name for c in defaults.classes] == [f"cluster {i}" for i in range(5)]
    own_run.names.write_text("clusters: {0: {name: road}, 2: {name: road}}", "utf-8")
    assert [c.name for c in Model.load(own_run.root).names.classes] == ["road", "cluster 1", "cluster 3", "cluster 4"]
    assert Model.load(own_run.root, readout="learned").names.classes[0].name == "cluster 0"
    write_names(own_run.names, defaults, opened.digest("learned"))
    with pytest.raises(UserError, match="clustered again"):
        Model.load(own_run.root)


def test_matched_clusters_have_the_names_and_shares_of_classes(own_run):
    entry = {"cluster_to_class": [1, 0, -1, -1, -1], "confusion": [[3, 1], [2, 2], [0, 2]]}
    majority = {"majority_matching": {"cluster_to_class": [1, 0, 1, 1, 0]}}
    write_json(own_run.results, {"measures": {"kmeans": {**entry, **majority}}})
    opened = OpenedRun.open(own_run.root)
    known = [c.name for c in opened.classes()]
    names = opened.names("kmeans")
    assert [names.classes[i].name for i in names.of_cluster] == [known[c] for c in (1, 0, 1, 1, 0)]
    assert opened.shares("kmeans") == [0.4, 0.4, None, None, None]
    assert opened.shares("learned") is None
    write_json(own_run.results, {"cluster_shares": {"kmeans": [0.5, 0.5, 0, 0, 0]}})
    assert OpenedRun.open(own_run.root).shares("kmeans") == [0.5, 0.5, 0, 0, 0]


def test_a_linear_probe_names_classes(tiny_run, tmp_path):
    model = Model.load(tiny_run.root, readout="linear")
    assert [c.name for c in model.names.classes] == [c.name for c in OpenedRun.open(tiny_run.root).classes()]
    bare = write_run(tmp_path / "bare", classes=False)
    assert len(Model.load(bare.root, readout="linear").names.classes) == 2


class _Mischief:
    def __reduce__(self):
        return Path.touch, (Path("executed"),)


def test_a_pickle_in_the_models_place_is_refused_unread(own_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for content in (pickle.dumps(_Mischief()), b"", b"PK\x03\x04"):
        own_run.model.write_bytes(content)
        with pytest.raises(UserError, match="no safetensors file"):
            Model.load(own_run.root)
    torch.save({"a": _Mischief()}, own_run.model)
    with pytest.raises(UserError, match="no safetensors file"):
        Model.load(own_run.root)
    assert not Path("executed").exists()


def test_what_is_no_run_says_so(tmp_path, own_run):
    with pytest.raises(UserError, match="is no run"):
        Model.load(tmp_path / "none")
    own_run.model.unlink()
    with pytest.raises(UserError, match="no trained model"):
        Model.load(own_run.root)
    shutil.rmtree(own_run.root)
