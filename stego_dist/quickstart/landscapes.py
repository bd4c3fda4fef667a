"""Drawn landscapes with exact labels: a small data set that needs no download.

In:  a seed.
Out: an image (240, 320, 3) and the class of what was painted last at each pixel; or a folder
     `imgs/{train,val}/*.jpg`, `labels/{train,val}/*.png`, `classes.yaml`.

What varies from picture to picture: which classes there are, the horizon, ridges, the order and form of the
ground (bands, ponds, patches), the course of the road, where forests and buildings stand and how large they
are; the time of day, haze, exposure, saturation, contrast and colour cast; the colour family of each thing.
The look of each class is in `textures`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import yaml
from PIL import Image

from stego_dist.errors import UserError
from stego_dist.quickstart import textures as tx
from stego_dist.quickstart.textures import HEIGHT, WIDTH, Canvas, Floats, Mask, Scene
from stego_dist.rundir import atomic_path, read_json, write_json

CLASSES: tuple[str, ...] = ("sky", "mountain", "forest", "grass", "water", "sand", "road", "building")
PALETTE: tuple[tuple[int, int, int], ...] = (
    (142, 198, 240),
    (141, 120, 150),
    (36, 104, 58),
    (150, 205, 84),
    (38, 98, 190),
    (240, 212, 140),
    (78, 78, 86),
    (210, 84, 68),
)
VERSION = 1  # raise it whenever a seed gives other pixels
MARKER = "landscapes.json"
SPLIT_STARTS = {"train": 0, "val": 1_000_000}
_SEEDS_A_DATASET = 2_000_000

_GROUND = (tx.GRASS, tx.WATER, tx.SAND)
_CHANCES = {
    tx.MOUNTAIN: 0.75,
    tx.FOREST: 0.70,
    tx.GRASS: 0.58,
    tx.WATER: 0.57,
    tx.SAND: 0.62,
    tx.ROAD: 0.58,
    tx.BUILDING: 0.62,
}


def draw(seed: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Draw one landscape: image uint8 (240, 320, 3) and labels uint8 (240, 320) with ids 0..7.

    The same seed gives the same pixels.
    """
    rng = np.random.default_rng(seed)
    scene = _scene(rng)
    present = {class_id for class_id, chance in _CHANCES.items() if rng.random() < chance}
    if not present & set(_GROUND):
        present.add(int(rng.choice(_GROUND)))
    if len(present) < 2:
        present.add(tx.MOUNTAIN)
    canvas = Canvas()
    canvas.paint(np.ones((HEIGHT, WIDTH), bool), tx.sky(scene), tx.SKY)
    if tx.MOUNTAIN in present:
        _mountains(scene, canvas)
    _ground(scene, canvas, sorted(present & set(_GROUND)))
    if tx.ROAD in present:
        _road(scene, canvas)
    _standing(scene, canvas, forest=tx.FOREST in present, buildings=tx.BUILDING in present)
    if (canvas.label == tx.WATER).any():
        tx.reflect(scene, canvas)
    return _graded(rng, canvas.image), canvas.label


def seeds(split: str, count: int, seed: int = 0) -> range:
    """The seeds of a split's pictures; those of `train` and `val`, and of two values of `seed`, never meet.

    Raises UserError when `count` does not fit.
    """
    if not 0 <= count <= SPLIT_STARTS["val"] or seed < 0:
        raise UserError(f"cannot draw {count} {split} landscapes with seed {seed}: at most a million, seed >= 0")
    start = seed * _SEEDS_A_DATASET + SPLIT_STARTS[split]
    return range(start, start + count)


def write_dataset(root: Path, *, train: int = 300, val: int = 60, seed: int = 0) -> None:
    """Write `train` and `val` landscapes under `root`: JPEG images, PNG labels (index ids), `classes.yaml`.

    Does nothing when the marker in `root` says that the same is there already; an unfinished or different
    data set of this generator is written anew. Raises UserError when `root` holds images or labels of
    somebody else.
    """
    wanted = {"version": VERSION, "train": train, "val": val, "seed": seed}
    marker = root / MARKER
    if marker.exists():
        if read_json(marker, "the marker of the drawn landscapes", "Delete it.") == {**wanted, "done": True}:
            return
    elif (root / "imgs").exists() or (root / "labels").exists():
        raise UserError(f"{root} already holds images that were not drawn by this command: choose another folder")
    ranges = {"train": seeds("train", train, seed), "val": seeds("val", val, seed)}
    write_json(marker, {**wanted, "done": False})
    with atomic_path(root / "imgs") as images, atomic_path(root / "labels") as labels:
        for split, numbers in ranges.items():
            (images / split).mkdir(parents=True)
            (labels / split).mkdir(parents=True)
            for number in numbers:
                image, label = draw(number)
                Image.fromarray(image).save(images / split / f"{number:07d}.jpg", quality=92)
                Image.fromarray(label).save(labels / split / f"{number:07d}.png")
    classes = [{"name": name, "colour": list(colour)} for name, colour in zip(CLASSES, PALETTE, strict=True)]
    with atomic_path(root / "classes.yaml") as tmp:
        tmp.write_text(yaml.safe_dump(classes, sort_keys=False), "utf-8")
    write_json(marker, {**wanted, "done": True})


