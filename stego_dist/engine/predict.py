"""Maps of one batch: cluster and class predictions at the size of the labels.

The order of work is the published one up to algebra: a linear probe commutes with bilinear resizing, and the winner of
a cosine does not depend on the code's norm, so K maps are resized instead of the code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from stego_dist.config import Config
from stego_dist.engine.inputs import training_precision
from stego_dist.engine.seen import Seen
from stego_dist.metrics.cells import LabelCells, count_resized, cut_labels
from stego_dist.metrics.confusion import confusion
from stego_dist.models.probes import LinearProbe
from stego_dist.models.segmenter import Segmenter, averaged_code, resize_maps

CLUSTERS = ("kmeans", "learned")
LINEAR = "linear"
CONVERGED = "linear_converged"
SHARPNESS = 2.0
"""Published: the cluster probe's log-probabilities are log softmax(2·cosine)."""

Readouts = Mapping[str, Tensor | LinearProbe]
"""What is read out of codes beside the segmenter's own probes, by name: centres (K, C) of clusters, or a probe."""


@dataclass(frozen=True)
class Maps:
    """Predictions of a batch at size (H, W), by name: "kmeans", "learned", "linear"; resized when asked for."""

    code: Tensor
    scores: dict[str, Tensor]
    """float32 (B, K, h, w) at the size of the code: class logits, or products of the code with unit centres."""
    clusters: Mapping[str, int]
    """Names of those that are clusters, and how many channels of the code they read."""
    size: tuple[int, int]
    padded: tuple[int, int]
    """Size that the code belongs to, of which (H, W) is the upper left part."""

    def argmax(self, name: str) -> Tensor:
        """Winning cluster or class, int64 (B, H, W)."""
        return self._resized(self.scores[name]).argmax(1)

    def log_probs(self, name: str) -> Tensor:
        """Published log-probabilities (B, K, H, W), the CRF's unary."""
        scores = self._resized(self.scores[name])
        if name in self.clusters:
            norm = resize_maps(self.code[:, : self.clusters[name]], self.padded).norm(dim=1, keepdim=True)
            scores = SHARPNESS * scores / norm[..., : self.size[0], : self.size[1]].clamp(min=1e-12)
        return scores.log_softmax(1)

    def counts(self, labels: Tensor | None, classes: int, cells: LabelCells | None = None) -> dict[str, Tensor]:
        """Counts int64 (B, K, C) of every name on each image: winner by label, signed (B, H, W); without labels C = 1
        and all pixels are counted. `cells`: the same labels cut for these codes, where that is done."""
        if labels is None:
            labels, classes = self.code.new_zeros((len(self.code), *self.size), dtype=torch.int16), 1
        cells = cells or cut_labels(labels, classes, (self.code.shape[2], self.code.shape[3]), self.padded)
        if cells is not None:
            return {name: count_resized(scores, cells) for name, scores in self.scores.items()}
        return {
            name: torch.stack(
                [confusion(p, label, scores.shape[1], classes) for p, label in zip(self.argmax(name), labels)]
            )
            for name, scores in self.scores.items()
        }

    def of(self, places: list[int]) -> Maps:
        """The maps of some images of the batch."""
        scores = {name: scores[places] for name, scores in self.scores.items()}
        return replace(self, code=self.code[places], scores=scores)

    def _resized(self, small: Tensor) -> Tensor:
        return resize_maps(small, self.padded)[..., : self.size[0], : self.size[1]]


def predict_seen(
    config: Config, segmenter: Segmenter, seen: Seen, clusters: Sequence[str], more: Readouts | None = None
) -> Maps:
    """Maps of a batch as the section `eval` says, at the size of its images (see `predict_maps`)."""
    with training_precision(config, seen.feats.device):
        code = averaged_code(segmenter.encode, seen.feats, config.eval.flip)
    return predict_maps(segmenter, code, seen.size, clusters, more, seen.padded)


@torch.no_grad()
def predict_maps(
    segmenter: Segmenter,
    code: Tensor,
    size: tuple[int, int],
    clusters: Sequence[str],
    more: Readouts | None = None,
    padded: tuple[int, int] | None = None,
) -> Maps:
    """Maps of codes (B, C, h, w) at `size`, of the named clusters, the linear probe if there is one, and `more`.

    padded: the size of the images that the codes are of, where they were padded below and to the right of `size`.
    """
    readouts: dict[str, Tensor | LinearProbe] = {name: segmenter.centres(name) for name in clusters}
    if segmenter.linear is not None:
        readouts[LINEAR] = segmenter.linear
    readouts |= more or {}
    scores: dict[str, Tensor] = {}
    widths: dict[str, int] = {}
    for name, readout in readouts.items():
        if isinstance(readout, LinearProbe):
            scores[name] = readout(code[:, : readout.conv.in_channels])
        else:
            widths[name] = readout.shape[1]
            scores[name] = torch.einsum("bchw,kc->bkhw", code[:, : widths[name]], F.normalize(readout, dim=1))
    return Maps(code, scores, widths, size, padded or size)
