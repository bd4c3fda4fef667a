"""Loading: defaults, overrides, every error in one report, and the way back to YAML."""

from __future__ import annotations

import json
from pathlib import Path

import pydantic
import pytest
import yaml

from stego_dist.cli import main
from stego_dist.config import PRESETS, Config, dump_config, load_config
from stego_dist.errors import ConfigError

REPO = Path(__file__).resolve().parents[2]
CONFIGS = sorted((REPO / "configs").glob("*.yaml"))


@pytest.fixture
def write(tmp_path):
    def write(text: str = "data: {shards: somewhere}", name: str = "night") -> Path:
        path = tmp_path / f"{name}.yaml"
        path.write_text(text, "utf-8")
        return path

    return write


def lines(error: pytest.ExceptionInfo[ConfigError]) -> list[str]:
    return [line.strip() for line in str(error.value).splitlines()]


def test_the_defaults_are_the_published_method(write):
    config = load_config(write())
    assert config.name == "night" and config.seed == 0
    # Hamilton et al., ViT-S/8: width of codes, points, negatives, batch, neighbours, learning rates
    assert (config.head.code_dim, config.loss.points, config.loss.negatives) == (70, 11, 5)
    assert (config.train.batch_size, config.loss.group_size, config.groups) == (16, 16, 1)
    assert (config.knn.k, config.knn.positives) == (30, 7)
    assert (config.train.lr_head, config.train.lr_probes) == (5e-4, 5e-3)
    assert (config.data.resolution, config.eval.resolution) == (224, 320)


def test_an_empty_section_and_an_empty_file(write):
    with pytest.raises(ConfigError, match=r"data\.shards: is required and missing"):
        load_config(write(""))
    with pytest.raises(ConfigError, match="expected a mapping"):
        load_config(write("[1, 2]"))


def test_overrides_win_and_are_yaml(write):
    path = write("{name: a, seed: 3, data: {shards: x}, train: {steps: 9}}")
    config = load_config(
        path,
        [
            "train.steps=12", "train.lr_head=1e-3", "eval.flip=false", "features.workers=null",
            "backbone.stride=16", "backbone.options={img_size: 32}", "loss.knn_pair.weight=1",
            "data.shards=a=b",
        ],
    )  # fmt: skip
    assert config.seed == 3 and config.train.steps == 12 and config.train.lr_head == 1e-3
    assert config.eval.flip is False and config.features.workers is None and config.backbone.stride == 16
    assert config.backbone.options == {"img_size": 32}
    assert (config.loss.knn_pair.weight, config.loss.knn_pair.shift) == (1.0, "auto")  # the other half stays
    assert config.data.shards == "a=b"


@pytest.mark.parametrize(
    ("overrides", "name", "run_dir", "features_dir"),
    [
        ([], "night", "runs/night", "features/night"),
        (["name=day"], "day", "runs/day", "features/day"),
        (["name=day", "run_dir=out/${name}-${seed}"], "day", "out/day-0", "features/day"),
        (["features.dir=shared_features"], "night", "runs/night", "shared_features"),
        (["features.batch_size=4"], "night", "runs/night", "features/night"),
    ],
)
def test_folders_follow_the_name(write, overrides, name, run_dir, features_dir):
    config = load_config(write(), overrides)
    assert (config.name, config.run_dir, config.features.dir) == (name, run_dir, features_dir)


def test_all_errors_come_at_once_as_sentences(write):
    path = write(
        """
        data: {shards: x, resolutoin: 224}
        sead: 1
        head: {code_dim: wide, dropout: 1.0}
        backbone: {feature: values}
        loss: {group_size: 12, self_pair: {shift: low}, knn_pair: {weight: -1}, preset: ade20k}
        knn: {k: 5}
        train: {batch_size: 16, features: bank, optimiser: {name: adam}}
        """
    )
    with pytest.raises(ConfigError) as error:
        load_config(path)
    found = lines(error)
    assert found[0] == f"{path} has {len(found) - 1} problems:"
    expected = {
        "data.resolutoin: no such key; did you mean resolution?",
        "sead: no such key; did you mean seed?",
        "head.code_dim: found 'wide', expected a valid integer, unable to parse string as an integer.",
        "head.dropout: found 1.0, expected less than 1.",
        "backbone.feature: found 'values', expected 'feat' or 'keys'.",
        "loss.self_pair.shift: found 'low', expected a number, 'auto' or 'adaptive'.",
        "loss.knn_pair.weight: found -1, expected a number of at least 0, or 'auto'.",
        "train.batch_size: 16 is not a multiple of loss.group_size (12); take 12 or another multiple.",
        "knn.positives: ranks 1 to 7 are wanted, but knn.k=5 stores ranks 0 to 4; raise knn.k to at least 8.",
    }
    assert expected <= set(found)
    (preset,) = [line for line in found if line.startswith("loss.preset: found 'ade20k', expected ")]
    assert all(f"'{name}'" in preset for name in PRESETS)
    (unknown,) = [line for line in found if line.startswith("train.optimiser:")]
    assert "known here: steps, batch_size" in unknown or "did you mean" in unknown


