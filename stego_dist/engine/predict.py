"""Maps of one batch: cluster and class predictions at the size of the labels, before and after the CRF.

The order of work is the published one up to algebra: a linear probe commutes with bilinear resizing, and the winner of
a cosine does not depend on the code's norm, so K maps are resized instead of the code.
"""

from __future__ import annotations

from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from stego_dist.crf.dense import dense_crf
from stego_dist.models.segmenter import Segmenter, resize_maps

CLUSTERS = ("kmeans", "learned")
LINEAR = "linear"
SHARPNESS = 2.0
"""Published: the cluster probe's log-probabilities are log softmax(2·cosine)."""


@dataclass(frozen=True)
class Maps:
    """Predictions of a batch at size (H, W), by name: "kmeans", "learned", "linear"."""

    code: Tensor
    scores: dict[str, Tensor]
    """float32 (B, K, H, W): class logits, or products of the code with unit centres."""

    def argmax(self, name: str) -> Tensor:
        """Winning cluster or class, int64 (B, H, W)."""
        return self.scores[name].argmax(1)

    def log_probs(self, name: str) -> Tensor:
        """Published log-probabilities (B, K, H, W), the CRF's unary."""
        scores = self.scores[name]
        if name != LINEAR:
            norm = resize_maps(self.code, (scores.shape[2], scores.shape[3])).norm(dim=1, keepdim=True)
            scores = SHARPNESS * scores / norm.clamp(min=1e-12)
        return scores.log_softmax(1)


@torch.no_grad()
def predict_maps(segmenter: Segmenter, code: Tensor, size: tuple[int, int], clusters: tuple[str, ...]) -> Maps:
    """Maps of codes (B, C, h, w) at `size`, for the named kinds of clusters and the linear probe if there is one."""
    small = {
        name: torch.einsum("bchw,kc->bkhw", code, F.normalize(segmenter.centres(name), dim=1)) for name in clusters
    }
    if segmenter.linear is not None:
        small[LINEAR] = segmenter.linear(code)
    return Maps(code, {name: resize_maps(scores, size) for name, scores in small.items()})


def crf_argmax(image_bgr: NDArray[np.uint8], log_probs: NDArray[np.float32]) -> NDArray[np.int16]:
    """Winning cluster or class (H, W) after the CRF; what a worker process runs."""
    winner: NDArray[np.int16] = dense_crf(image_bgr, log_probs).argmax(0).astype(np.int16)
    return winner


class CrfPool:
    """A pool of processes for the CRF, fed while the device computes; at most two images a process wait."""

    def __init__(self, workers: int) -> None:
        self.pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"))
        self.room = 2 * workers
        self.waiting: list[tuple[str, Tensor, Future[NDArray[np.int16]]]] = []

    def submit(self, name: str, image: Tensor, log_probs: Tensor, label: Tensor) -> None:
        """Refine log-probabilities (K, H, W) of a uint8 image (3, H, W); `label` comes back with the result."""
        bgr = np.ascontiguousarray(image.flip(0).permute(1, 2, 0).cpu().numpy())
        self.waiting.append((name, label, self.pool.submit(crf_argmax, bgr, log_probs.cpu().numpy())))

    def finished(self, everything: bool = False) -> list[tuple[str, Tensor, Tensor]]:
        """(name, label, winners) in the order of submission, so many that no more than `room` wait."""
        done = []
        while self.waiting and (everything or len(self.waiting) > self.room):
            name, label, future = self.waiting.pop(0)
            done.append((name, label, torch.from_numpy(future.result())))
        return done

    def close(self) -> None:
        """End the processes."""
        self.pool.shutdown(cancel_futures=True)
