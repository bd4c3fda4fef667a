"""The dense CRF's pairwise kernel between two pixels, as a score of how much they belong together."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stego_dist.crf.dense import BILATERAL_RGB, BILATERAL_WEIGHT, BILATERAL_XY, GAUSSIAN_WEIGHT, GAUSSIAN_XY

Array = NDArray[np.floating[Any]]


def log_affinity(xy: Array, rgb: Array, other_xy: Array, other_rgb: Array) -> NDArray[np.float64]:
    """ln(w₁·exp(−|Δxy|²/2σ₁²) + w₂·exp(−|Δxy|²/2σ₂² − |Δrgb|²/2σ₃²)) of pairs, with the evaluation's settings.

    xy (…, 2) in pixels, rgb (…, 3) in 0…255, broadcast. The logarithm keeps the order of affinities that float64 would
    round to 0: at 40 pixels the Gaussian term alone is 10⁻³⁴⁸.
    """
    distance = np.square(np.asarray(xy, np.float64) - other_xy).sum(-1)
    contrast = np.square(np.asarray(rgb, np.float64) - other_rgb).sum(-1)
    gaussian = np.log(GAUSSIAN_WEIGHT) - distance / (2 * GAUSSIAN_XY**2)
    bilateral = np.log(BILATERAL_WEIGHT) - distance / (2 * BILATERAL_XY**2) - contrast / (2 * BILATERAL_RGB**2)
    affinity: NDArray[np.float64] = np.logaddexp(gaussian, bilateral)
    return affinity
