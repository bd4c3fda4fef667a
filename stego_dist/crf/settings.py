"""The published settings of the dense CRF, and how its unary term is made."""

from __future__ import annotations

STEPS = 10
"""Mean-field steps."""
GAUSSIAN_WEIGHT, GAUSSIAN_XY = 3.0, 1.0
"""The smoothness term: weight, and standard deviation of the position in pixels."""
BILATERAL_WEIGHT, BILATERAL_XY, BILATERAL_RGB = 4.0, 67.0, 3.0
"""The appearance term: weight, and standard deviations of the position in pixels and of the colours in 0…255."""
FLOOR = 1e-5
"""Probabilities below it count as it: the library's own helper for unaries does so."""