def _scene(rng: np.random.Generator) -> Scene:
    """Draw the horizon, the sky's colours, the sun and the haze."""
    high, low = tx.SKIES[rng.integers(len(tx.SKIES))]
    return Scene(
        rng=rng,
        horizon=int(rng.uniform(0.26, 0.50) * HEIGHT),
        sky_colours=(
            tx.vary(rng, np.array(high, np.float32), 0.06),
            tx.vary(rng, np.array(low, np.float32), 0.05),
        ),
        sun_x=float(rng.uniform(0, WIDTH)),
        haze=float(rng.choice([0.15, 0.3, 0.55], p=[0.4, 0.4, 0.2])),
        leaf_noise=tx.noise(rng, 1.0),
    )


def _mountains(scene: Scene, canvas: Canvas) -> None:
    """One to three ridges, the far ones higher and hazier."""
    rng = scene.rng
    count = int(rng.integers(1, 4))
    for index in range(count):
        nearness = (index + 1) / count
        foot = scene.horizon * (1 - rng.uniform(0.35, 0.75) * (1.25 - nearness))
        rise = rng.uniform(0.08, 0.25) * scene.horizon
        line = tx.curve(rng, rng.uniform(0.1, 0.8))
        shape = line + 1 if rng.random() < 0.4 else 2.4 - 1.6 * np.abs(line)  # hills, or peaks
        ridge = foot - rise * shape
        ridge = np.clip(ridge, 3, scene.horizon - 2).astype(np.float32)
        canvas.paint(tx.below(ridge), tx.mountain(scene, ridge, 1.0 - 0.75 * nearness), tx.MOUNTAIN)


def _ground(scene: Scene, canvas: Canvas, classes: list[int]) -> None:
    """Cover everything below the horizon: the first class everywhere, the others as bands or patches."""
    rng = scene.rng
    painters = {tx.GRASS: tx.grass, tx.WATER: tx.water, tx.SAND: tx.sand}
    order = rng.permutation(classes)
    line = np.float32(scene.horizon) + tx.curve(rng, 0.4) * rng.uniform(0, 2)
    if order[0] == tx.WATER:
        line = np.full(WIDTH, scene.horizon, np.float32)
    canvas.paint(tx.below(line), painters[int(order[0])](scene), int(order[0]))
    depths = np.sort(rng.uniform(0.08, 0.7, len(order) - 1))
    for class_id, depth in zip(order[1:], depths, strict=True):
        mask = _patch(scene) if rng.random() < 0.35 else _band(scene, float(depth))
        canvas.paint(mask, painters[int(class_id)](scene), int(class_id))


def _band(scene: Scene, depth: float) -> Mask:
    """All ground nearer than a wavy, slanted line at `depth` (0 horizon, 1 bottom)."""
    rng = scene.rng
    span = HEIGHT - scene.horizon
    line = scene.horizon + depth * span + tx.curve(rng, rng.uniform(0.1, 0.7)) * rng.uniform(2, 14) * (depth + 0.1)
    line = line + (tx.COLUMNS[0] - WIDTH / 2) * rng.uniform(-0.35, 0.35) * depth
    return tx.below(line) & tx.below(scene.horizon + 2)


def _patch(scene: Scene) -> Mask:
    """A flat blob on the ground: a pond, a meadow, a sandpit."""
    rng = scene.rng
    y = scene.horizon + rng.uniform(0.35, 0.85) * (HEIGHT - scene.horizon)
    x, across = rng.uniform(0.15, 0.85) * WIDTH, rng.uniform(70, 170)
    wobble = 0.4 * tx.noise(rng, 3.8, stretch=2.0)
    away = ((tx.COLUMNS - x) / across) ** 2 + ((tx.ROWS - y) / (across * rng.uniform(0.3, 0.45))) ** 2
    inside: Mask = away + wobble < 1
    return inside & tx.below(scene.horizon + 3)


