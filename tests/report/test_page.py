"""The page as a reader gets it: whole, escaped, every number where it belongs."""

from __future__ import annotations

import base64
import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from PIL import Image

from stego_dist import console
from stego_dist.cli import main
from stego_dist.errors import UserError
from stego_dist.report import page as page_module
from stego_dist.report.page import write_page
from stego_dist.report.pictures import layers_of
from stego_dist.report.tables import USE, main_rows, percent
from stego_dist.rundir import RunDir, write_json
from tests.report.made import CLASSES, labelled_results, unlabelled_results


class Page(HTMLParser):
    """Text and attributes of a page; refuses what is closed in the wrong order."""

    VOID = ("meta", "link", "img", "input")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.text.append(data)

    def values(self, name: str, tag: str | None = None) -> list[str]:
        return [value for t, n, value in self.attributes if n == name and tag in (None, t)]

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


def write(run: RunDir) -> tuple[str, Page]:
    path = write_page(run)
    assert path == run.root / "report.html"
    html = path.read_text("utf-8")
    return html, Page(html)


@pytest.mark.parametrize("which", ["evaluated", "evaluated_unlabelled"])
def test_results_follow_the_schema(which, request, schema):
    results = json.loads(request.getfixturevalue(which).results.read_text())
    jsonschema.validate(results, schema)
    assert not {*results} - {*schema["properties"]}
    results["per_image"] = {"accuracy": [1.5]}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(results, schema)


def test_made_results_follow_the_schema_too(schema):
    for results in (labelled_results(), unlabelled_results()):
        jsonschema.validate(results, schema)
    del results["cluster_shares"]
    with pytest.raises(jsonschema.ValidationError, match="cluster_shares"):
        jsonschema.validate(results, schema)


@pytest.mark.parametrize("which", ["evaluated", "evaluated_unlabelled"])
def test_the_page_needs_no_network(which, request):
    run = request.getfixturevalue(which)
    html, page = write(run)
    for word in ("http://", "https://", "url(", "@import", "fetch(", "XMLHttpRequest"):
        assert word not in html, word
    assert all(value.startswith("#") or value == "data:," for value in page.values("href"))
    targets = {value[1:] for value in page.values("href", "a")}
    assert targets and targets <= {*page.values("id")}
    sources = page.values("src")
    pictures = [path for path in layers_of(run).iterdir() if path.suffix in (".webp", ".png")]
    assert len(sources) >= len(pictures) > 10  # a crop may be a neighbour of several
    assert {base64.b64decode(s.partition(";base64,")[2]) for s in sources} == {
        picture.read_bytes() for picture in pictures
    }
    assert all(page.values("alt", "img")) and len(page.values("alt", "img")) == len(sources)


def test_names_are_escaped(run):
    name = "<script>alert(1)</script> & co"
    results = labelled_results(run=name)
    results["warnings"] = ["codes <collapse>"]
    results["training"] = {"val/miou_learned": {"step": [1, 2], "value": [0.1, 0.2]}}
    results["neighbours"] = [{"id": 0, "name": '"><img src=x>', "neighbours": []}]
    write_json(run.results, results)
    html, page = write(run)
    assert html.count("<script") == 1 and "<b>road" not in html and "<i>&" not in html and "<img src=x" not in html
    assert name in page.words  # shown as it is
    assert CLASSES[1] in page.words and "name: night # <i>&" in page.words and "</pre><script>" in page.words
    assert "codes <collapse>" in page.words


def test_the_page_shows_the_scores(run):
    write_json(run.results, labelled_results("cocostuff27"))
    html, page = write(run)
    cells = [text.strip() for text in page.text if text.strip()]
    for row in main_rows(labelled_results("cocostuff27")):
        places = [n for n, text in enumerate(cells) if text == row.what]
        shown = [cells[n : n + 5] for n in places]
        assert [row.what, row.backbone, percent(row.accuracy), percent(row.miou), row.source] in shown
    assert html.count('<tr class="headline">') == 1 and "published rows include CRF" in page.words
    assert "62.5 / 31.2" in page.words and "50 steps with seed 3" in page.words


def test_confusion_is_in_shares_of_each_class(run):
    _, page = write(run)
    start = page.words.index("learned cluster probe class pixels")
    # predictions × labels [[3, 0, 1], [0, 2, 0], [0, 0, 0]]: columns are classes
    text = page.words[start:]
    assert f"sky 3 100 0 0 {CLASSES[1]} 2 0 100 0 pole' 1 100 0 0" in text
    results = labelled_results()
    results["measures"]["learned"]["confusion"] = [[3, 0, 0], [0, 0, 0], [0, 0, 0], [1, 0, 0]]
    write_json(run.results, results)
    _, page = write(run)
    assert f"no class sky 4 75 0 0 25 {CLASSES[1]} 0 – – – –" in page.words


def test_a_page_without_labels(run):
    write_json(run.results, unlabelled_results())
    _, page = write(run)
    assert "no accuracy and no mIoU" in page.words and "75.0 %" not in page.words and "50.0 %" in page.words
    for absent in ("IoU per class", "Confusion", "Side by side", "Training"):
        assert absent not in page.words


