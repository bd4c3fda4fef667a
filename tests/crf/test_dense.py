"""The dense CRF against the published figures."""

from __future__ import annotations

import numpy as np
import pytest

from stego_dist.crf.dense import dense_crf


def test_golden(golden):
    case = golden("dense_crf")
    q = dense_crf(case["image_bgr_as_used"], case["log_probs"])
    assert (q.argmax(0) == case["out_argmax"]).mean() >= 0.999
    assert np.abs(q - case["out_q"]).max() <= 5e-3
    assert np.array_equal(q, dense_crf(case["image_bgr_as_used"], case["log_probs"]))


def test_sizes_must_agree():
    with pytest.raises(ValueError, match=r"image is \(4, 5, 3\)"):
        dense_crf(np.zeros((4, 5, 3), np.uint8), np.zeros((2, 5, 4), np.float32))
