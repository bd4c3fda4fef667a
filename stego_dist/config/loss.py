"""The section `loss`: the correspondence loss, its coefficients, and where those come from."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from stego_dist.config.presets import PRESETS, PresetName
from stego_dist.config.section import Positive, Section, expecting

Weight = Annotated[Annotated[float, Field(ge=0.0)] | Literal["auto"], expecting("a number of at least 0, or 'auto'")]
Shift = Annotated[float | Literal["auto", "adaptive"], expecting("a number, 'auto' or 'adaptive'")]


class PairConfig(Section):
    """One of the three terms of the correspondence loss."""

    weight: Weight = "auto"
    """λ in the paper; `auto`: calibrated with the shift."""
    shift: Shift = "auto"
    """b in the paper: correspondences above it attract, below it repel. `auto`: chosen before training from the
    correspondences of training pairs, without labels (`stego-dist calibrate`). `adaptive`: follows the means of
    correspondences and code correlations in every step, as in EAGLE (Kim et al., CVPR 2024)."""


class LossConfig(Section):
    """The correspondence loss (paper, equations 1 to 4)."""

    preset: PresetName | None = None
    """Published weights and shifts by name (config/presets.py), in place of `auto`; keys given beside it win."""
    self_pair: PairConfig = PairConfig()
    """An image with itself (published: pos_intra)."""
    knn_pair: PairConfig = PairConfig()
    """An image with one of its nearest neighbours (published: pos_inter)."""
    random_pair: PairConfig = PairConfig()
    """An image with other images of its group (published: neg_inter)."""
    calibration_images: Positive = 256
    """Training images whose pairs are looked at for what is `auto`, rounded up to whole groups."""
    adaptive_bias: float = 0.0
    """For adaptive shifts: |mean F − mean C − bias| of self and knn pairs (published: 0 for COCO-Stuff, 0.11 for
    Cityscapes)."""
    adaptive_scale: float = 3.5
    """For adaptive shifts: scale · (mean F + mean C − bias) of random pairs."""
    points: Positive = 11
    """S: S×S points are sampled in every image."""
    negatives: Positive = 5
    """Draws of other images for each anchor."""
    centring: bool = True
    """Subtract the mean over the other image's points from the correspondences (spatial centring)."""
    clamp: Literal["zero", "none", "stabilised"] = "zero"
    """Clamp of code correlations: at 0 from below, not at all, or to [0, 0.8]."""
    group_size: Annotated[int, Field(ge=2)] = 16
    """Images of a group: negatives and centring stay inside it, so ranks don't change the result."""
    contrastive_crf_weight: Annotated[float, Field(ge=0.0)] = 0.0
    """Weight of the contrastive CRF term (published: 0); needs images, hence train.features=online."""

    @model_validator(mode="before")
    @classmethod
    def _take_preset(cls, values: Any) -> Any:
        """A preset's numbers, where no key is given; what is no known preset is left to the field's own check."""
        name = values.get("preset") if isinstance(values, dict) else None
        if not isinstance(name, str) or name not in PRESETS:
            return values
        numbers = PRESETS[name]
        given = {pair: values.get(pair, {}) for pair in numbers}
        filled = {pair: {**numbers[pair], **own} for pair, own in given.items() if isinstance(own, dict)}
        return {**values, **filled}

    @property
    def pairs(self) -> dict[str, PairConfig]:
        """The terms by kind of pairs."""
        return {"self": self.self_pair, "knn": self.knn_pair, "random": self.random_pair}
