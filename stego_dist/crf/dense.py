"""Dense CRF refinement by pydensecrf (Krähenbühl and Koltun, 2011) with the published settings.

The package pydensecrf2 provides the module; it is imported when it is needed, because not every machine can build it.
Inference is single-threaded and deterministic, about a CPU-second a map, so callers use processes (pool.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

STEPS = 10
"""Mean-field steps."""
GAUSSIAN_WEIGHT, GAUSSIAN_XY = 3.0, 1.0
"""The smoothness term: weight, and standard deviation of the position in pixels."""
BILATERAL_WEIGHT, BILATERAL_XY, BILATERAL_RGB = 4.0, 67.0, 3.0
"""The appearance term: weight, and standard deviations of the position in pixels and of the colours in 0…255."""
FLOOR = 1e-5
"""Probabilities below it count as it, as in the library's own helper for unaries."""
PADDED = 1e9
"""Energy of a class that a map lacks; its marginal is exactly 0."""


def dense_crf(image_bgr: NDArray[np.uint8], log_probs: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean-field marginals Q (K, H, W) for an image (H, W, 3) and unary log-probabilities (K, H, W).

    The unary is −log softmax of `log_probs`, floored; a Gaussian and a bilateral Potts term, 10 steps. Channels come in
    the published order, blue first: the kernel is symmetric in them, but the lattice that approximates it is not.
    Raises ValueError: sizes that don't go together.
    """
    return dense_crfs(image_bgr, [log_probs])[0]


def dense_crfs(
    image_bgr: NDArray[np.uint8], maps: Sequence[NDArray[np.float32]], steps: int = STEPS
) -> list[NDArray[np.float32]]:
    """The same for several maps of one image, whose lattices are built once; maps may differ in K.

    Classes that a map lacks beside the largest one get so high an energy that their marginal is 0 in every step.
    """
    import pydensecrf.densecrf as dcrf

    height, width = image_bgr.shape[:2]
    most = max(len(log_probs) for log_probs in maps)
    crf = dcrf.DenseCRF2D(width, height, most)
    for number, log_probs in enumerate(maps):
        if image_bgr.shape != (*log_probs.shape[1:], 3):
            wanted = (*log_probs.shape[1:], 3)
            raise ValueError(f"image is {image_bgr.shape}, expected {wanted} to go with the probabilities")
        if number == 0:
            crf.addPairwiseGaussian(sxy=GAUSSIAN_XY, compat=GAUSSIAN_WEIGHT)
            image = np.array(image_bgr, order="C")
            crf.addPairwiseBilateral(sxy=BILATERAL_XY, srgb=BILATERAL_RGB, rgbim=image, compat=BILATERAL_WEIGHT)
    marginals = []
    for log_probs in maps:
        energy = np.full((most, height * width), PADDED, np.float32)
        energy[: len(log_probs)] = _energy(log_probs)
        crf.setUnaryEnergy(energy)
        q = np.array(crf.inference(steps), dtype=np.float32).reshape(most, height, width)
        marginals.append(q[: len(log_probs)])
    return marginals


def _energy(log_probs: NDArray[np.float32]) -> NDArray[np.float32]:
    """−log softmax (K, H·W) of log-probabilities (K, H, W), floored."""
    probs = np.exp(log_probs - log_probs.max(0, keepdims=True)).reshape(len(log_probs), -1)
    probs /= probs.sum(0, keepdims=True)
    energy: NDArray[np.float32] = -np.log(np.clip(probs, FLOOR, 1.0))
    return energy
