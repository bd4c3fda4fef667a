"""Exported files, run by their own runtimes, against the Python path; and what happens when they differ."""

from __future__ import annotations

import json
from itertools import product

import numpy as np
import pytest
import torch

from stego_dist.cli import main
from stego_dist.errors import UserError
from stego_dist.export import export as exporting
from stego_dist.export import formats
from stego_dist.export.export import Options, export
from stego_dist.export.module import Portable
from stego_dist.export.parity import Case, check, compare, made_up_images, python_scores
from stego_dist.inference.names import Names
from tests.export.conftest import NAMES, give_names, make_run, python_path

SIZES = [(32, 32), (57, 83), (96, 41)]
"""The ViT's trained grid; no whole strides; longer and upright. None is a size that exporting compares."""
RUNTIMES = {"torch": ("model.pt2", formats.run_torch), "onnx": ("model.onnx", formats.run_onnx)}


def run_of(exports, kind):
    file, run = RUNTIMES[kind]
    return run(exports.folder(kind) / file)


@pytest.mark.parametrize(("network", "kind"), product(("vit", "cnn"), ("torch", "onnx")))
def test_three_sizes_and_two_batches(network, kind, request):
    exports = request.getfixturevalue(network)
    model, run = python_path(exports.run), run_of(exports, kind)
    for size, batch in product(SIZES, (1, 3)):
        images = made_up_images(3, size)[:batch]
        labels, scores = run(images)
        wanted = list(model.segment([image.permute(1, 2, 0).numpy() for image in images]))
        torch.testing.assert_close(scores, torch.stack([python_scores(one) for one in wanted]), rtol=0, atol=1e-4)
        assert labels.shape == (batch, *size) and labels.dtype == torch.int32
        assert np.mean([own.numpy() != one.labels for own, one in zip(labels, wanted)]) < 1e-3
        assert len(labels.unique()) > 1


def test_names_are_obeyed(vit):
    model = python_path(vit.run)
    assert [c.name for c in model.names.classes] == ["road | dirt", "sky", "<b>tree</b>"]
    image = made_up_images(1, (64, 64))
    labels, scores = run_of(vit, "onnx")(image)
    assert scores.shape[1] == len(NAMES) and int(labels.max()) <= 2
    by_cluster = model(image[0].permute(1, 2, 0).numpy()).clusters
    assert np.array_equal(labels[0].numpy() == 1, (by_cluster == 1) | (by_cluster == 2))


@pytest.mark.parametrize("readout", ["kmeans", "learned", "linear"])
@pytest.mark.parametrize(("pos_interp", "feature"), [("dino", "feat"), ("timm", "keys")])
def test_every_readout_before_it_is_traced(readout, pos_interp, feature, tmp_path):
    overrides = (f"backbone.pos_interp={pos_interp}", f"backbone.feature={feature}")
    run = make_run(tmp_path, *overrides, feature_weight=0.7)
    for flip in (True, False):
        model = python_path(run, readout=readout, flip=flip)
        cases = compare(model, Portable(model.scorer, model.names), [(40, 40), (33, 50)])
        check(cases, 1e-5)
        assert model.scorer.flip == flip


def test_the_check_sees_wrong_labels_wrong_scores_and_no_numbers(tmp_path):
    model = python_path(make_run(tmp_path))
    right = Portable(model.scorer, model.names)
    swapped = Portable(model.scorer, Names(model.names.classes, tuple(reversed(model.names.of_cluster))))
    (case,) = compare(model, swapped, [(40, 40)], [2])
    assert case.scores < 1e-5 and case.labels > 0.01 and case.differing > 0.1
    with pytest.raises(UserError, match="differs from the Python path"):
        check([case], 1e-4)
    with pytest.raises(UserError, match="in 1 of 2 cases"):
        check([Case((8, 8), 1, 0.0, 0.0, 0.0), Case((8, 8), 1, float("nan"), 0.0, 0.0)], 1e-4)
    with pytest.raises(UserError, match=r"gives scores \(2, 4, 5, 4\)"):
        compare(model, lambda images: (right(images)[0], right(images)[1][..., :-1]), [(40, 40)], [2])


def test_what_differs_is_refused_and_nothing_left(vit, tmp_path, monkeypatch, capsys):
    class Broken(Portable):
        def __init__(self, scorer, names):
            super().__init__(scorer, names)
            self.scorer.segmenter.kmeans += 0.01

    before = {path: path.read_bytes() for path in vit.folder("torch").iterdir()}
    monkeypatch.setattr(exporting, "Portable", Broken)
    monkeypatch.chdir(tmp_path)
    for out in ([], ["--out", "elsewhere"]):
        assert main(["export", str(vit.run.root), "--format", "torch", *out]) == 1
    assert "differs from the Python path by 0.0" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in vit.folder("torch").iterdir()} == before
    assert list(tmp_path.iterdir()) == []
    assert sorted(path.name for path in vit.folder("torch").parent.iterdir()) == ["onnx", "safetensors", "torch"]


def test_a_tolerance_of_zero_accepts_equal_bits_alone(vit, tmp_path):
    equal = export(vit.run.root, Options("safetensors", tolerance=0.0), tmp_path / "equal")
    assert json.loads((equal / "parity.json").read_text())["cases"][0]["scores"] == 0
    with pytest.raises(UserError, match="--tolerance 0"):
        export(vit.run.root, Options("torch", tolerance=0.0), tmp_path / "traced")
    assert [path.name for path in tmp_path.iterdir()] == ["equal"]


def test_the_table_and_the_record_agree(vit, tmp_path, capsys):
    assert main(["export", str(vit.run.root), "--format", "safetensors", "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr()
    assert "safetensors against Python" in printed.out and "40×54" in printed.out
    assert str(tmp_path / "out" / "MODEL_CARD.md") in printed.err
    for kind in ("torch", "onnx"):
        found = json.loads((vit.folder(kind) / "parity.json").read_text())
        assert found["tolerance"] == 1e-4 and len(found["cases"]) == 6
        assert len({tuple(case["size"]) for case in found["cases"]}) == 3
        assert all(case["scores"] <= 1e-4 for case in found["cases"]) and any(case["scores"] for case in found["cases"])


def test_an_unlabelled_run_has_no_linear_readout(tmp_path):
    run = make_run(tmp_path, labelled=False)
    give_names(run)
    with pytest.raises(UserError, match="no linear readout: it was trained without labels; take kmeans or learned"):
        export(run.root, Options("torch", readout="linear"))
