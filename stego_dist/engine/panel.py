"""What a picture of one image shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stego_dist.engine.scoring import CRF


@dataclass(frozen=True)
class Panel:
    """One image, its label and what was predicted; arrays (H, W)."""

    name: str
    image: NDArray[np.uint8]
    label: NDArray[np.int16] | None
    predictions: dict[str, NDArray[np.int16]]
    """By the name of the measure; what the CRF refined ("kmeans+crf") may be added later, see `refined_beside`."""
    rank: str = "spread"
    """Why it is shown: "best", "median" or "worst" of all images, or one of those that are spread over the split."""
    accuracy: float | None = None
    """Of the headline clusters on this image."""
    miou: float | None = None


def make_panel(name: str, image: Tensor, labels: Tensor | None, winners: Mapping[str, Tensor], place: int) -> Panel:
    """A panel of the uint8 image (3, H, W) that has this place in a batch of labels and predictions (B, H, W)."""
    predictions = {kind: as_ids(winner[place]) for kind, winner in winners.items()}
    label = None if labels is None else labels[place].cpu().numpy()
    return Panel(name, image.permute(1, 2, 0).cpu().numpy(), label, predictions)


def as_ids(winner: Tensor) -> NDArray[np.int16]:
    """Winners (H, W) as a panel holds them."""
    ids: NDArray[np.int16] = winner.to(torch.int16).cpu().numpy()
    return ids


def refined_beside(panels: Mapping[int, Panel]) -> None:
    """Put each panel's refined predictions behind those that they were made from."""
    for panel in panels.values():
        found = dict(panel.predictions)
        panel.predictions.clear()
        for name in found:
            base = name.removesuffix(CRF)
            panel.predictions.update({key: found[key] for key in (base, base + CRF) if key in found})
