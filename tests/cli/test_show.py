"""`stego-dist show`: settings for scripts."""

from __future__ import annotations

import pytest

from stego_dist.cli import main
from tests.tiny import config_at


def test_single_settings_are_printed_a_line_each(tmp_path, capsys):
    config_at(tmp_path)
    arguments = [
        "show",
        str(tmp_path / "config.yaml"),
        "train.steps=9",
        "--value",
        "run_dir",
        "train.steps",
        "data.shards",
    ]
    assert main(arguments) == 0
    assert capsys.readouterr().out.splitlines() == [str(tmp_path / "run"), "9", str(tmp_path / "shards")]


@pytest.mark.parametrize("key", ["train.nothing", "run_dir.more", "model_dump"])
def test_a_setting_that_does_not_exist_is_refused(tmp_path, capsys, key):
    config_at(tmp_path)
    assert main(["show", str(tmp_path / "config.yaml"), "--value", key]) == 2
    assert f"there is no setting {key}" in capsys.readouterr().err
