"""Assertions that several tests share."""

from __future__ import annotations

from typing import Any

import numpy as np


def assert_golden(actual: Any, reference: Any, rtol: float = 1e-5) -> None:
    """Within rtol, and within rtol of the largest reference value where values are near 0."""
    actual = actual.detach().numpy() if hasattr(actual, "detach") else np.asarray(actual)
    reference = np.asarray(reference)
    assert actual.shape == reference.shape
    np.testing.assert_allclose(actual, reference, rtol=rtol, atol=rtol * max(np.abs(reference).max(), 1e-12))
