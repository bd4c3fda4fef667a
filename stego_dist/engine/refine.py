"""The dense CRF along an evaluation: images of a batch go in with their maps, winners come out in the same order.

On a CPU a pool of processes refines while the next batch is computed; on a GPU the torch implementation refines images
of a batch together, at once.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from stego_dist.config.tree import EvalConfig
from stego_dist.crf.backends import choose_backend
from stego_dist.crf.mean_field import mean_field
from stego_dist.crf.pool import CrfPool
from stego_dist.engine.predict import CONVERGED, LINEAR

TOGETHER = 1 << 27
"""Numbers that the maps of images that a GPU refines together may have; it holds about ten times as many."""

Refined = tuple[int, str, Tensor | None, Tensor]
"""Number of the image, name of the map, label (H, W) if there is one, winners int16 (H, W)."""


class Refiner(Protocol):
    """Refines maps; `finished` gives what is done, in the order of submission."""

    def submit(self, ids: Sequence[int], images: Tensor, maps: dict[str, Tensor], labels: Tensor | None) -> None:
        """Numbers of B images, images uint8 (B, 3, H, W), log-probabilities (B, K, H, W) by name, labels (B, H, W)."""

    def finished(self, everything: bool = False) -> Iterator[Refined]:
        """What is done; waits until little is under way, or nothing."""

    def close(self) -> None:
        """Give up what is under way."""


def refined_names(crf: str, headline: str, names: Sequence[str]) -> list[str]:
    """Those of the measures `names` that eval.crf says to refine; headline: that of the headline clusters."""
    wanted = {"none": [], "cluster": [headline], "both": [headline, LINEAR, CONVERGED]}[crf]
    return [name for name in wanted if name in names]


def make_refiner(settings: EvalConfig, device: torch.device) -> Refiner:
    """As eval.crf_backend and eval.crf_workers say. Raises ConfigError: a backend that can't be had."""
    backend = choose_backend(settings.crf_backend, device.type)
    if backend == "torch" and device.type != "cpu":
        return _OnDevice()
    return _InProcesses(CrfPool(settings.crf_workers or os.cpu_count() or 1, backend))


class _InProcesses:
    def __init__(self, pool: CrfPool[tuple[int, list[str], Tensor | None]]) -> None:
        self.pool, self.done = pool, list[Refined]()

    def submit(self, ids: Sequence[int], images: Tensor, maps: dict[str, Tensor], labels: Tensor | None) -> None:
        bgr = images.flip(1).permute(0, 2, 3, 1).cpu().numpy()
        arrays = [log_probs.cpu().numpy() for log_probs in maps.values()]
        for place, (i, image) in enumerate(zip(ids, bgr)):
            given = [array[place] for array in arrays]
            label = None if labels is None else labels[place]
            self.pool.submit((i, list(maps), label), np.ascontiguousarray(image), given)
            self.done += self._take(False)

    def finished(self, everything: bool = False) -> Iterator[Refined]:
        self.done += self._take(everything)
        yield from self.done
        self.done = []

    def close(self) -> None:
        self.pool.close()

    def _take(self, everything: bool) -> Iterator[Refined]:
        for (i, names, label), found in self.pool.finished(everything):
            yield from ((i, name, label, torch.from_numpy(winner)) for name, winner in zip(names, found))


class _OnDevice:
    def __init__(self) -> None:
        self.done: list[Refined] = []

    def submit(self, ids: Sequence[int], images: Tensor, maps: dict[str, Tensor], labels: Tensor | None) -> None:
        bgr = images.flip(1).permute(0, 2, 3, 1).contiguous()
        each = sum(log_probs[0].numel() for log_probs in maps.values())
        step = max(1, TOGETHER // each)
        for first in range(0, len(images), step):
            some = slice(first, first + step)
            marginals = mean_field(bgr[some], [log_probs[some] for log_probs in maps.values()])
            winners = [q.argmax(1).to(torch.int16) for q in marginals]
            for place, i in enumerate(ids[some]):
                label = None if labels is None else labels[first + place]
                self.done += [(i, name, label, winner[place]) for name, winner in zip(maps, winners)]

    def finished(self, everything: bool = False) -> Iterator[Refined]:
        yield from self.done
        self.done = []

    def close(self) -> None:
        self.done = []
