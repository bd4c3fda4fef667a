"""A dry run's estimate against what is then built: within a factor of 1.5."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from stego_dist.data.card import Card
from stego_dist.data.pack import build
from stego_dist.data.plan import BuildOptions, plan_build
from stego_dist.quickstart.landscapes import draw

FACTOR = 1.5


@pytest.fixture(scope="module", params=["jpg", "png"])
def landscapes(request, tmp_path_factory) -> Path:
    """Landscapes of different sizes."""
    root = tmp_path_factory.mktemp(request.param)
    for number in range(20):
        image, label = draw(number)
        side = 320 - 6 * number
        for kind, pixels, suffix in (("imgs", image, request.param), ("labels", label, "png")):
            path = root / kind / "train" / f"{number:02d}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).resize((side, side * 3 // 4), Image.Resampling.NEAREST).save(path)
    return root


@pytest.mark.parametrize(
    "options",
    [
        BuildOptions(),
        BuildOptions(crops="five"),
        BuildOptions(crops="random", ratio=0.8),
        BuildOptions(max_side=120),
        BuildOptions(max_side=200, crops="five", quality=70),
        BuildOptions(min_shards=2, shard_bytes=2**17),
    ],
    ids=lambda options: f"{options.crops} {options.ratio} {options.max_side} {options.min_shards}",
)
def test_a_plan_says_what_is_built(landscapes, tmp_path, options):
    card = Card(name="made", title="Made", images="imgs/{split}", labels="labels/{split}")
    plan = plan_build(card, landscapes, tmp_path / "out", options, ["train"])
    assert not (tmp_path / "out").exists()
    split = build(card, landscapes, tmp_path / "out", options, ["train"]).split("train")
    said = plan.estimates["train"]
    assert (said.images, said.samples, said.shards) == (split.num_images, split.num_samples, len(split.shards))
    assert 1 / FACTOR < said.bytes / split.bytes < FACTOR
    assert plan.estimated_bytes == said.bytes
    if options.min_shards == 2:  # enough: a shard has about the size that was asked for
        assert len(split.shards) > 2
        assert all(options.shard_bytes / 2.5 < shard.bytes < options.shard_bytes * 2 for shard in split.shards)


def test_damaged_images_do_not_disturb_the_estimate(landscapes, tmp_path):
    card = Card(name="made", title="Made", images="imgs/{split}", labels="labels/{split}")
    whole = plan_build(card, landscapes, tmp_path, BuildOptions(crops="five"), ["train"])
    damaged = tmp_path / "damaged"
    for path in landscapes.rglob("*.*"):
        copy = damaged / path.relative_to(landscapes)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(b"" if path.parent.parent.name == "imgs" and path.stem in ("00", "03") else path.read_bytes())
    plan = plan_build(card, damaged, tmp_path, BuildOptions(crops="five"), ["train"])
    assert abs(plan.estimated_bytes / whole.estimated_bytes - 1) < 0.2
    for path in (damaged / "imgs/train").iterdir():
        path.write_bytes(b"nothing")
    assert plan_build(card, damaged, tmp_path, BuildOptions(), ["train"]).estimated_bytes > 0
