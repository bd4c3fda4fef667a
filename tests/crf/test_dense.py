"""The dense CRF, by the library and by torch, against the published figures and against each other."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stego_dist.crf.backends import choose_backend, winners
from stego_dist.crf.dense import dense_crf, dense_crfs
from stego_dist.crf.mean_field import mean_field
from stego_dist.errors import ConfigError


def scene(height: int, width: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """An image of soft and hard edges with noise, and smooth log-probabilities (K, H, W)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    image = np.stack([100 + 90 * np.sin(x / (5 + 4 * c + seed)) * np.cos(y / 9) for c in range(3)], -1)
    image[(x - width / 3) ** 2 + (y - height / 2) ** 2 < (height / 4) ** 2] = rng.integers(0, 255, 3)
    image = np.clip(image + rng.normal(0, 12, image.shape), 0, 255).astype(np.uint8)
    coarse = torch.from_numpy(rng.normal(0, 2, (1, classes, 6, 7)).astype(np.float32))
    logits = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")[0]
    return image, logits.log_softmax(0).numpy()


def by_torch(image: np.ndarray, *maps: np.ndarray) -> list[np.ndarray]:
    batches = [torch.from_numpy(m)[None] for m in maps]
    return [q[0].numpy() for q in mean_field(torch.from_numpy(image)[None], batches)]


@pytest.mark.parametrize("refine", [dense_crf, lambda image, log_probs: by_torch(image, log_probs)[0]])
def test_golden(golden, refine):
    case = golden("dense_crf")
    q = refine(case["image_bgr_as_used"], case["log_probs"])
    assert (q.argmax(0) == case["out_argmax"]).mean() >= 0.999
    assert np.abs(q - case["out_q"]).max() <= 5e-3
    assert np.array_equal(q, refine(case["image_bgr_as_used"], case["log_probs"]))


@pytest.mark.parametrize(("height", "width", "classes"), [(64, 80, 3), (51, 67, 12), (50, 63, 2), (33, 35, 27)])
def test_torch_agrees_with_the_library(height, width, classes):
    """Also where the number of pixels is no multiple of 4, which the library fills up."""
    image, log_probs = scene(height, width, classes, seed=classes)
    expected, found = dense_crf(image, log_probs), by_torch(image, log_probs)[0]
    assert (found.argmax(0) == expected.argmax(0)).mean() >= 0.999
    assert np.abs(found - expected).max() <= 1e-3
    assert (expected.argmax(0) != log_probs.argmax(0)).mean() > 0.01  # the CRF does something


def test_several_maps_share_their_lattices_and_may_differ_in_classes():
    image, few = scene(40, 44, 3, seed=1)
    _, many = scene(40, 44, 9, seed=2)
    alone = [dense_crf(image, few), dense_crf(image, many)]
    for together in (dense_crfs(image, [few, many]), by_torch(image, few, many)):
        for q, expected in zip(together, alone):
            assert q.shape == expected.shape
            np.testing.assert_allclose(q, expected, atol=1e-4)
    assert np.array_equal(dense_crfs(image, [many, many])[1], alone[1])


def test_torch_refines_images_of_a_batch_as_it_does_each():
    scenes = [scene(30, 41, 5, seed) for seed in range(3)]
    images = torch.from_numpy(np.stack([image for image, _ in scenes]))
    together = mean_field(images, [torch.from_numpy(np.stack([m for _, m in scenes]))])[0]
    for (image, log_probs), q in zip(scenes, together.numpy()):
        np.testing.assert_allclose(q, by_torch(image, log_probs)[0], atol=1e-5)


def test_a_confident_class_does_not_overflow():
    image = np.zeros((16, 16, 3), np.uint8)
    log_probs = np.full((3, 16, 16), -1e4, np.float32)
    log_probs[1] = 0
    q = by_torch(image, log_probs)[0]
    assert np.isfinite(q).all() and (q.argmax(0) == 1).all()


def test_sizes_must_agree():
    with pytest.raises(ValueError, match=r"image is \(4, 5, 3\)"):
        dense_crf(np.zeros((4, 5, 3), np.uint8), np.zeros((2, 5, 4), np.float32))
    with pytest.raises(ValueError, match=r"a map is \(1, 2, 5, 4\)"):
        by_torch(np.zeros((4, 5, 3), np.uint8), np.zeros((2, 5, 4), np.float32))


def test_the_backend_follows_the_device_and_what_is_installed(monkeypatch):
    assert choose_backend("auto", "cpu") == "library" and choose_backend("auto", "cuda") == "torch"
    assert choose_backend("torch", "cpu") == "torch" and choose_backend("library", "cuda") == "library"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert choose_backend("auto", "cpu") == "torch"
    with pytest.raises(ConfigError, match=r"pydensecrf2 .* eval\.crf_backend=torch"):
        choose_backend("library", "cpu")


def test_backends_find_the_same_winners():
    image, log_probs = scene(40, 44, 6, seed=3)
    (library,), (torch_) = winners("library", image, [log_probs]), winners("torch", image, [log_probs])[0]
    assert library.dtype == np.int16 and (library == torch_).mean() >= 0.999
