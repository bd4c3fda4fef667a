"""Batches of features: what the backbone gives, in order, decoded ahead by threads, and refused where not finite."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from stego_dist.errors import UserError
from stego_dist.features.embed import Recipe, embed_samples

N, SIDE = 23, 8
RECIPE = Recipe(batch_size=5, autocast=None, descriptors="float32", bank=True, threads=3)
SOURCES = np.arange(N) // 2
generator = torch.Generator().manual_seed(0)
IMAGES = torch.randint(0, 256, (N, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator)
LABELS = torch.randint(0, 4, (N, SIDE, SIDE), dtype=torch.uint8, generator=generator)
WEIGHT = torch.randn(6, 3, 4, 4, generator=generator)


def backbone(images: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.conv2d(images.float() / 255, WEIGHT, stride=4)


def run(recipe=RECIPE, samples=range(N), view=lambda i: (IMAGES[i], LABELS[i]), backbone=backbone):
    return embed_samples(
        recipe, samples, view=view, sources=SOURCES, backbone=backbone, device=torch.device("cpu"),
        describe="sample {}".format,
    )  # fmt: skip


@pytest.mark.parametrize("samples", [range(N), range(7, 9), range(5, 20)])
def test_batches_in_order_are_what_the_backbone_gives(samples):
    batches = list(run(samples=samples))
    assert [len(batch.source) for batch in batches[:-1]] == [5] * (len(batches) - 1)
    feats = backbone(IMAGES[samples.start : samples.stop])
    pooled = feats.double().mean((2, 3))
    expected = {
        "bank": feats.half().numpy(),
        "labels": LABELS[samples.start : samples.stop].numpy(),
        "source": SOURCES[samples.start : samples.stop],
    }
    for name, values in expected.items():
        np.testing.assert_array_equal(np.concatenate([getattr(batch, name) for batch in batches]), values)
    found = np.concatenate([batch.descriptors for batch in batches])
    np.testing.assert_allclose(found, pooled / pooled.norm(dim=1, keepdim=True), atol=1e-6)


def test_descriptors_alone_in_float16():
    for batch in run(replace(RECIPE, bank=False, descriptors="float16")):
        assert batch.bank is None and batch.labels is None and batch.descriptors.dtype == np.float16


def test_autocast_reaches_the_backbone():
    seen = []
    list(run(replace(RECIPE, autocast=torch.bfloat16), backbone=lambda x: seen.append(backbone(x)) or seen[-1]))
    assert {feats.dtype for feats in seen} == {torch.bfloat16}


def test_samples_are_read_by_threads_ahead_but_not_far():
    read, reading = [], threading.Barrier(3)

    def view(i):
        if i in (5, 6, 7):
            reading.wait(10)  # the three threads come together
        read.append((i, threading.current_thread()))
        return IMAGES[i], None

    seen = []
    for _ in run(view=view, backbone=lambda x: seen.append(len(read)) or backbone(x)):
        pass
    assert len({thread for _, thread in read}) == 3 and threading.current_thread() not in {t for _, t in read}
    assert sorted(i for i, _ in read) == list(range(N))
    assert all(count <= (number + 3) * 5 for number, count in enumerate(seen))


def test_what_reading_raises_is_raised_and_reading_ends():
    def view(i):
        if i == 12:
            raise UserError("sample 12 is broken")
        return IMAGES[i], None

    with pytest.raises(UserError, match="sample 12 is broken"):
        list(run(view=view))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


@pytest.mark.parametrize(("value", "bank"), [(float("nan"), False), (float("inf"), True), (1e6, True)])
def test_features_that_are_not_finite_name_the_sample(value, bank):
    def broken(images):
        feats = backbone(images)
        if len(images) == 3:  # the last batch
            feats[1, 0, 0, 0] = value
        return feats

    with pytest.raises(UserError, match=r"sample 21: the backbone's features are not finite"):
        list(run(replace(RECIPE, bank=bank), backbone=broken))
