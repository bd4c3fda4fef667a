from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import scipy.stats
import torch
from torchvision.transforms.functional import five_crop

from stego_dist.data.crops import crop_boxes


def cut(image: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    left, top, right, bottom = box
    return image[top:bottom, left:right]


def test_five_crop_is_the_published_one(golden):
    case = golden("five_crop")
    image = case["image_uint8"]
    boxes = crop_boxes(image.shape[1], image.shape[0], "five", float(case["ratio"]), 0, "any")
    np.testing.assert_array_equal(np.stack([cut(image, box) for box in boxes]), case["out_crops"])


@pytest.mark.parametrize("size", [(7, 5), (10, 11), (33, 34), (640, 427)])
@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.77, 1.0])
def test_five_crop_is_torchvisions(size, ratio):
    width, height = size
    image = np.arange(width * height, dtype=np.int64).reshape(height, width)
    expected = five_crop(torch.from_numpy(image)[None], (int(height * ratio), int(width * ratio)))
    boxes = crop_boxes(width, height, "five", ratio, 0, "")
    for box, crop in zip(boxes, expected, strict=True):
        np.testing.assert_array_equal(cut(image, box), crop[0].numpy())


def test_none_is_the_whole_image():
    assert crop_boxes(30, 20, "none", 0.5, 0, "a") == [(0, 0, 30, 20)]


def test_random_boxes_depend_on_seed_and_key_alone():
    here = crop_boxes(100, 60, "random", 0.4, 3, "é x")
    code = "from stego_dist.data.crops import crop_boxes; print(crop_boxes(100, 60, 'random', 0.4, 3, 'é x'))"
    env = {"PYTHONHASHSEED": "123", "PYTHONPATH": ":".join(sys.path), "PYTHONUTF8": "1"}
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    assert there.stdout.strip() == str(here)
    assert here != crop_boxes(100, 60, "random", 0.4, 4, "é x")
    assert here != crop_boxes(100, 60, "random", 0.4, 3, "é y")
    assert len({*here}) == 5


def test_random_boxes_fill_the_image_evenly():
    boxes = np.array([b for i in range(2000) for b in crop_boxes(30, 20, "random", 0.5, 0, str(i))])
    assert (boxes[:, 2] - boxes[:, 0] == 15).all() and (boxes[:, 3] - boxes[:, 1] == 10).all()
    for axis, room in ((0, 15), (1, 10)):
        counts = np.bincount(boxes[:, axis], minlength=room + 1)
        assert counts.size == room + 1
        expected = len(boxes) / (room + 1)
        chi2 = ((counts - expected) ** 2 / expected).sum()
        assert chi2 < scipy.stats.chi2.ppf(0.999, room)


def test_a_crop_has_at_least_a_pixel():
    for crops in ("five", "random"):
        assert all(r > left and b > t for left, t, r, b in crop_boxes(1, 1, crops, 0.3, 0, ""))
