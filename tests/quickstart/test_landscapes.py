"""The drawn landscapes: repeatable, exactly labelled, balanced, and not told apart by colour alone."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import yaml
from PIL import Image

from stego_dist.errors import UserError
from stego_dist.quickstart import landscapes
from stego_dist.quickstart.landscapes import CLASSES, PALETTE, draw, seeds, write_dataset

Bytes = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def drawn() -> tuple[Bytes, Bytes]:
    """Forty images (40, 240, 320, 3) and their labels (40, 240, 320)."""
    pairs = [draw(seed) for seed in range(40)]
    return np.stack([image for image, _ in pairs]), np.stack([label for _, label in pairs])


def test_classes_and_palette() -> None:
    assert CLASSES == ("sky", "mountain", "forest", "grass", "water", "sand", "road", "building")
    assert len(set(PALETTE)) == len(CLASSES)


def test_same_seed_same_bytes(drawn: tuple[Bytes, Bytes]) -> None:
    for seed in (0, 7):
        image, label = draw(seed)
        assert image.dtype == label.dtype == np.uint8
        assert image.shape == (240, 320, 3) and label.shape == (240, 320)
        assert image.tobytes() == drawn[0][seed].tobytes()
        assert label.tobytes() == drawn[1][seed].tobytes()


def test_seeds_differ(drawn: tuple[Bytes, Bytes]) -> None:
    assert len({image.tobytes() for image in drawn[0]}) == 40
    assert len({label.tobytes() for label in drawn[1]}) == 40


def test_labels_and_shares(drawn: tuple[Bytes, Bytes]) -> None:
    label = drawn[1]
    assert label.max() == 7
    kinds = [len(np.unique(one)) for one in label]
    assert min(kinds) >= 3 and max(kinds) <= 8
    for class_id, name in enumerate(CLASSES):
        here = label == class_id
        assert 0.04 < here.mean() < 0.30, name
        assert here.any((1, 2)).mean() >= 0.4, name


def test_colour_alone_does_not_tell_the_classes(drawn: tuple[Bytes, Bytes]) -> None:
    colour = drawn[0][:, ::4, ::4].reshape(-1, 3).astype(np.float64)
    label = drawn[1][:, ::4, ::4].reshape(-1)
    means = np.stack([colour[label == class_id].mean(0) for class_id in range(8)])
    nearest = ((colour[:, None] - means) ** 2).sum(2).argmin(1)
    assert (nearest == label).mean() < 0.45  # fitted and measured on the same pixels


def test_neighbouring_classes_meet_at_edges_in_the_image(drawn: tuple[Bytes, Bytes]) -> None:
    """The labels lie where the image changes: steps across label borders are larger than elsewhere."""
    grey = drawn[0].astype(np.float64).mean(3)
    step = np.abs(np.diff(grey, axis=1))
    border = drawn[1][:, 1:] != drawn[1][:, :-1]
    assert step[border].mean() > 2 * step[~border].mean()


def test_split_seeds_are_disjoint() -> None:
    assert seeds("val", 3)[0] == 1_000_000
    ranges = [seeds(split, 1_000_000, seed) for seed in (0, 1) for split in ("train", "val")]
    assert all(a.stop <= b.start for a, b in itertools.pairwise(ranges))
    with pytest.raises(UserError, match="at most a million"):
        seeds("train", 1_000_001)


def test_write_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "landscapes"
    write_dataset(root, train=3, val=2)
    for split, names in {"train": ["0000000", "0000001", "0000002"], "val": ["1000000", "1000001"]}.items():
        assert sorted(path.name for path in (root / "imgs" / split).iterdir()) == [f"{n}.jpg" for n in names]
        assert sorted(path.name for path in (root / "labels" / split).iterdir()) == [f"{n}.png" for n in names]
    label = Image.open(root / "labels" / "train" / "0000001.png")
    assert label.mode == "L"
    assert (np.asarray(label) == draw(1)[1]).all()
    image = np.asarray(Image.open(root / "imgs" / "val" / "1000000.jpg")).astype(float)
    assert np.abs(image - draw(1_000_000)[0]).mean() < 12
    classes = yaml.safe_load((root / "classes.yaml").read_text("utf-8"))
    assert classes == [{"name": n, "colour": list(c)} for n, c in zip(CLASSES, PALETTE, strict=True)]

    def refuse(seed: int) -> None:
        raise KeyboardInterrupt(seed)

    with monkeypatch.context() as patched:  # the same again: nothing is drawn; another: drawn, and interrupted
        patched.setattr(landscapes, "draw", refuse)
        write_dataset(root, train=3, val=2)
        with pytest.raises(KeyboardInterrupt):
            write_dataset(root, train=2, val=2)
    write_dataset(root, train=2, val=2)
    assert len(list((root / "imgs" / "train").iterdir())) == 2
    assert {path.name for path in root.iterdir()} == {"imgs", "labels", "classes.yaml", "landscapes.json"}


def test_write_dataset_keeps_the_images_of_others(tmp_path: Path) -> None:
    (tmp_path / "imgs").mkdir()
    with pytest.raises(UserError, match="choose another folder"):
        write_dataset(tmp_path, train=1, val=1)
