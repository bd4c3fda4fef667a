from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision.transforms as tv
from PIL import Image
from torchvision.transforms import InterpolationMode

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