def _road(scene: Scene, canvas: Canvas) -> None:
    """A road from the bottom edge to the horizon, bent or straight, or one that crosses the picture."""
    rng = scene.rng
    near = scene.nearness()
    if rng.random() < 0.25:
        middle = scene.horizon + rng.uniform(0.35, 0.8) * (HEIGHT - scene.horizon)
        half = rng.uniform(14, 30)
        line = middle + (tx.COLUMNS - WIDTH / 2) * rng.uniform(-0.15, 0.15)
        across = (tx.ROWS - line) / half
        along = tx.COLUMNS / rng.uniform(22, 40) + 0 * tx.ROWS
    else:
        start, end = rng.uniform(0.1, 0.9) * WIDTH, rng.uniform(0.2, 0.8) * WIDTH
        bend = rng.normal(0, 90)
        half_width = 1.5 + rng.uniform(55, 125) * near
        centre = end + (start - end) * near + bend * near * (1 - near)
        across = (tx.COLUMNS - centre) / half_width
        along = np.broadcast_to(rng.uniform(1.2, 2.2) / (near + 0.08), (HEIGHT, WIDTH))
    mask = (np.abs(across) < 1) & tx.below(scene.horizon)
    canvas.paint(mask, tx.road(scene, across.astype(np.float32), along.astype(np.float32)), tx.ROAD)


def _standing(scene: Scene, canvas: Canvas, *, forest: bool, buildings: bool) -> None:
    """Forests and groups of buildings, the far ones first."""
    rng = scene.rng
    groups: list[tuple[float, str]] = []
    if forest:
        groups += [(float(rng.beta(1, 2.2)), "forest") for _ in range(int(rng.integers(1, 3)))]
    if buildings:
        groups += [(float(rng.beta(1, 2.2)), "buildings") for _ in range(int(rng.integers(1, 3)))]
    for depth, kind in sorted(groups):
        (_forest if kind == "forest" else _buildings)(scene, canvas, *_site(scene, canvas, depth * 0.8))


def _site(scene: Scene, canvas: Canvas, depth: float) -> tuple[float, float]:
    """A row and a column of dry ground near `depth` (0 horizon, 1 bottom); at the horizon if all is water."""
    for _ in range(8):
        row = scene.horizon + 4 + depth * (HEIGHT - scene.horizon - 5)
        column = scene.rng.uniform(0.02, 0.98) * WIDTH
        if canvas.label[int(row), int(column)] not in (tx.WATER, tx.ROAD):
            return row, column
        depth = float(scene.rng.beta(1, 2.2)) * 0.8
    return scene.horizon + 2, column


def _forest(scene: Scene, canvas: Canvas, base: float, centre: float) -> None:
    """A wood of one or two sorts of trees, its near edge at row `base`, around column `centre`."""
    rng = scene.rng
    depth = (base - scene.horizon) / (HEIGHT - scene.horizon)
    height = rng.uniform(22, 38) + 70 * depth
    wide = rng.uniform(0.45, 1.3) * WIDTH * (1 - 0.5 * depth)
    rise = rng.uniform(12, 55) * (1 - 0.4 * depth)
    conifers = rng.choice([0.0, 0.5, 1.0], p=[0.4, 0.2, 0.4])
    leaves = [scene.family(tx.LEAVES), scene.family(tx.LEAVES)]
    count = int(np.clip(wide * (rise + 14) / height**2 * 11, 14, 170))
    for foot in np.sort(rng.uniform(-rise, 4, count)).tolist():
        x = centre + rng.uniform(-0.5, 0.5) * wide * (1 + foot / (2.5 * rise))
        leaf = tx.vary(rng, leaves[int(rng.random() < 0.25)], 0.04)
        tall = height * rng.uniform(0.7, 1.15)
        tx.tree(scene, canvas, x, base + foot, tall, leaf, bool(rng.random() < conifers))


def _buildings(scene: Scene, canvas: Canvas, base: float, centre: float) -> None:
    """Houses or towers side by side and behind each other, their feet near row `base`, column `centre`."""
    rng = scene.rng
    depth = (base - scene.horizon) / (HEIGHT - scene.horizon)
    size = rng.uniform(24, 40) + 45 * depth
    tall = float(rng.choice([0.8, 1.6, 2.3], p=[0.5, 0.3, 0.2]))
    wide = rng.uniform(0.3, 0.9) * WIDTH * (1 - 0.3 * depth)
    count = int(np.clip(wide / size * 1.9, 3, 16))
    for foot in np.sort(rng.uniform(-9, 5, count)).tolist():
        width = size * rng.uniform(0.6, 1.4)
        x = centre + rng.uniform(-0.5, 0.5) * wide - width / 2
        tx.building(scene, canvas, x, base + foot, width, size * tall * rng.uniform(0.6, 1.3))


def _graded(rng: np.random.Generator, image: Floats) -> npt.NDArray[np.uint8]:
    """Exposure, colour cast, saturation, contrast and sensor noise over the whole picture."""
    grey = image.mean(2, keepdims=True)
    image = grey + (image - grey) * rng.uniform(0.45, 1.15)
    image = 0.5 + (image - 0.5) * rng.uniform(0.75, 1.12)
    image = image * rng.uniform(0.75, 1.2) * rng.uniform(0.92, 1.08, 3).astype(np.float32)
    image = image + rng.uniform(0, 0.018) * rng.standard_normal((HEIGHT, WIDTH, 1), dtype=np.float32)
    return (np.clip(image, 0, 1) * 255).round().astype(np.uint8)
