"""`stego-dist predict` and `stego-dist names` as a user types them."""

from __future__ import annotations

import io
import json
import pickle

import numpy as np
import pytest
from PIL import Image

from stego_dist.cli import build_parser, main
from tests.inference.made import picture, write_run


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A run and three photos, in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    write_run(tmp_path)
    (tmp_path / "photos").mkdir()
    for i in range(3):
        Image.fromarray(picture(44, 52, i)).save(tmp_path / f"photos/p{i}.png")
    return tmp_path


def test_a_folder(work, capsys):
    assert main(["predict", "run", "photos", "--out", "out"]) == 0
    shown = capsys.readouterr()
    assert "3 images" in shown.out and "cluster 0" in shown.out
    assert "images/s" in shown.err
    assert sorted(path.name for path in (work / "out/index").iterdir()) == ["p0.png", "p1.png", "p2.png"]
    assert main(["predict", "run", "photos", "--out", "out"]) == 0
    assert "3 are there already" in capsys.readouterr().err


def test_options_and_overrides_stand_anywhere(work, capsys):
    words = ["predict", "run", "--out", "out", "photos/p0.png", "--scale", "native", "data.image_resize=nearest",
             "photos/p1.png", "--no-flip", "--readout", "linear", "--window", "64", "--json"]  # fmt: skip
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["images"], found["done_before"], found["failures"]) == (2, 0, [])
    assert sum(c["share"] for c in found["classes"]) == pytest.approx(1)
    settings = json.loads((work / "out/predictions.json").read_text("utf-8"))["settings"]
    wanted = {"scale": "native", "resize": "nearest", "flip": False, "readout": "linear", "window": 64}
    assert {key: settings[key] for key in wanted} == wanted


def test_failures_are_listed_and_are_the_exit_code(work, capsys):
    (work / "photos/x.png").write_bytes(b"no image")
    assert main(["predict", "run", "photos", "none.jpg", "--out", "out", "--json"]) == 1
    shown = capsys.readouterr()
    assert len(json.loads(shown.out)["failures"]) == 2
    assert "2 could not be segmented" in shown.err and "x.png" in shown.err and "none.jpg" in shown.err


def test_a_list_on_stdin(work, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("photos/p0.png\nphotos/p2.png\n"))
    assert main(["predict", "run", "-", "--out", "out"]) == 0
    assert sorted(path.name for path in (work / "out/index").iterdir()) == ["p0.png", "p2.png"]


@pytest.mark.parametrize(
    "words,message",
    [
        (["run", "--out", "out"], "no images"),
        (["none", "photos", "--out", "out"], "is no run"),
        (["run", "photos", "--out", "run"], "the run itself"),
    ],
)
def test_mistakes(work, capsys, words, message):
    assert main(["predict", *words]) in (1, 2)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [["--scale", "0"], ["--scale", "big"], ["--opacity", "2"], ["--workers", "0"], ["--x"]]
)
def test_bad_usage(work, words):
    with pytest.raises(SystemExit) as caught:
        main(["predict", "run", "photos", "--out", "out", *words])
    assert caught.value.code == 2


def test_a_pickle_in_the_models_place_is_refused(work, capsys):
    (work / "run/model.safetensors").write_bytes(pickle.dumps({"head": 1}))
    assert main(["predict", "run", "photos", "--out", "out"]) == 1
    assert "no safetensors file" in capsys.readouterr().err
    assert not (work / "out").exists()


def test_help_has_examples(capsys):
    for verb in ("predict", "names"):
        with pytest.raises(SystemExit):
            build_parser().parse_args([verb, "--help"])
        shown = capsys.readouterr().out
        assert "examples:" in shown and f"stego-dist {verb} runs/mine" in shown


def test_names_are_shown_written_and_set(work, capsys):
    assert main(["names", "run"]) == 0
    shown = capsys.readouterr().out
    assert "kmeans clusters" in shown and "cluster 4" in shown and "#" in shown
    assert not (work / "run/names.yaml").exists()
    assert main(["names", "run", "--write"]) == 0
    before = (work / "run/names.yaml").read_bytes()
    assert main(["names", "run", "--write"]) == 0
    assert "there already" in capsys.readouterr().err
    assert (work / "run/names.yaml").read_bytes() == before

    assert main(["names", "run", "--set", "3=road", "1=road", "0=<b>park</b>", "0=#010203", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [n["name"] for n in found["names"]] == ["<b>park</b>", "road", "cluster 2", "road", "cluster 4"]
    assert found["names"][0]["colour"] == [1, 2, 3]
    assert [n["class"] for n in found["names"]] == [0, 1, 2, 1, 3]
    assert main(["predict", "run", "photos", "--out", "out"]) == 0
    classes = json.loads((work / "out/predictions.json").read_text("utf-8"))["classes"]
    assert [c["name"] for c in classes] == ["<b>park</b>", "road", "cluster 2", "cluster 4"]
    assert classes[1]["clusters"] == [1, 3]
    assert np.array(Image.open(work / "out/index/p0.png")).max() <= 3


def test_wrong_names_change_nothing(work, capsys):
    assert main(["names", "run", "--set", "9=road", "1="]) == 2
    error = capsys.readouterr().err
    assert "9=road" in error and "1=" in error
    assert not (work / "run/names.yaml").exists()
    (work / "run/names.yaml").write_text("clusters: {7: {name: x}}", "utf-8")
    assert main(["names", "run"]) == 1
    assert "clusters.7" in capsys.readouterr().err
