"""What lies in an export's folder, and that it needs nothing else."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from stego_dist.cli import main
from stego_dist.errors import UserError
from stego_dist.export import formats
from stego_dist.export.export import Options, export
from stego_dist.export.formats import NotDynamic
from stego_dist.export.module import Portable
from stego_dist.export.parity import made_up_images
from stego_dist.inference.model import Model
from stego_dist.rundir import write_json
from tests.export.conftest import make_run, python_path
from tests.launching import environment

RESULTS = {
    "dataset": "folder", "split": "val", "images": 5, "resolution": 40, "crop": "centre", "flip": True,
    "measures": {"kmeans": {"accuracy": 0.7251, "miou": 0.4136, "iou": {"sky": 0.5, "road": None}}},
    "coefficients": {
        kind: {"weight": 0.5, "shift": None, "weight_from": "auto", "shift_from": "auto"}
        for kind in ("self", "knn", "random")
    },
    "warnings": [],
}  # fmt: skip


def picture(size):
    return made_up_images(1, size)[0].permute(1, 2, 0).numpy()


def run_example(folder, image, tmp_path):
    """The colours that example.py paints, and what it prints."""
    Image.fromarray(image).save(tmp_path / "in.png")
    command = [sys.executable, "-I", str(folder / "example.py"), str(tmp_path / "in.png"), str(tmp_path / "out.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment(), cwd=tmp_path)
    return np.array(Image.open(tmp_path / "out.png")), done.stdout


def test_the_example_gives_the_labels_of_python(vit, tmp_path):
    folder = shutil.copytree(vit.folder("onnx"), tmp_path / "copied")
    text = (folder / "example.py").read_text()
    assert len(text.splitlines()) <= 20 and "torch" not in text and "stego_dist" not in text
    at_scale = picture((40, 61))  # the shorter side is eval.resolution
    painted, printed = run_example(folder, at_scale, tmp_path)
    wanted = Model.load(vit.run.root)(at_scale)
    assert (painted == wanted.colours()).all(-1).mean() > 0.999
    assert "road | dirt" in printed and f"{wanted.shares()['sky']:6.1%}  sky" in printed
    larger = picture((101, 80))
    painted, _ = run_example(folder, larger, tmp_path)
    assert painted.shape == larger.shape
    assert (painted == Model.load(vit.run.root)(larger).colours()).all(-1).mean() > 0.9  # resized labels


def test_what_travels_with_the_file(vit):
    import onnxruntime

    about = json.loads((vit.folder("onnx") / "classes.json").read_text("utf-8"))
    assert [(c["name"], c["clusters"]) for c in about["classes"]] == [
        ("road | dirt", [0]), ("sky", [1, 2]), ("<b>tree</b>", [3]),
    ]  # fmt: skip
    assert about["classes"][1]["hex"] == "#0102ff" and about["files"] == [{"file": "model.onnx", "size": None}]
    assert about["scale"] == 40 and about["stride"] == 8 and about["readout"] == "kmeans" and about["flip"] is True
    session = onnxruntime.InferenceSession(vit.folder("onnx") / "model.onnx", providers=["CPUExecutionProvider"])
    inside = session.get_modelmeta().custom_metadata_map
    assert json.loads(inside["classes"]) == about["classes"]
    assert json.loads(inside["normalisation"]) == about["normalisation"]
    assert [one.name for one in session.get_outputs()] == ["labels", "scores"]
    assert session.get_inputs()[0].shape == ["batch", 3, "height", "width"]
    extra = {formats.ABOUT: ""}
    torch.export.load(vit.folder("torch") / "model.pt2", extra_files=extra)
    assert json.loads(extra[formats.ABOUT])["classes"] == about["classes"]


def test_no_path_of_this_machine_leaves_it(vit, tmp_path):
    for kind in ("torch", "onnx", "safetensors"):
        folder = vit.folder(kind)
        if kind == "torch":
            folder = tmp_path / "unpacked"
            shutil.unpack_archive(vit.folder(kind) / "model.pt2", folder, "zip")
        for path in folder.rglob("*"):
            data = path.read_bytes() if path.is_file() else b""
            assert str(vit.run.root).encode() not in data and b"site-packages" not in data, path


def test_one_file_is_the_whole_model(vit, tmp_path):
    kept = Model.load(vit.run.root, device="cpu")
    alone = tmp_path / "somewhere" / "renamed.safetensors"
    alone.parent.mkdir()
    shutil.copy(vit.folder("safetensors") / "model.safetensors", alone)
    image = picture((40, 61))
    for place in (alone, vit.folder("safetensors")):
        for readout in ("kmeans", "learned", "linear"):
            found = Model.load(place, device="cpu", readout=readout)(image)
            wanted = Model.load(vit.run.root, device="cpu", readout=readout)(image)
            assert torch.equal(found.scores, wanted.scores)
            assert found.names == wanted.names
    assert Model.load(alone).scale == kept.scale and Model.load(alone, overrides=["eval.resolution=64"]).scale == 64
    with safe_open(alone, framework="pt") as file:
        assert set(file.metadata()) == {"format", "config", "shape", "meta", "names", "normalisation"}
    again = export(alone, Options("safetensors"), tmp_path / "again")
    first, second = load_file(alone), load_file(again / "model.safetensors")
    assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_a_model_file_that_is_none(vit, tmp_path):
    with pytest.raises(UserError, match=r"no exported model .* found stego_dist.segmenter/1"):
        Model.load(vit.run.model)
    whole = (vit.folder("safetensors") / "model.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="damaged"):
        Model.load(tmp_path / "cut.safetensors")
    with pytest.raises(UserError, match="is no run"):
        Model.load(tmp_path)


def test_fixed_sizes(tmp_path):
    run = make_run(tmp_path / "made")
    arguments = ["export", str(run.root), "--format", "onnx", "--no-flip", "--readout", "learned"]
    assert main([*arguments, "--sizes", "40x60", "48x48", "--out", str(tmp_path / "fixed")]) == 0
    about = json.loads((tmp_path / "fixed" / "classes.json").read_text())
    assert about["files"] == [
        {"file": "model_40x60.onnx", "size": [40, 60]}, {"file": "model_48x48.onnx", "size": [48, 48]},
    ]  # fmt: skip
    assert about["flip"] is False and about["readout"] == "learned"
    assert "only of 40×60, 48×48 pixels" in (tmp_path / "fixed" / "MODEL_CARD.md").read_text("utf-8")
    image = picture((40, 60))
    painted, _ = run_example(tmp_path / "fixed", image, tmp_path)
    wanted = python_path(run, readout="learned", flip=False)(image).colours()
    assert (painted == wanted).all(-1).mean() > 0.999
    with pytest.raises(Exception, match="(?i)dimension"):
        formats.run_onnx(tmp_path / "fixed" / "model_40x60.onnx")(made_up_images(1, (40, 64)))


def test_a_network_that_fixes_the_size_is_exported_for_some_and_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(formats, "PATIENCE_S", 0.01)  # as for networks whose conditions on sizes are never solved
    run = make_run(tmp_path)
    assert main(["export", str(run.root), "--format", "torch", "--no-flip"]) == 0
    said = capsys.readouterr().err
    assert "can't be traced for images of any size (not done after 0.01 s)" in said
    assert "40x40 40x53 53x40. Others: --sizes HxW" in said
    out = run.root / "export" / "torch"
    assert sorted(path.name for path in out.glob("*.pt2")) == ["model_40x40.pt2", "model_40x53.pt2", "model_53x40.pt2"]
    assert len(json.loads((out / "parity.json").read_text())["cases"]) == 6
    model = python_path(run)
    with pytest.raises(NotDynamic):
        formats.trace(Portable(model.scorer, model.names), None)


def test_the_card(tmp_path):
    weights = tmp_path / "secret place" / "net.safetensors"
    run = make_run(tmp_path / "made", "train.precision=bf16")
    model = Model.load(run.root)
    weights.parent.mkdir()
    save_file({k: v.contiguous().clone() for k, v in model.scorer.backbone.model.state_dict().items()}, weights)
    place = f"backbone.weights={weights}"
    card = (export(run.root, Options("safetensors", overrides=(place,)), tmp_path / "a") / "MODEL_CARD.md").read_text(
        "utf-8"
    )
    assert "Nothing: the run was not evaluated" in card and "licence of the weights: unknown" in card
    assert "the weights that timm offers under this name: apache-2.0" in card and "secret place" not in card
    assert "Nobody named the clusters" in card and "the shards were not at hand" in card
    assert "trained in bf16; this file computes in float32" in card
    write_json(run.results, RESULTS)
    card = (export(run.root, Options("safetensors", scale=64, flip=False), tmp_path / "a") / "MODEL_CARD.md").read_text(
        "utf-8"
    )
    assert "| k-means over codes (this file) | 72.5 | 41.4 |" in card and "sky 50.0, road –" in card
    assert "self pairs: weight 0.5, shift not recorded (calibrated without labels)" in card
    assert "numbers are of 40 pixels, this file sees images at 64" in card and "setting of the flip average" in card
    assert "weights: random" in card


def test_names_in_the_card_do_no_harm(vit):
    card = (vit.folder("onnx") / "MODEL_CARD.md").read_text("utf-8")
    assert "| 0 | road \\| dirt |" in card and "&lt;b>tree" in card and "<b>" not in card
    assert "given by people (names.yaml)" in card and "python example.py" in card


def test_a_folder_of_something_else_is_left_alone(vit, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="is there and is no earlier export"):
        export(vit.run.root, Options("safetensors"), tmp_path)
    with pytest.raises(UserError, match="is there and is no earlier export"):
        export(vit.run.root, Options("safetensors"), vit.run.root)
    assert (tmp_path / "thesis.tex").exists() and vit.run.model.exists()


def test_other_weights_than_those_of_training_are_refused(tmp_path):
    run = make_run(tmp_path)
    write_json(run.provenance, {"inputs": {"backbone weights": "0" * 64}})
    with pytest.raises(UserError, match="other weights"):
        export(run.root, Options("torch"))
    assert not (run.root / "export").exists() or not list((run.root / "export").iterdir())


def test_packages_that_are_missing(vit, tmp_path, monkeypatch):
    found = formats.importlib.util.find_spec
    monkeypatch.setattr(formats.importlib.util, "find_spec", lambda name: None if name == "onnxscript" else found(name))
    with pytest.raises(UserError, match=r'onnxscript, not installed here. Run: pip install "stego-dist\[export\]"'):
        export(vit.run.root, Options("onnx"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_weights_beyond_a_protobuf_lie_beside_the_graph(vit, tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "LARGEST_PROTOBUF", 0)
    out = export(vit.run.root, Options("onnx", flip=False), tmp_path / "out")
    assert (out / "model.onnx.data").stat().st_size > 1000
    labels, _ = formats.run_onnx(out / "model.onnx")(made_up_images(1, (40, 40)))
    assert np.array_equal(labels[0].numpy(), python_path(vit.run, flip=False)(picture((40, 40))).labels)


def test_the_command_line(capsys):
    with pytest.raises(SystemExit):
        main(["export", "--help"])
    text = capsys.readouterr().out
    assert "stego-dist export runs/mine --format onnx --sizes 448x448" in text and "stego-dist[export]" in text
    for wrong in (["--sizes", "448"], ["--scale", "large"], ["--format", "tensorflow"]):
        with pytest.raises(SystemExit) as stopped:
            main(["export", "run", "--format", "onnx", *wrong])
        assert stopped.value.code == 2
    assert "expected HEIGHTxWIDTH in pixels" in capsys.readouterr().err


def test_what_is_asked_for_is_what_a_model_file_does(vit, tmp_path):
    export(vit.run.root, Options("safetensors", readout="learned", scale=64, flip=False), tmp_path / "out")
    model = Model.load(tmp_path / "out")
    assert (model.scorer.readout, model.scorer.flip, model.scale) == ("learned", False, 64)
    for options in (
        Options("safetensors", sizes=((40, 40),)),
        Options("safetensors", readout="linear"),
        Options("safetensors", scale="native"),
    ):
        with pytest.raises(UserError, match="leave"):
            export(vit.run.root, options, tmp_path / "refused")
    assert not (tmp_path / "refused").exists()
