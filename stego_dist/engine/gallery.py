"""What to look at after an evaluation: the best, median and worst images; without labels, what each cluster holds.

In: the counts of single images that the evaluation kept. A few images are predicted once more, on the main process, for
their pictures. Out: panels, and the numbers that go with them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from stego_dist.config import Config
from stego_dist.data.samples import ShardSamples
from stego_dist.engine.evaluate import Evaluation
from stego_dist.engine.mirror import MIRRORED, agreement, stability
from stego_dist.engine.panel import Panel, as_ids, make_panels, refined_beside
from stego_dist.engine.per_image import RANKS, choose, evenly, image_scores, largest_in, quantiles
from stego_dist.engine.predict import LINEAR, predict_seen
from stego_dist.engine.refine import make_refiner, refined_names
from stego_dist.engine.scoring import CRF
from stego_dist.engine.seen import EvaluationFeatures
from stego_dist.models.backbone import Backbone
from stego_dist.models.segmenter import Segmenter

EXAMPLES, SHOWN_CLUSTERS = 4, 64
"""Images of a cluster's contact sheet, and clusters that have one, the largest first."""


class Gallery:
    """Predicts single images of the evaluated split again, as the evaluation did."""

    def __init__(
        self, config: Config, samples: ShardSamples, backbone: Backbone, segmenter: Segmenter, device: torch.device,
        results: Mapping[str, Any],
    ) -> None:  # fmt: skip
        self.config, self.samples, self.device = config, samples, device
        self.segmenter = segmenter
        self.source = EvaluationFeatures(config, samples, backbone, device, crop=config.eval.crop)
        self.clusters, self.headline = tuple(results["largest_cluster"]), results["headline_clusters"]

    def add_ranked(self, evaluation: Evaluation) -> dict[str, Any]:
        """Put panels of the best, median and worst images before those that are there; returns what they score.

        A third as many of each as eval.panels, rounded up. No labelled pixel anywhere: an empty dictionary.
        """
        headline, wanted = self.headline, self.config.eval.panels
        ranked = image_scores(evaluation.image_counts, evaluation.matchings[headline].cluster_to_class)
        if not ranked:
            return {}
        scored = {score.id: score for score in ranked}
        chosen = choose(ranked, -(-wanted // len(RANKS)))
        panels = self.panels(sorted({score.id for part in chosen.values() for score in part}), refine=True)
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
        headline = self.headline
        shares = evaluation.results["cluster_shares"][headline]
        order = sorted(range(len(shares)), key=lambda cluster: (-shares[cluster], cluster))[:SHOWN_CLUSTERS]
        found = {cluster: largest_in(evaluation.image_counts, cluster, EXAMPLES) for cluster in order}
        if self.config.eval.panels:
            evaluation.examples = self.panels(sorted({i for images in found.values() for i, _ in images}), refine=False)
        examples = [
            {
                "cluster": cluster,
                "images": [{"id": i, "name": self.samples.name(i), "share": share} for i, share in images],
            }
            for cluster, images in found.items()
        ]
        joint = evaluation.mirrored[headline]
        return {
            "clusters": headline,
            "images": len(evaluation.image_counts),
            "stability": {
                "images": min(MIRRORED, len(self.samples)),
                "agreement": agreement(joint),
                "iou": stability(joint),
            },
            "examples": examples,
        }

    def panels(self, ids: Sequence[int], *, refine: bool) -> dict[int, Panel]:
        """Panels of images by their numbers; refine: with what the CRF makes of them, as far as eval.crf says so."""
        found: dict[int, Panel] = {}
        e = self.config.eval
        names = [*self.clusters, *([LINEAR] if self.segmenter.linear is not None else [])]
        refined = refined_names(e.crf, self.headline, names) if refine else []
        refiner = make_refiner(e, self.device) if refined and ids else None
        try:
            for seen in self.source.batches(ids, mirrored=e.flip, images=ids):
                maps = predict_seen(self.config, self.segmenter, seen, self.clusters)
                found |= make_panels(self.samples, seen, list(range(len(seen.ids))), maps, maps.scores)
                if refiner is not None:
                    images = seen.stacked().to(self.device)
                    refiner.submit(seen.ids, images, {name: maps.log_probs(name) for name in refined}, None)
            for i, name, _, winner in refiner.finished(everything=True) if refiner is not None else ():
                found[i].predictions[name + CRF] = as_ids(winner)
        finally:
            if refiner is not None:
                refiner.close()
        refined_beside(found)
        return found
