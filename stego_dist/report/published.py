"""Published results that are printed beside ours (unsupervised and linear-probe accuracy and mIoU, percent).

Rows whose numbers were taken from later papers' tables and not checked against their source say so. STEGO's rows
include CRF refinement.
"""

from __future__ import annotations

from dataclasses import dataclass

HAMILTON = "Hamilton et al., ICLR 2022"
QUOTED = "as quoted by later papers, not checked"


@dataclass(frozen=True)
class PublishedRow:
    """A row of somebody's table; None where it is not given."""

    method: str
    backbone: str
    accuracy: float | None
    miou: float | None
    linear_accuracy: float | None
    linear_miou: float | None
    source: str


PUBLISHED: dict[str, tuple[PublishedRow, ...]] = {
    "cocostuff27": (
        PublishedRow("ResNet-50", "ResNet-50", 24.6, 8.9, 41.3, 10.2, QUOTED),
        PublishedRow("MoCo v2", "ResNet-50", 25.2, 10.4, 44.4, 13.2, QUOTED),
        PublishedRow("DINO", "ViT-S/8", 28.7, 11.3, 68.6, 33.9, QUOTED),
        PublishedRow("DINO", "ViT-B/8", 30.5, 9.6, 66.8, 29.4, QUOTED),
        PublishedRow("PiCIE", "ResNet-18", 48.1, 13.8, 54.2, 13.9, HAMILTON),
        PublishedRow("PiCIE+H", "ResNet-18", 50.0, 14.4, 54.8, 14.8, QUOTED),
        PublishedRow("STEGO", "DINO ViT-S/8", 48.3, 24.5, 74.4, 38.3, HAMILTON),
        PublishedRow("STEGO", "DINO ViT-B/8", 56.9, 28.2, 76.1, 41.0, HAMILTON),
    ),
    "cityscapes27": (
        PublishedRow("DINO", "ViT-S/8", 34.5, 10.9, 84.6, 22.8, QUOTED),
        PublishedRow("DINO", "ViT-B/8", 43.6, 11.8, 84.2, 23.0, QUOTED),
        PublishedRow("PiCIE", "ResNet-18", 65.5, 12.3, None, None, HAMILTON),
        PublishedRow("STEGO", "DINO ViT-S/8", 69.8, 17.6, None, None, HAMILTON),
        PublishedRow("STEGO", "DINO ViT-B/8", 73.2, 21.0, 90.3, 26.8, HAMILTON),
    ),
    "potsdam3": (
        PublishedRow("DINO", "ViT-B/8", 53.0, None, None, None, QUOTED),
        PublishedRow("STEGO", "DINO ViT-B/8", 77.0, None, None, None, HAMILTON),
    ),
}
"""By the name of the dataset card."""
