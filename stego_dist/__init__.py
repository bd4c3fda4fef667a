"""STEGO at any scale: unsupervised semantic segmentation by distilling feature correspondences.

images → shards → crops → backbone features → global KNN → training → checkpoint → evaluation → report.
The folders stand in that order, and imports only ever point back along it.

A program calls `load` and `fit` (api.py); they are imported when they are first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stego_dist.api import fit, load

__version__ = "0.1.0"
__all__ = ["fit", "load"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from stego_dist import api

        return getattr(api, name)
    raise AttributeError(f"module 'stego_dist' has no attribute {name!r}")
