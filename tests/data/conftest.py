"""A made data set: coloured blocks with their ids as labels, in the layout of the `folder` card."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stego_dist.data.card import Card

CLASSES = ["sky", "ground", "tree"]


@pytest.fixture
def card() -> Card:
    return Card(name="made", title="Made", images="imgs/{split}", labels="labels/{split}", classes=CLASSES)


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., Path]:
    """Write `count` images (and labels) of a split into a folder; return the folder."""

    def make(
        count: int = 6,
        split: str = "train",
        labels: bool = True,
        size: tuple[int, int] = (48, 32),
        name: str = "img {:02d} é",
        root: str = "raw",
    ) -> Path:
        rng = np.random.default_rng(count)
        for i in range(count):
            ids = np.kron(rng.integers(0, len(CLASSES), (4, 4)), np.ones((size[1] // 4, size[0] // 4))).astype(np.uint8)
            pixels = (ids[..., None] * np.array([60, 80, 100]) + 20).astype(np.uint8)
            ids[0, 0] = 255
            image = tmp_path / root / "imgs" / split / f"{name.format(i)}.jpg"
            image.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(image, quality=95)
            if labels:
                label = tmp_path / root / "labels" / split / f"{name.format(i)}.png"
                label.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(ids).save(label)
        return tmp_path / root

    return make
