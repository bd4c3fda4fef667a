"""Global descriptors as they are stored: unit vectors whose entries are multiples of 2⁻²⁴.

The product of two entries is then a multiple of 2⁻⁴⁸, and every partial sum of an inner product of unit vectors stays
below 2: 49 bits, which float64 holds. So float64 inner products are exact in any order, on any library and any number
of threads: the search relies on it (knn/).
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

DescriptorType = Literal["float16", "float32"]
STEP = np.float32(2.0**-24)


def storable_descriptors(descriptors: NDArray[np.float32], dtype: DescriptorType) -> NDArray[Any]:
    """Unit vectors (n, D) rounded to what is stored, within 2⁻²⁵ (float32) or a relative 2⁻¹¹ (float16)."""
    if dtype == "float16":
        return descriptors.astype(np.float16)  # whose values are all multiples of 2⁻²⁴
    rounded: NDArray[np.float32] = np.rint(descriptors / STEP) * STEP
    return rounded
