"""How many bytes a build will write, from the sizes of all files and a few images that are packed on trial.

In: the pairs of a split with the sizes of their files. Out: the bytes that a packed sample set takes for each byte of
the files, which differs by an order of magnitude between sources (PNG or JPEG) and options (crops, max_side).
"""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from stego_dist.data.card import Card
from stego_dist.data.cut import cut_image
from stego_dist.data.sources import Source
from stego_dist.errors import UserError

if TYPE_CHECKING:
    from stego_dist.data.plan import BuildOptions

TRIALS = 8
"""Images of a split that are packed on trial."""


@dataclass(frozen=True)
class SplitEstimate:
    """What a split will hold if every image can be packed; `bytes` is right to a factor of 1.5 or so."""

    images: int
    samples: int
    shards: int
    bytes: int


def packed_ratio(
    pairs: Sequence[Source], sizes: Sequence[int], card: Card, options: BuildOptions, labelled: bool
) -> float:
    """Packed bytes (without the tar's own) for each byte of the files; images that can't be packed don't count."""
    read = written = 0
    for i in np.linspace(0, len(pairs) - 1, min(TRIALS, len(pairs))).round().astype(int):
        try:
            cuts = cut_image(pairs[i], card, options, labelled)
        except UserError:
            continue  # the build will say it
        read += sizes[i]
        written += sum(len(cut.jpeg) + len(cut.label_png or b"") for cut in cuts)
    return written / read if read else 1.0


def tar_overhead(labelled: bool) -> int:
    """Bytes of headers, padding and JSON a sample, about."""
    members = 3 if labelled else 2
    return tarfile.BLOCKSIZE * members + tarfile.BLOCKSIZE // 2 * (members - 1) + tarfile.BLOCKSIZE
