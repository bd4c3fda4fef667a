"""A segmentation in bands against torch's resizing of the whole; classes of merged clusters; pictures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from stego_dist.inference import segmentation as module
from stego_dist.inference.names import NamedClass, changed_names, default_names
from stego_dist.inference.segmentation import Segmentation


def made(*, clusters=6, grid=(5, 7), size=(83, 111), extent=None, names=None, linear=False, seed=0):
    rng = torch.Generator().manual_seed(seed)
    scores = torch.randn(clusters, *grid, generator=rng)
    lengths = None if linear else scores.norm(dim=0) + 0.1
    return Segmentation(scores, lengths, size, extent or grid, names or default_names(clusters))


def resized(maps, segmentation):
    """The same by interpolate, where the image takes the whole grid."""
    return F.interpolate(maps[None], segmentation.size, mode="bilinear", align_corners=False)[0]


@pytest.fixture(autouse=True)
def small_bands(monkeypatch):
    """Several bands of few rows."""
    monkeypatch.setattr(module, "BAND", 6 * 111 * 20)


def test_bands_equal_one_resizing_of_everything():
    s = made()
    assert len(list(s.bands())) == 6
    wanted = resized(s.scores, s)
    assert np.mean(s.clusters != wanted.argmax(0).numpy()) < 1e-3
    cosines = wanted / resized(s.lengths[None], s)
    two = cosines.topk(2, 0).values
    np.testing.assert_allclose(s.confidence, (two[0] - two[1]).clamp(0, 1), atol=1e-5)
    np.testing.assert_allclose(s.probabilities, (2 * cosines).softmax(0), atol=1e-5)
    np.testing.assert_allclose(s.log_probabilities(*s.size), (2 * cosines).log_softmax(0), atol=1e-5)


@pytest.mark.parametrize("grid,size", [((1, 1), (9, 4)), ((5, 7), (5, 7)), ((9, 8), (3, 2)), ((2, 3), (40, 1))])
def test_any_grid_meets_any_size(grid, size):
    s = made(grid=grid, size=size)
    found = torch.from_numpy(s.probabilities)
    cosines = resized(s.scores, s) / resized(s.lengths[None], s)
    assert torch.allclose(found, (2 * cosines).softmax(0), atol=1e-5)


def test_what_was_padded_does_not_show():
    """An image that takes 4.25 by 6.5 positions is the upper left part of one that takes 5 by 7."""
    s = made(grid=(5, 7), size=(34, 52), extent=(4.25, 6.5))
    padded = resized(s.scores, replace(s, size=(40, 56)))[:, :34, :52]
    assert np.array_equal(s.clusters, padded.argmax(0).numpy().astype(np.int16))


@pytest.mark.parametrize("linear", [False, True])
def test_probabilities_are_some_and_labels_their_winners(linear):
    s = made(linear=linear)
    np.testing.assert_allclose(s.probabilities.sum(0), 1, atol=1e-5)
    assert np.array_equal(s.probabilities.argmax(0), s.labels)
    assert s.confidence.min() >= 0 and s.confidence.max() <= 1
    np.testing.assert_allclose(s.grid_probabilities.sum(0), 1, atol=1e-5)
    if linear:
        two = np.sort(s.probabilities, 0)[-2:]
        np.testing.assert_allclose(s.confidence, two[1] - two[0], atol=1e-5)


@pytest.mark.parametrize("linear", [False, True])
def test_clusters_of_one_name_do_not_compete(linear):
    plain = made(linear=linear)
    merged = plain.renamed(changed_names(plain.names, ["1=road", "4=road", "5=road"]))
    place = merged.names.of_cluster[1]
    assert np.array_equal(merged.clusters, plain.clusters)
    assert np.array_equal(merged.labels == place, np.isin(plain.labels, [1, 4, 5]))
    np.testing.assert_allclose(merged.probabilities.sum(0), 1, atol=1e-5)
    np.testing.assert_allclose(merged.probabilities[place], plain.probabilities[[1, 4, 5]].sum(0), atol=1e-5)
    np.testing.assert_allclose(merged.grid_probabilities[place], plain.grid_probabilities[[1, 4, 5]].sum(0), atol=1e-5)
    if not linear:
        cosines = (resized(plain.scores, plain) / resized(plain.lengths[None], plain)).numpy()
        classes = np.stack([cosines[0], cosines[[1, 4, 5]].max(0), cosines[2], cosines[3]])
        two = np.sort(classes, 0)[-2:]
        np.testing.assert_allclose(merged.confidence, np.clip(two[1] - two[0], 0, 1), atol=1e-5)


def test_one_class_is_certain():
    names = changed_names(default_names(6), [f"{i}=all" for i in range(6)])
    s = made(names=names)
    assert s.shares() == {"all": 1.0}
    assert s.confidences() == {"all": 1.0}


def test_shares_and_confidences_are_those_of_the_pixels():
    s = made()
    for i, c in enumerate(s.names.classes):
        mine = s.labels == i
        if mine.any():
            assert s.shares()[c.name] == pytest.approx(mine.mean())
            assert s.confidences()[c.name] == pytest.approx(s.confidence[mine].mean(), abs=1e-5)
        else:
            assert c.name not in s.shares()
    assert sum(s.shares().values()) == pytest.approx(1)


def test_what_a_crf_found_counts_and_may_be_smaller():
    s = made()
    full = np.random.default_rng(0).integers(0, 6, s.size).astype(np.int16)
    assert np.array_equal(replace(s, refined=full).labels, full)
    small = np.array([[0, 1], [2, 3]], np.int16)
    labels = replace(s, refined=small).labels
    assert np.array_equal(labels[[0, 0, 82, 82], [0, 110, 0, 110]], [0, 1, 2, 3])
    assert set(replace(s, refined=small).shares()) == {f"cluster {i}" for i in range(4)}


def test_the_index_picture_has_ids_and_palette():
    s = made()
    picture = s.index_image()
    assert picture.mode == "P"
    assert np.array_equal(np.array(picture), s.labels)
    assert np.array_equal(np.array(picture.convert("RGB")), s.colours())
    for i, c in enumerate(s.names.classes):
        assert picture.getpalette()[3 * i : 3 * i + 3] == list(c.colour)


def test_more_classes_than_a_palette_has():
    s = made(clusters=300, size=(20, 20), grid=(20, 20))
    assert np.array_equal(np.array(s.index_image()), s.labels)
    assert s.labels.max() > 255


def test_the_overlay_is_colours_over_the_image():
    image = np.random.default_rng(0).integers(0, 255, (83, 111, 3)).astype(np.uint8)
    s = replace(made(), image=image)
    assert np.array_equal(np.array(s.overlay(0.0)), image)
    assert np.array_equal(np.array(s.overlay(1.0)), s.colours())
    half = np.array(s.overlay(0.5)).astype(int)
    np.testing.assert_allclose(half, (image.astype(int) + s.colours()) / 2, atol=1)
    assert isinstance(s.overlay(), Image.Image)
    with pytest.raises(ValueError, match="without keeping"):
        made().overlay()


def test_names_change_without_another_forward():
    s = made()
    renamed = s.renamed(replace(s.names, classes=(NamedClass("a", (1, 2, 3)), *s.names.classes[1:])))
    assert np.array_equal(renamed.labels, s.labels)
    assert renamed.names.classes[0].name == "a"
