"""Descriptors as they are stored: near what they were, and with inner products that are exact in any order."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from stego_dist.features.descriptors import storable_descriptors


def unit_vectors(n: int, dim: int, scale: float = 1.0) -> np.ndarray:
    vectors = np.random.default_rng(0).standard_normal((n, dim)) ** 3 + scale
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize(("dtype", "relative"), [("float16", 2**-11), ("float32", 0.0)])
def test_entries_are_near_and_multiples_of_a_step(dtype, relative):
    vectors = np.concatenate([unit_vectors(50, 33), np.eye(33, dtype=np.float32), np.full((1, 33), 3e-8, np.float32)])
    stored = storable_descriptors(vectors, dtype)
    assert stored.dtype == dtype and stored.shape == vectors.shape
    np.testing.assert_array_equal(stored.astype(np.float64) * 2**24 % 1, 0)
    np.testing.assert_allclose(stored, vectors, rtol=relative, atol=2**-25)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_inner_products_are_exact_in_any_order(dtype):
    stored = storable_descriptors(unit_vectors(40, 384, 0.3), dtype).astype(np.float64)
    a, b = stored[:20], stored[20:]
    order = np.random.default_rng(1).permutation(384)
    products = a @ b.T
    np.testing.assert_array_equal(products, np.asfortranarray(a[:, order]) @ b[:, order].T)
    np.testing.assert_array_equal(products, (a[:, None] * b[None]).sum(2))
    exact = sum(Fraction(x) * Fraction(y) for x, y in zip(a[0].tolist(), b[0].tolist()))
    assert Fraction(float(products[0, 0])) == exact
