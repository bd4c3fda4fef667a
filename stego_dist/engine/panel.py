"""What a picture of one image shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stego_dist.data.samples import ShardSamples
from stego_dist.engine.predict import Maps
from stego_dist.engine.scoring import CRF
from stego_dist.engine.seen import Seen
from stego_dist.engine.step import signed_labels


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


def make_panels(
    samples: ShardSamples, seen: Seen, places: list[int], maps: Maps, names: Iterable[str]
) -> dict[int, Panel]:
    """Panels of the images that have these places in a batch, by number, with predictions of these names."""
    if not places:
        return {}
    some = maps.of(places)
    winners = {name: some.argmax(name) for name in names}
    found = {}
    for n, place in enumerate(places):
        i = seen.ids[place]
        label = None if seen.labels is None else signed_labels(seen.labels[place]).numpy()
        predictions = {name: as_ids(winner[n]) for name, winner in winners.items()}
        found[i] = Panel(samples.name(i), seen.images[i].permute(1, 2, 0).numpy(), label, predictions)
    return found


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
