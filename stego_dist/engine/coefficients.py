"""From the section `loss` to what a step takes: numbers in place of `auto`; what is `adaptive` stays so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from stego_dist.config import Config, LossConfig
from stego_dist.engine.step import LossSettings
from stego_dist.losses.calibration import Coefficients
from stego_dist.losses.correspondence import Adaptive, Shift

Chosen = Mapping[str, Coefficients]
"""Coefficients by kind of pairs."""


def wants_calibration(loss: LossConfig) -> bool:
    """Whether a weight or a shift is `auto`."""
    return any("auto" in (pair.weight, pair.shift) for pair in loss.pairs.values())


def fill_in(config: Config, chosen: Chosen) -> Config:
    """The configuration with numbers in place of `auto`."""
    pairs = {}
    for kind, pair in config.loss.pairs.items():
        numbers = {"weight": chosen[kind].weight, "shift": chosen[kind].shift}
        auto = {key: value for key, value in numbers.items() if getattr(pair, key) == "auto"}
        pairs[f"{kind}_pair"] = pair.model_copy(update=auto)
    return config.model_copy(update={"loss": config.loss.model_copy(update=pairs)})


def loss_settings(config: Config) -> LossSettings:
    """The coefficients that the training step takes; nothing may be `auto` any more."""
    loss = config.loss
    weights, shifts = [], []
    for kind, pair in loss.pairs.items():
        if "auto" in (pair.weight, pair.shift):
            raise ValueError(f"loss.{kind}_pair is not calibrated yet")
        shift = Adaptive(kind != "random", loss.adaptive_bias, loss.adaptive_scale)
        weights.append(float(pair.weight))
        shifts.append(shift if pair.shift == "adaptive" else float(pair.shift))
    return LossSettings(
        cast(tuple[float, float, float], tuple(weights)),
        cast(tuple[Shift, Shift, Shift], tuple(shifts)),
        loss.centring,
        loss.clamp,
        loss.contrastive_crf_weight,
    )


def number(value: float | str) -> float | None:
    """A weight or shift that is known, else None."""
    return None if isinstance(value, str) else value


def describe(asked: LossConfig, used: LossConfig) -> dict[str, Any]:
    """The coefficients in use, for records: weight and shift of each kind, and where they come from.

    `asked`: as configured; `used`: with what was calibrated, or followed, filled in as far as it is known.
    """

    preset = LossConfig(preset=asked.preset) if asked.preset else None

    def origin(kind: str, key: str) -> str:
        value = getattr(asked.pairs[kind], key)
        if isinstance(value, str):
            return value
        named = preset is not None and value == getattr(preset.pairs[kind], key)
        return str(asked.preset) if named else "configuration"

    return {
        kind: {
            "weight": number(used.pairs[kind].weight),
            "shift": number(used.pairs[kind].shift),
            "weight_from": origin(kind, "weight"),
            "shift_from": origin(kind, "shift"),
        }
        for kind in asked.pairs
    }
