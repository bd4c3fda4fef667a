"""Batches of images of different sizes: each image once, one size a batch, a bounded number waiting."""

from __future__ import annotations

import random

import torch

from stego_dist.engine.views import HELD, batches_by_size


def test_each_image_once_in_batches_of_one_size():
    rng = random.Random(0)
    views = [(i, torch.zeros(3, 4, rng.choice([4, 5, 6, 7])), torch.zeros(4, 4)) for i in range(200)]
    loaded = [views[i : i + 5] for i in range(0, 200, 5)]
    read, seen = 0, []

    def counted():
        nonlocal read
        for items in loaded:
            read += len(items)
            yield items

    for ids, images, labels in batches_by_size(counted(), 5):
        assert len(ids) == len(images) == len(labels) <= 5
        assert all(views[i][1].shape == images.shape[1:] for i in ids)
        seen += ids
        assert read - len(seen) <= HELD * 5 + 5
    assert sorted(seen) == list(range(200))


def test_many_sizes_do_not_pile_up():
    views = [[(i, torch.zeros(3, 4, 4 + i), None)] for i in range(100)]
    read, given = 0, 0

    def counted():
        nonlocal read
        for items in views:
            read += 1
            yield items

    for ids, _, labels in batches_by_size(counted(), 2):
        given += len(ids)
        assert labels is None and read - given <= HELD * 2 + 1
    assert given == 100
