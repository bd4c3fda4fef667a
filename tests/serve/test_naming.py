"""The names editor writes RUN/names.yaml, which everything else obeys; what others write there is never lost."""

from __future__ import annotations

import json

import pytest
import yaml

from stego_dist.inference.model import Model
from tests.serve.serving import served


def by_cluster(answer) -> list[str]:
    return [entry["name"] for entry in answer["clusters"]]


def test_names_start_as_numbers_and_stay_where_they_are_put(site):
    names = site.names()
    assert by_cluster(names) == [f"cluster {i}" for i in range(5)]
    assert len({entry["colour"] for entry in names["clusters"]}) == 5 and not site.run.names.exists()
    answer = site.edit([2], " road ", "#804080")
    assert answer.status == 200 and answer.json["clusters"][2] == {"name": "road", "colour": "#804080"}
    assert answer.json == site.names() and answer.json["version"] != names["version"]
    found = Model.load(site.run.root).names  # what predict, report and export read
    assert found.classes[2].name == "road" and found.classes[2].colour == (0x80, 0x40, 0x80)


def test_one_name_is_one_class_of_one_colour(site):
    site.edit([1], "road", "#804080")
    assert site.edit([3], "road").json["clusters"][3] == {"name": "road", "colour": "#804080"}
    both = site.edit([0], "road", "#102030").json["clusters"]  # a colour that is given goes to all of the name
    assert [both[i]["colour"] for i in (0, 1, 3)] == ["#102030"] * 3
    names = Model.load(site.run.root).names
    assert len(names.classes) == 3 and names.of_cluster == (0, 0, 1, 0, 2)


def test_what_leaves_a_class_gets_a_colour_of_its_own(site):
    site.edit([0, 1, 2], "road", "#804080")
    after = site.edit([1], "pavement").json["clusters"]
    assert [entry["name"] for entry in after[:3]] == ["road", "pavement", "road"]
    assert after[0]["colour"] == after[2]["colour"] == "#804080"
    assert len({entry["colour"] for entry in after}) == 4
    renamed = site.edit([0, 2], "street").json["clusters"]  # all of them: the colour stays
    assert [renamed[i] for i in (0, 2)] == [{"name": "street", "colour": "#804080"}] * 2


def test_html_and_other_scripts_are_only_text(site):
    for name in ("<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "道路 {{7*7}}", "a: b # c\\"):
        assert by_cluster(site.edit([0], name).json)[0] == name
        assert by_cluster(site.names())[0] == name and yaml.safe_load(site.run.names.read_text("utf-8"))


def test_names_that_others_wrote_meanwhile_are_not_lost(site):
    version = site.edit([0], "road").json["version"]
    site.edit([1], "tree")
    late = site.edit([0], "sky", version=version)
    assert late.status == 409 and "changed elsewhere" in late.json["error"]
    assert late.json["names"] == site.names() and by_cluster(site.names())[:2] == ["road", "tree"]
    assert site.edit([0], "sky", version=late.json["names"]["version"]).status == 200
    text = site.run.names.read_text("utf-8")
    site.run.names.write_text(text.replace('"sky"', '"cloud"'), "utf-8")  # by hand
    assert by_cluster(site.names())[0] == "cloud"


def test_names_of_other_clusters_are_neither_read_nor_overwritten(site):
    site.edit([0], "road")
    version = site.names()["version"]
    text = site.run.names.read_text("utf-8").replace("of: kmeans ", "of: kmeans 0")
    site.run.names.write_text(text, "utf-8")
    for answer in (site.ask("GET", "/api/names"), site.edit([1], "tree", version=version)):
        assert answer.status == 409 and "clustered again" in answer.json["error"]
    assert site.run.names.read_text("utf-8") == text
    site.run.names.write_text("clusters: [", "utf-8")
    answer = site.edit([1], "tree", version=version)
    assert answer.status == 409 and "can't be read" in answer.json["error"]
    assert site.run.names.read_text("utf-8") == "clusters: ["


@pytest.mark.parametrize(
    "edit",
    [
        {"clusters": [5], "name": "a"},
        {"clusters": [], "name": "a"},
        {"clusters": [True], "name": "a"},
        {"clusters": "0", "name": "a"},
        {"clusters": [0], "name": ""},
        {"clusters": [0], "name": " \t"},
        {"clusters": [0], "name": "a\nb"},
        {"clusters": [0], "name": "x" * 101},
        {"clusters": [0], "name": 7},
        {"clusters": [0], "name": "a", "colour": "red"},
        {"clusters": [0], "name": "a", "colour": ["#000000"]},
        {"clusters": [0], "name": "a", "path": "/etc/passwd"},
    ],
)
def test_edits_that_make_no_sense(site, edit):
    body = json.dumps({"colour": None, "version": site.names()["version"]} | edit)
    answer = site.ask("PUT", "/api/names", body)
    assert answer.status == 400 and answer.json["error"].endswith(".") and not site.run.names.exists()


@pytest.mark.parametrize(
    ("body", "status"),
    [("{", 400), ("[]", 400), ("null", 400), (b"\xff", 400), ("[" * 60_000, 400), ("1" * 70_000, 413)],
)
def test_edits_that_are_none(site, body, status):
    assert site.ask("PUT", "/api/names", body).status == status


def test_a_folder_that_cannot_be_written(site, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("stego_dist.serve.naming.write_names", full)
        answer = site.edit([0], "road")
    assert answer.status == 409 and "the disk or the quota is full" in answer.json["error"]
    assert by_cluster(site.names())[0] == "cluster 0"


def test_other_clusters_than_the_headline_are_not_named(tiny_run):
    with served(tiny_run, readout="learned") as site:
        assert "kmeans" in site.ask("GET", "/api/state").json["locked"]
        answer = site.edit([0], "road")
        assert answer.status == 409 and not tiny_run.names.exists()