def test_labelled_figures_say_what_results_hold(evaluated):
    results = json.loads(evaluated.results.read_text())
    html, page = write(evaluated)
    for kind, entry in results["correspondences"]["training"]["kinds"].items():
        assert f"Mean {entry['mean']:.2f}; {100 * entry['above_shift']:.1f} % of {entry['pairs']:,} pairs" in page.words
        assert f"{kind}: an image with" in page.words and f">shift {entry['shift']:.3g}</text>" in html
    for entry in results["correspondences"]["labels"]["pairs"].values():
        for curve in entry["curves"].values():
            assert f"{curve['average_precision']:.3f}" in page.words
    assert "Validation: mIoU" in page.words and "Correspondence loss" in page.words
    shown = results["per_image"]["shown"]
    assert shown[0]["rank"] == "best"
    for entry in shown:
        accuracy = f"{entry['name']}: accuracy {percent(entry['accuracy'])} %, mIoU {percent(entry['miou'])} %"
        assert accuracy in page.words
    assert page.values("name", "input").count("layer") == 6
    assert len(results["neighbours"]) == 6 and page.words.count("picture_") > 10


def test_a_baseline_without_labels_is_printed_and_on_the_page(
    evaluated_unlabelled, schema, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(console.out, "width", 160)
    run = RunDir(shutil.copytree(evaluated_unlabelled.root, tmp_path / "run"))
    capsys.readouterr()
    assert main(["eval", str(run.root), "--baseline"]) == 0
    printed, results = capsys.readouterr().out, json.loads(run.results.read_text())
    jsonschema.validate(results, schema)
    use = results["baselines"]["raw features"]["cluster_use"]["kmeans"]
    said = ["raw features, k-means", results["backbone"], f"{use['used']} of {use['clusters']}"]
    said += [percent(use[key]) for key in USE]
    assert "–" not in said
    (line,) = [line for line in printed.splitlines() if "raw features, k-means" in line]
    assert [cell.strip() for cell in line.split("│")[1:-1]] == said
    page = Page((run.root / "report.html").read_text("utf-8"))
    assert " ".join(said) in page.words and "Use of clusters" in page.words


def test_an_unlabelled_page_has_contact_sheets(evaluated_unlabelled):
    results = json.loads(evaluated_unlabelled.results.read_text())
    _, page = write(evaluated_unlabelled)
    found = results["cluster_examples"]
    for sheet in found["examples"]:
        share = results["cluster_shares"]["kmeans"][sheet["cluster"]]
        iou = found["stability"]["iou"][sheet["cluster"]]
        assert f"{percent(share)} % of all pixels; stability {percent(iou)} %" in page.words
        for image in sheet["images"]:
            assert f"Cluster {sheet['cluster']} in {image['name']}" in page.values("alt", "img")
    assert f"{percent(found['stability']['agreement'])} %" in page.words
    assert "accuracy" not in page.words.split("Clusters", 2)[2]


def test_pictures_stop_at_the_budget(evaluated, tmp_path, monkeypatch):
    run = RunDir(shutil.copytree(evaluated.root, tmp_path / "run"))
    whole = write_page(run).stat().st_size
    monkeypatch.setattr(page_module, "BUDGET", 10_000)
    html, page = write(run)
    assert sum(len(source) for source in page.values("src")) <= 10_000 < whole
    assert "pictures are left out" in page.words and len(html) < whole
    for picture in (path for path in layers_of(run).iterdir() if path.suffix != ".json"):
        picture.unlink()
    _, page = write(run)
    assert not page.values("src") and "pictures are left out" in page.words
    shutil.rmtree(layers_of(run))
    _, page = write(run)
    assert not page.values("src") and "Scores" in page.words


def test_layers_are_what_was_predicted(evaluated):
    listed = json.loads((layers_of(evaluated) / "pictures.json").read_text())
    colours = {entry["name"]: entry["colour"] for entry in listed["legend"]}
    assert len(listed["legend"]) == 3 and "no class" in listed["legend"][2]["name"]  # two classes, three clusters
    for panel in listed["panels"]:
        assert [layer["key"] for layer in panel["layers"]] == ["image", "label", "kmeans", "learned", "linear"]
        label = np.asarray(Image.open(layers_of(evaluated) / panel["layers"][1]["file"]).convert("RGBA"))
        assert label.shape == (40, 40, 4) and (label[0, :, 3] == 0).all() and (label[10:, :, 3] == 255).all()
        seen = {"#" + bytes(pixel[:3].tolist()).hex() for pixel in label[10:].reshape(-1, 4)}
        assert seen <= {*colours.values()} and len(seen) == 2


def test_what_is_missing_is_named(run, tmp_path):
    run.provenance.unlink()
    with pytest.raises(UserError, match=r"the run's provenance not found: .*provenance\.json"):
        write_page(run)
    run.results.unlink()
    with pytest.raises(UserError, match=rf"results not found: .*Evaluate it first: stego-dist eval {run.root}"):
        write_page(run)
    with pytest.raises(UserError, match="Evaluate it first"):
        write_page(RunDir(Path(tmp_path / "nowhere")))
    assert not (run.root / "report.html").exists()
