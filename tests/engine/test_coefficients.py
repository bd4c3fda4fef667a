"""From the section `loss` to the numbers of a step, and where each comes from."""

from __future__ import annotations

import pytest

from stego_dist.config import Config, DataConfig, LossConfig, PairConfig
from stego_dist.engine.coefficients import describe, fill_in, loss_settings, wants_calibration
from stego_dist.losses.calibration import Coefficients
from stego_dist.losses.correspondence import Adaptive

CHOSEN = {"self": Coefficients(1.0, 0.1), "knn": Coefficients(2.0, 0.2), "random": Coefficients(3.0, 0.3)}


def config(**loss) -> Config:
    return Config(name="night", data=DataConfig(shards="somewhere"), loss=LossConfig(**loss))


def test_only_what_is_auto_is_filled_in():
    asked = config(knn_pair=PairConfig(shift=0.9), random_pair=PairConfig(weight=0.0, shift="adaptive"))
    assert wants_calibration(asked.loss) and not wants_calibration(config(preset="iaroa").loss)
    settings = loss_settings(fill_in(asked, CHOSEN))
    assert settings.weights == (1.0, 2.0, 0.0) and settings.shifts == (0.1, 0.9, Adaptive(False))
    assert not wants_calibration(fill_in(asked, CHOSEN).loss)
    with pytest.raises(ValueError, match="self_pair is not calibrated yet"):
        loss_settings(asked)


def test_records_say_where_each_number_comes_from():
    asked = config(
        preset="iaroa", self_pair=PairConfig(weight=0.67, shift=0.5), random_pair=PairConfig(shift="adaptive")
    )
    found = describe(asked.loss, fill_in(asked, CHOSEN).loss)
    assert found["self"] == {"weight": 0.67, "shift": 0.5, "weight_from": "iaroa", "shift_from": "configuration"}
    assert found["knn"]["weight_from"] == found["knn"]["shift_from"] == "iaroa"
    assert found["random"] == {"weight": 3.0, "shift": None, "weight_from": "auto", "shift_from": "adaptive"}
    assert describe(config().loss, config().loss)["self"]["shift"] is None
