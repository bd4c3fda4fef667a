"""Files are whole or not there, inputs are told apart by name, JSON stays JSON."""

from __future__ import annotations

import hashlib
import json
import math

import pytest

from stego_dist.errors import StaleInputError, UserError
from stego_dist.rundir import (
    RunDir,
    atomic_path,
    check_fingerprint,
    code_revision,
    digest,
    read_json,
    remove_leftovers,
    sha256_file,
    write_json,
)


def test_atomic_path_makes_folders_and_leaves_one_file(tmp_path):
    path = tmp_path / "a" / "b.txt"
    with atomic_path(path) as tmp:
        assert tmp != path and tmp.parent == path.parent  # the same file system, or the rename would copy
        tmp.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new" and list(path.parent.iterdir()) == [path]
    with atomic_path(path) as tmp:
        tmp.write_text("newer")
        assert path.read_text() == "new"
    assert path.read_text() == "newer" and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "b.txt"
    path.write_text("old")
    with pytest.raises(error), atomic_path(path) as tmp:
        tmp.write_text("half")
        raise error
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(error), atomic_path(tmp_path / "none") as tmp:
        raise error  # before anything was written
    assert list(tmp_path.iterdir()) == [path]


def test_folders_are_replaced_whole(tmp_path):
    path = tmp_path / "step"
    for names in (["a", "b"], ["c"]):
        with atomic_path(path) as tmp:
            (tmp / "deep").mkdir(parents=True)
            for name in names:
                (tmp / "deep" / name).write_text(name)
        assert sorted(p.name for p in path.rglob("*")) == sorted([*names, "deep"])
    with pytest.raises(RuntimeError), atomic_path(path) as tmp:
        tmp.mkdir()
        (tmp / "half").write_text("half")
        raise RuntimeError
    assert [p.name for p in tmp_path.rglob("*")] == ["step", "deep", "c"]


def test_two_writers_do_not_share_a_temporary_file(tmp_path):
    with atomic_path(tmp_path / "x") as first, atomic_path(tmp_path / "x") as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert (tmp_path / "x").read_text() == "first"  # the outer one is renamed last


def test_what_a_killed_writer_left_is_removed_and_nothing_else(tmp_path):
    (tmp_path / ".hidden.tmp").write_text("the user's")
    with atomic_path(tmp_path / "a.json") as file, atomic_path(tmp_path / "folder") as folder:
        file.write_text("half")
        folder.mkdir()
        assert remove_leftovers(tmp_path) == sorted([file, folder])
        assert [p.name for p in tmp_path.iterdir()] == [".hidden.tmp"]
        file.write_text("")
        folder.mkdir()
    assert remove_leftovers(tmp_path / "none") == []


@pytest.mark.parametrize("value", [math.nan, math.inf, {"deep": [1.0, -math.inf]}])
def test_write_json_refuses_what_json_does_not_have(tmp_path, value):
    write_json(tmp_path / "x.json", {"old": "é"})
    with pytest.raises(ValueError):
        write_json(tmp_path / "x.json", value)
    assert json.loads((tmp_path / "x.json").read_text("utf-8")) == {"old": "é"}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_read_json_says_what_is_wrong_and_what_to_do(tmp_path):
    with pytest.raises(UserError, match=r"the record not found: .*x\.json does not exist\. Make it\."):
        read_json(tmp_path / "x.json", "the record", "Make it.")
    for damaged in (b'{"a": ', b"", b"\xff\xfe"):
        (tmp_path / "x.json").write_bytes(damaged)
        with pytest.raises(UserError, match=r"the record is damaged: .*x\.json: .*Make it\."):
            read_json(tmp_path / "x.json", "the record", "Make it.")


def test_check_fingerprint_names_each_field_that_differs():
    found = {"same": [1, 2], "changed": 224, "gone": "x"}
    check_fingerprint(found, dict(reversed(found.items())), "the thing", "Do it again.")
    with pytest.raises(StaleInputError) as error:
        check_fingerprint(found, {"same": [1, 2], "changed": 448, "new": 1.5}, "the thing", "Do it again.")
    assert str(error.value).splitlines() == [
        "the thing was made from something else:",
        "  changed: made with 224, now 448",
        "  gone: made with 'x', now None",
        "  new: made with None, now 1.5",
        "Do it again.",
    ]


def test_digest_is_of_content_not_of_order():
    assert digest({"a": 1, "b": [2, 3]}) == digest({"b": [2, 3], "a": 1})
    assert digest({"b": [2, 3]}) != digest({"b": [3, 2]})
    assert digest({"a": 1}) == hashlib.sha256(b'{"a":1}').hexdigest()
    with pytest.raises(ValueError):
        digest(math.nan)


def test_sha256_file(tmp_path):
    data = bytes(range(256)) * 5000
    (tmp_path / "x").write_bytes(data)
    assert sha256_file(tmp_path / "x") == hashlib.sha256(data).hexdigest()


def test_code_revision_says_something():
    assert code_revision() == "unknown" or len(code_revision().rstrip("+")) >= 7


def test_status_is_readable_by_whoever_launched_the_run(tmp_path):
    run = RunDir(tmp_path / "run")
    run.write_status("saved", step=7, exit_code=75, reason="signal")
    expected = {"state": "saved", "step": 7, "exit_code": 75, "reason": "signal"}
    assert json.loads((tmp_path / "run" / "status.json").read_text()) == expected


def test_every_path_is_inside_the_run_and_of_its_own(tmp_path):
    run = RunDir(tmp_path)
    paths = [getattr(run, name) for name, value in vars(RunDir).items() if isinstance(value, property)]
    assert len(paths) >= 8 and len(set(paths)) == len(paths) and all(path.parent == tmp_path for path in paths)
