"""Names of clusters: what the file says over the defaults, all its mistakes at once, and back to the same file."""

from __future__ import annotations

import pytest
import yaml

from stego_dist.errors import ConfigError, StaleInputError, UserError
from stego_dist.inference.names import (
    NamedClass,
    changed_names,
    clusters_digest,
    default_names,
    merged_by_name,
    read_names,
    write_names,
)

OF = "kmeans 0123456789ab"
ROAD, SKY = NamedClass("road", (128, 64, 128)), NamedClass("sky", (10, 20, 30))


def names_of(tmp_path, text, defaults=None):
    path = tmp_path / "names.yaml"
    path.write_text(text, "utf-8")
    return read_names(path, defaults or default_names(4), OF)


def test_without_a_file_clusters_have_numbers_and_colours_of_their_own(tmp_path):
    names = default_names(4)
    assert [c.name for c in names.classes] == [f"cluster {i}" for i in range(4)]
    assert len({c.colour for c in names.classes}) == 4
    assert names.of_cluster == (0, 1, 2, 3)
    assert not names.merged
    assert read_names(tmp_path / "none.yaml", names, OF) == names


def test_what_an_evaluation_matched_names_clusters():
    names = default_names(5, [ROAD, SKY], [1, -1, 0, 1, -1])
    assert [names.classes[i].name for i in names.of_cluster] == ["sky", "cluster 1", "road", "sky", "cluster 4"]
    assert names.classes[names.of_cluster[0]] == SKY
    assert names.merged
    others = [c.colour for c in names.classes if c.name.startswith("cluster")]
    assert not {ROAD.colour, SKY.colour} & set(others)


def test_clusters_of_one_name_are_one_class_in_the_order_of_first_mention(tmp_path):
    names = names_of(tmp_path, "clusters: {3: {name: road}, 1: {name: road, colour: '#804080'}, 0: {name: car}}")
    assert [c.name for c in names.classes] == ["car", "road", "cluster 2"]
    assert names.of_cluster == (0, 1, 2, 1)
    assert names.classes[1].colour == (128, 64, 128)  # given at one of them, it is that of both
    assert names.merged


def test_a_colour_alone_keeps_the_name(tmp_path):
    names = names_of(tmp_path, f"of: {OF}\nclusters: {{2: {{colour: '#010203'}}}}")
    assert names.classes[2] == NamedClass("cluster 2", (1, 2, 3))


def test_a_merged_class_without_a_colour_has_that_of_its_first_cluster(tmp_path):
    defaults = default_names(4)
    names = names_of(tmp_path, "clusters: {1: {name: a}, 2: {name: a}}")
    assert names.classes[1].colour == defaults.classes[1].colour


def test_all_mistakes_are_reported_at_once(tmp_path):
    with pytest.raises(UserError) as caught:
        names_of(
            tmp_path,
            "clusters:\n  0: {name: ''}\n  1: {colour: red}\n  2: {nmae: x}\n  9: {name: y}\n  x: {name: z}\n"
            '  3: {name: "a\\tb"}\nother: 1',
        )
    text = str(caught.value)
    for part in ("clusters.0.name", "clusters.1.colour", "clusters.2:", "clusters.9", "clusters.x", "'other'"):
        assert part in text
    assert "control character" in text
    assert len(text.splitlines()) == 8


@pytest.mark.parametrize("text", ["[1, 2]", "clusters: 3", "{", "clusters: [a]", "\x00"])
def test_what_is_no_such_file_is_refused(tmp_path, text):
    with pytest.raises(UserError, match="names of clusters"):
        names_of(tmp_path, text)


def test_yaml_that_would_make_objects_is_refused(tmp_path):
    with pytest.raises(UserError, match="can't be read"):
        names_of(tmp_path, "!!python/object/apply:os.system ['false']")


def test_names_of_other_clusters_are_refused(tmp_path):
    with pytest.raises(StaleInputError, match="clustered again"):
        names_of(tmp_path, "of: kmeans ffffffffffff\nclusters: {0: {name: road}}")
    assert clusters_digest("kmeans", b"a") != clusters_digest("kmeans", b"b")
    assert clusters_digest("kmeans", b"a") != clusters_digest("learned", b"a")


@pytest.mark.parametrize(
    "name",
    [
        "<script>alert(1)</script>",
        "../../etc/passwd",
        "a\"b'c",
        "yes",
        "1",
        "null",
        "- x",
        "a: b",
        "#804080",
        "雪 é",
        "{",
    ],
)
def test_any_name_survives_the_file(tmp_path, name):
    names = merged_by_name([NamedClass(name, (1, 2, 3)), NamedClass("other", (4, 5, 6)), NamedClass(name, (1, 2, 3))])
    write_names(tmp_path / "names.yaml", names, OF)
    assert read_names(tmp_path / "names.yaml", default_names(3), OF) == names
    assert yaml.safe_load((tmp_path / "names.yaml").read_text("utf-8"))["of"] == OF


def test_changes_rename_recolour_and_merge():
    names = changed_names(default_names(4), ["0=road", "3=road", "1=#010203"])
    assert [c.name for c in names.classes] == ["road", "cluster 1", "cluster 2"]
    assert names.of_cluster == (0, 1, 2, 0)
    assert names.classes[1].colour == (1, 2, 3)
    assert names.classes[0].colour == default_names(4).classes[0].colour


def test_a_cluster_that_leaves_a_class_gets_a_colour_of_its_own():
    merged = changed_names(default_names(3), ["0=road", "1=road"])
    left = changed_names(merged, ["1=car"])
    assert [c.name for c in left.classes] == ["road", "car", "cluster 2"]
    assert len({c.colour for c in left.classes}) == 3
    recoloured = changed_names(merged, ["1=#0a0b0c"])
    assert recoloured.classes[0] == NamedClass("road", (10, 11, 12))


def test_wrong_changes_are_listed_together():
    with pytest.raises(ConfigError) as caught:
        changed_names(default_names(2), ["2=a", "x=a", "0", "1=", "1=#12", "0=a\nb"])
    assert len(str(caught.value).splitlines()) == 7