def test_impossible_combinations_all_in_one(write):
    weights = [f"loss.{pair}_pair.weight=0" for pair in ("self", "knn", "random")]
    with pytest.raises(ConfigError) as error:
        load_config(
            write(),
            [
                "loss.contrastive_crf_weight=0.1",
                "train.features=bank",
                "train.batch_size=17",
                "knn.positives=30",
                "train.linear_points=225",
                *weights,
            ],
        )
    found = lines(error)
    assert found[0].endswith("has 5 problems:")
    assert [line.split(":")[0] for line in found[1:]] == [
        "train.batch_size", "knn.positives", "loss.contrastive_crf_weight", "train.linear_points", "loss",
    ]  # fmt: skip


def test_what_is_wrong_is_not_reported_twice(write):
    with pytest.raises(ConfigError) as error:
        load_config(write(), ["train.batch_size=17"])
    assert lines(error)[0].endswith("has 1 problem:") and len(lines(error)) == 2


def test_files_that_cannot_be_read(write, tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml is no file; see the folder configs/"):
        load_config(tmp_path / "nowhere.yaml")
    with pytest.raises(ConfigError, match=r"night\.yaml is not valid YAML"):
        load_config(write("data: {shards: [x"))
    with pytest.raises(ConfigError, match=r"night\.yaml.*nmae"):
        load_config(write("{run_dir: 'runs/${nmae}', data: {shards: x}}"))
    with pytest.raises(ConfigError, match=r"night\.yaml.*shards"):
        load_config(write("data: {shards: '???'}"))


@pytest.mark.parametrize("text", ["train.steps", "--steps", "=5"])
def test_malformed_overrides_are_named(write, text):
    with pytest.raises(ConfigError, match=f"section.key=value; not understood: {text}"):
        load_config(write(), ["seed=1", text])


@pytest.mark.parametrize("text", ["train.steps=[1", "train.lr_head={a", "data=5", "data.shards.deeper=1", "train=null"])
def test_odd_overrides_are_config_errors(write, text):
    with pytest.raises(ConfigError):
        load_config(write(), [text])


def test_the_tree_is_frozen(write):
    config = load_config(write())
    with pytest.raises(pydantic.ValidationError):
        config.train.steps = 3


def test_dump_and_load_is_the_identity(write, tmp_path):
    config = load_config(
        write(),
        ["name=déjà vu", "train.lr_head=3e-7", "backbone.options={img_size: 32}", "features.workers=3"],
    )
    again = tmp_path / "again.yaml"
    again.write_text(dump_config(config), "utf-8")
    assert load_config(again) == config
    assert list(yaml.safe_load(again.read_text("utf-8"))) == list(Config.model_fields)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configs_load(path, tmp_path):
    config = load_config(path)
    assert config.name == path.stem and config.run_dir.endswith(config.name)
    again = tmp_path / "again.yaml"
    again.write_text(dump_config(config), "utf-8")
    assert load_config(again) == config


def test_there_are_shipped_configs():
    assert CONFIGS


def test_show_prints_the_tree_and_exits_with_2_on_errors(write, capsys):
    path = str(write())
    assert main(["show", path, "train.steps=7", "--json"]) == 0
    expected = load_config(path, ["train.steps=7"])
    assert json.loads(capsys.readouterr().out) == expected.model_dump(mode="json")
    assert main(["show", path]) == 0
    assert Config.model_validate(yaml.safe_load(capsys.readouterr().out)) == load_config(path)
    assert main(["show", path, "train.stepps=7", "knn.k=1"]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and "Traceback" not in captured.err
    assert "did you mean steps?" in captured.err and "knn.positives" in captured.err
    assert main(["show", path + ".missing"]) == 2


def test_parts_of_a_batch_must_divide_its_groups(write):
    settings = ["train.batch_size=48", "loss.group_size=8"]
    assert load_config(write(), [*settings, "train.accumulate=3"]).train.accumulate == 3
    with pytest.raises(
        ConfigError, match=r"train\.accumulate: 6 group\(s\) can't be cut into 4 equal parts; .*take 1 or"
    ):
        load_config(write(), [*settings, "train.accumulate=4"])


def test_validation_comes_ten_times_unless_it_is_told(write):
    intervals = {"train.steps=5000": 500, "train.steps=4": 1, "train.validate_every=0": 0, "train.validate_every=7": 7}
    assert {text: load_config(write(), [text]).train.validation_interval for text in intervals} == intervals
