"""The published coefficients of the correspondence loss, by name (`loss.preset`).

Source: the public code of Hamilton et al., "Unsupervised Semantic Segmentation by Distilling Feature Correspondences"
(ICLR 2022), whose training configuration holds one set as active values and the others as comments.
Each set was tuned for one backbone and data set; on others it may make all codes equal.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

PresetName = Literal[
    "cocostuff27_vits8",
    "cocostuff27_vits8_october2021",
    "cocostuff27_vitb8",
    "cocostuff27_mocov2",
    "cityscapes27",
    "potsdam3_vits8",
    "iaroa",
    "cocostuff27_older",
    "cityscapes27_older",
]
Numbers = Mapping[str, float]
PAIRS = ("self_pair", "knn_pair", "random_pair")
"""The three terms of the loss, as the keys of the section `loss`."""


def _preset(weights: tuple[float, float, float], shifts: tuple[float, float, float]) -> Mapping[str, Numbers]:
    return {pair: {"weight": weight, "shift": shift} for pair, weight, shift in zip(PAIRS, weights, shifts)}


PRESETS: Mapping[str, Mapping[str, Numbers]] = {
    "cocostuff27_vits8": _preset((0.67, 0.25, 0.63), (0.08, 0.02, 0.66)),  # January 2022
    "cocostuff27_vits8_october2021": _preset((0.67, 0.25, 0.63), (0.08, 0.02, 0.16)),
    "cocostuff27_vitb8": _preset((0.10, 1.0, 0.1538476246415498), (0.12, 0.20, 1.0)),
    "cocostuff27_mocov2": _preset((0.67, 0.25, 0.63), (0.32, 0.36, 0.26)),
    "cityscapes27": _preset(
        (1.0, 0.577453483136995, 0.9058762625226623), (0.45828472207, 0.1754346515479633, 0.31361241889448443)
    ),
    "potsdam3_vits8": _preset((0.67, 0.25, 0.63), (0.08, 0.02, 0.46)),
    "iaroa": _preset((0.67, 0.25, 0.63), (0.18, 0.12, 0.46)),  # active in the published file, marked so there
    "cocostuff27_older": _preset((0.29, 0.80, 0.72), (0.34, 0.04, 0.86)),
    "cityscapes27_older": _preset((0.46, 0.18, 0.72), (0.25, 0.20, 0.25)),
}
"""Weight λ and shift b of self, knn and random pairs."""
