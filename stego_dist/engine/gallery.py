"""What to look at after an evaluation: the best, median and worst images; without labels, what each cluster holds.

In: the counts of single images that the evaluation kept. A few images are predicted once more, on the main process, for
their pictures. Out: panels, and the numbers that go with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from stego_dist.config import Config
from stego_dist.data.samples import ShardSamples
from stego_dist.engine.evaluate import Evaluation, Panel, make_panels
from stego_dist.engine.inputs import AUTOCAST
from stego_dist.engine.per_image import RANKS, choose, evenly, image_scores, largest_in, quantiles
from stego_dist.engine.predict import CLUSTERS, predict_maps
from stego_dist.engine.seen import EvaluationFeatures
from stego_dist.metrics.confusion import Matrix, confusion
from stego_dist.models.backbone import Backbone
from stego_dist.models.segmenter import Segmenter, averaged_code

EXAMPLES, SHOWN_CLUSTERS = 4, 64
"""Images of a cluster's contact sheet, and clusters that have one, the largest first."""
STABILITY_IMAGES = 64


class Gallery:
    """Predicts single images of the evaluated split again, as the evaluation did."""

    def __init__(
        self, config: Config, samples: ShardSamples, backbone: Backbone, segmenter: Segmenter, device: torch.device
    ) -> None:
        self.config, self.samples, self.device = config, samples, device
        self.segmenter = segmenter
        self.source = EvaluationFeatures(config, samples, backbone, device)

    def add_ranked(self, evaluation: Evaluation) -> dict[str, Any]:
        """Put panels of the best, median and worst images before those that are there; returns what they score.

        A third as many of each as eval.panels, rounded up. No labelled pixel anywhere: an empty dictionary.
        """
        headline, wanted = evaluation.results["headline_clusters"], self.config.eval.panels
        ranked = image_scores(evaluation.image_counts, evaluation.matchings[headline].cluster_to_class)
        if not ranked:
            return {}
        scored = {score.id: score for score in ranked}
        chosen = choose(ranked, -(-wanted // len(RANKS)))
        panels = self.panels(sorted({score.id for part in chosen.values() for score in part}))
        shown = [(score.id, replace(panels[score.id], rank=rank)) for rank, part in chosen.items() for score in part]
        shown += list(zip(evenly(len(self.samples), wanted), evaluation.panels))
        evaluation.panels, entries = [], []
        for i, panel in shown:
            score = scored.get(i)
            if score is not None:
                panel = replace(panel, accuracy=score.accuracy, miou=score.miou)
            evaluation.panels.append(panel)
            entry = {"id": i, "name": panel.name, "rank": panel.rank}
            entries.append(entry | {"accuracy": panel.accuracy, "miou": panel.miou})
        return {"clusters": headline, "images": len(ranked), **quantiles(ranked), "shown": entries}

    def add_examples(self, evaluation: Evaluation) -> dict[str, Any]:
        """Keep panels of the images in which each cluster is largest; returns which, and how stable clusters are."""
        headline = evaluation.results["headline_clusters"]
        shares = evaluation.results["cluster_shares"][headline]
        order = sorted(range(len(shares)), key=lambda cluster: (-shares[cluster], cluster))[:SHOWN_CLUSTERS]
        found = {cluster: largest_in(evaluation.image_counts, cluster, EXAMPLES) for cluster in order}
        if self.config.eval.panels:
            evaluation.examples = self.panels(sorted({i for images in found.values() for i, _ in images}))
        examples = [
            {
                "cluster": cluster,
                "images": [{"id": i, "name": self.samples.name(i), "share": share} for i, share in images],
            }
            for cluster, images in found.items()
        ]
        stability = self.stability(headline)
        return {
            "clusters": headline,
            "images": len(evaluation.image_counts),
            "stability": stability,
            "examples": examples,
        }

    @torch.no_grad()
    def panels(self, ids: Sequence[int]) -> dict[int, Panel]:
        """Panels of images by their numbers."""
        found: dict[int, Panel] = {}
        flip = self.config.eval.flip
        for seen in self.source.batches(ids, mirrored=flip, images=ids):
            with self._precision():
                code = averaged_code(self.segmenter.head, seen.feats, flip)
            maps = predict_maps(self.segmenter, code, seen.size, CLUSTERS)
            found |= make_panels(self.samples, seen, list(range(len(seen.ids))), maps, list(maps.scores))
        return found

    @torch.no_grad()
    def stability(self, clusters: str) -> dict[str, Any]:
        """How the clusters of images agree with those of their mirror images, position by position of the code.

        Of STABILITY_IMAGES images: the share that agrees, and for each cluster the IoU of either map, None where it
        is in neither.
        """
        count = self.segmenter.num_clusters
        joint: Matrix = np.zeros((count, count), np.int64)
        ids = evenly(len(self.samples), STABILITY_IMAGES)
        for seen in self.source.batches(ids, mirrored=True):
            with self._precision():
                straight, mirrored = self.segmenter.head(seen.feats).float().chunk(2)
            maps = [self.segmenter.cosines(code, clusters).argmax(1) for code in (straight, mirrored.flip(-1))]
            joint += confusion(maps[0], maps[1], count, count).cpu().numpy()
        union = joint.sum(0) + joint.sum(1) - np.diag(joint)
        return {
            "images": len(ids),
            "agreement": float(np.trace(joint) / joint.sum()),
            "iou": [float(both / of) if of else None for both, of in zip(np.diag(joint), union)],
        }

    def _precision(self) -> torch.autocast:
        dtype = AUTOCAST[self.config.train.precision]
        return torch.autocast(self.device.type, dtype, enabled=dtype is not None)
