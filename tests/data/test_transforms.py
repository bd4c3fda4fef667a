from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision.transforms as tv
from PIL import Image
from torchvision.transforms import InterpolationMode

from stego_dist.data import transforms
from stego_dist.data.transforms import label_view, to_training_view

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
RNG = np.random.default_rng(1)


def test_nearest_view_is_the_published_one(golden):
    case = golden("transform")
    view = to_training_view(Image.fromarray(case["image_uint8"]), int(case["res"]), "nearest")
    normalised = (view / 255 - MEAN[:, None, None]) / STD[:, None, None]
    np.testing.assert_allclose(normalised.numpy(), case["out_image"], rtol=1e-5, atol=1e-5)
    label = label_view(case["label_uint8"], int(case["res"]))
    np.testing.assert_array_equal(label[None].numpy(), case["out_label"])


@pytest.mark.parametrize("size", [(50, 40), (40, 51), (33, 97), (64, 64), (20, 31)])
@pytest.mark.parametrize(
    ("name", "mode"), [("bilinear", InterpolationMode.BILINEAR), ("nearest", InterpolationMode.NEAREST)]
)
def test_geometry_is_torchvisions(size, name, mode):
    image = Image.fromarray(RNG.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    expected = tv.Compose([tv.Resize(32, mode), tv.CenterCrop(32), tv.PILToTensor()])(image)
    view = to_training_view(image, 32, name)
    assert view.dtype == torch.uint8 and view.is_contiguous()
    assert torch.equal(view, expected)


@pytest.mark.parametrize("size", [(50, 40), (40, 51), (20, 31)])
def test_labels_follow_the_image_and_keep_their_ids(size):
    ids = RNG.choice(np.array([0, 5, 255], np.uint8), (size[1], size[0]))
    label = label_view(ids, 32)
    assert label.dtype == torch.uint8 and set(label.unique().tolist()) <= {0, 5, 255}
    image = Image.fromarray(ids[..., None].repeat(3, 2))
    assert torch.equal(label, to_training_view(image, 32, "nearest")[0])


def test_bilinear_shrinking_averages():
    board = Image.fromarray((np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)[..., None].repeat(3, 2))
    view = to_training_view(board, 16, "bilinear")
    assert (view.float() - 127.5).abs().max() < 8
    assert to_training_view(board, 16, "nearest").unique().numel() <= 2


def smooth(size: tuple[int, int]) -> Image.Image:
    x, y = np.meshgrid(np.linspace(0, 40, size[0]), np.linspace(0, 30, size[1]))
    noise = RNG.normal(0, 20, (size[1], size[0]))
    return Image.fromarray(np.clip(np.sin(x + y) * 90 + 128 + noise, 0, 255).astype(np.uint8)[..., None].repeat(3, 2))


@pytest.mark.parametrize("size", [(1300, 40), (40, 1301), (31, 700), (2000, 100), (9, 333)])
@pytest.mark.parametrize("resize", ["bilinear", "nearest"])
def test_resizing_the_square_alone_is_the_same_up_to_rounding(monkeypatch, size, resize):
    image = smooth(size)
    alone = to_training_view(image, 32, resize)
    monkeypatch.setattr(transforms, "MAX_ASPECT", 10**6)
    whole = to_training_view(image, 32, resize)
    difference = (alone.int() - whole.int()).abs()
    if resize == "bilinear":
        assert difference.max() <= 1
    else:
        assert (difference > 0).float().mean() < 0.01  # a coordinate may lie on the edge between two pixels


@pytest.mark.parametrize("size", [(1, 100_000), (100_000, 1), (3, 60_000), (1, 1)])
def test_extreme_shapes_take_no_more_memory_than_their_square(size):
    image = Image.new("RGB", size, (10, 20, 30))
    for resize in ("bilinear", "nearest"):
        view = to_training_view(image, 224, resize)
        assert view.shape == (3, 224, 224) and view[:, 100, 100].tolist() == [10, 20, 30]
    label = np.full(size[::-1], 7, np.uint8)
    assert label_view(label, 224).unique().tolist() == [7]
