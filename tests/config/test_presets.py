"""Published coefficients by name: their numbers, what wins beside them, and the shipped files that name them."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from stego_dist.config import PRESETS, Config, LossConfig, dump_config, load_config
from stego_dist.config.presets import PresetName

REPO = Path(__file__).resolve().parents[2]
PUBLISHED = sorted((REPO / "configs" / "published").glob("*.yaml"))
# weights of self, knn and random pairs; shifts; as read off the published configuration and checkpoints
TABLE = {
    "cocostuff27_vits8": ".67 .25 .63  .08 .02 .66",
    "cocostuff27_vits8_october2021": ".67 .25 .63  .08 .02 .16",
    "cocostuff27_vitb8": ".10 1.0 .1538476246415498  .12 .20 1.0",
    "cocostuff27_mocov2": ".67 .25 .63  .32 .36 .26",
    "cityscapes27": "1.0 .577453483136995 .9058762625226623  .45828472207 .1754346515479633 .31361241889448443",
    "potsdam3_vits8": ".67 .25 .63  .08 .02 .46",
    "iaroa": ".67 .25 .63  .18 .12 .46",
    "cocostuff27_older": ".29 .80 .72  .34 .04 .86",
    "cityscapes27_older": ".46 .18 .72  .25 .20 .25",
}
AUTO = ["auto"] * 6


@pytest.fixture
def load(tmp_path):
    def load(text: str, *overrides: str) -> Config:
        path = tmp_path / "night.yaml"
        path.write_text("data: {shards: somewhere}\n" + text, "utf-8")
        return load_config(path, overrides)

    return load


def coefficients(loss: LossConfig) -> list[float | str]:
    pairs = (loss.self_pair, loss.knn_pair, loss.random_pair)
    return [pair.weight for pair in pairs] + [pair.shift for pair in pairs]


def test_every_name_has_the_published_numbers(load):
    assert tuple(PRESETS) == get_args(PresetName) == tuple(TABLE)
    for name, numbers in TABLE.items():
        wanted = [float(number) for number in numbers.split()]
        assert coefficients(load(f"loss: {{preset: {name}}}").loss) == wanted
        assert coefficients(LossConfig(preset=name)) == wanted


def test_calibration_is_the_default(load):
    assert coefficients(load("").loss) == coefficients(LossConfig()) == AUTO
    assert coefficients(load("loss: {preset: null}").loss) == AUTO


def test_keys_beside_a_preset_win(load):
    loss = load("loss: {preset: iaroa, knn_pair: {shift: 0.5}}", "loss.self_pair.weight=2").loss
    assert coefficients(loss) == [2.0, 0.25, 0.63, 0.18, 0.5, 0.46]
    loss = load("loss: {preset: iaroa, knn_pair: {shift: auto}, random_pair: {shift: adaptive}}").loss
    assert coefficients(loss) == [0.67, 0.25, 0.63, 0.18, "auto", "adaptive"]  # asked for by name


def test_a_preset_on_the_command_line_replaces_the_files_numbers(load):
    numbers = "loss: {preset: cityscapes27, points: 7, self_pair: {weight: 3, shift: 0.5}}"
    loss = load(numbers, "loss.preset=iaroa", "loss.random_pair.shift=0.9").loss
    assert coefficients(loss) == [0.67, 0.25, 0.63, 0.18, 0.12, 0.9] and loss.points == 7
    assert coefficients(load("loss: {preset: iaroa}", "loss.preset=null").loss) == AUTO


def test_a_dumped_preset_loads_to_the_same(load, tmp_path):
    for text in ("loss: {preset: cityscapes27, knn_pair: {shift: 0.5}}", ""):
        config = load(text)
        again = tmp_path / "again.yaml"
        again.write_text(dump_config(config), "utf-8")
        assert load_config(again) == config == Config.model_validate(config.model_dump())


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_published_files_name_their_preset(path):
    config = load_config(path)
    assert config.loss.preset is not None and config.loss == LossConfig(preset=config.loss.preset)
    assert config.name == path.stem and "public code" in path.read_text("utf-8")


def test_there_is_a_published_file_for_every_preset():
    assert sorted(load_config(path).loss.preset for path in PUBLISHED) == sorted(PRESETS)
