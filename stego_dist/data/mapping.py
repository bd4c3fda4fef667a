"""Raw ids of a label map to class ids, fast where the ids are bytes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def map_ids(raw: NDArray[np.integer], table: NDArray[np.int16]) -> tuple[NDArray[np.uint8], list[int]]:
    """Class ids uint8 of `raw` (H, W), and the sorted raw ids that `table` does not know.

    table: raw id → class id, −1 where unknown, with two entries more than there are raw ids, for those below and above.
    """
    if raw.dtype == np.uint8:
        counts = Image.fromarray(raw).histogram()
        ids = np.frombuffer(raw.tobytes().translate(table[:256].astype(np.uint8).tobytes()), np.uint8)
        return ids.reshape(raw.shape), [i for i, count in enumerate(counts) if count and table[i] < 0]
    mapped = table[raw.astype(np.int64).clip(-1, len(table) - 2)]
    return mapped.astype(np.uint8), np.unique(raw[mapped < 0]).tolist()
