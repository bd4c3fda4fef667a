"""What the materials of a drawn landscape look like: noise, and one painter for each class.

In:  a `Scene` (random generator, horizon, light, haze) and the place of a thing.
Out: colours in [0, 1] as float32 (240, 320, 3), or marks put onto a `Canvas`, which keeps the exact labels.

Each class has several colour families that overlap with those of other classes (green mountains, dry grass,
grey water, red earth roads), so what tells the classes apart is texture and shape: clouds and gradients, lit
ridges with snow, overlapping crowns, blades, ripples with reflections, dunes with grain, a strip in
perspective with markings, boxes with rows of windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import fft, ndimage

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Colour = tuple[float, float, float]

HEIGHT, WIDTH = 240, 320
SKY, MOUNTAIN, FOREST, GRASS, WATER, SAND, ROAD, BUILDING = range(8)
ROWS: Floats = np.arange(HEIGHT, dtype=np.float32)[:, None]
COLUMNS: Floats = np.arange(WIDTH, dtype=np.float32)[None, :]

# Every family is (far or dark, near or bright); a scene draws one for each thing and jitters it.
SKIES: tuple[tuple[Colour, Colour], ...] = (
    ((0.22, 0.45, 0.82), (0.68, 0.83, 0.95)),  # blue
    ((0.62, 0.65, 0.69), (0.85, 0.86, 0.87)),  # overcast
    ((0.38, 0.34, 0.55), (0.98, 0.62, 0.32)),  # sunset
    ((0.12, 0.16, 0.34), (0.52, 0.46, 0.58)),  # dusk
    ((0.60, 0.52, 0.42), (0.86, 0.76, 0.60)),  # dust
    ((0.45, 0.62, 0.66), (0.86, 0.90, 0.82)),  # pale morning
)
ROCKS: tuple[Colour, ...] = (
    (0.47, 0.46, 0.47),
    (0.45, 0.36, 0.27),
    (0.30, 0.42, 0.23),
    (0.36, 0.42, 0.53),
    (0.60, 0.38, 0.26),
    (0.50, 0.49, 0.30),
)
LEAVES: tuple[Colour, ...] = (
    (0.14, 0.28, 0.12),
    (0.27, 0.42, 0.16),
    (0.58, 0.36, 0.12),
    (0.33, 0.25, 0.17),
    (0.16, 0.27, 0.27),
    (0.58, 0.50, 0.18),
    (0.42, 0.44, 0.42),
)
BLADES: tuple[Colour, ...] = (
    (0.33, 0.52, 0.18),
    (0.22, 0.38, 0.14),
    (0.70, 0.62, 0.32),
    (0.54, 0.44, 0.27),
    (0.50, 0.56, 0.27),
    (0.48, 0.40, 0.36),
)
WATERS: tuple[Colour, ...] = (
    (0.14, 0.34, 0.58),
    (0.20, 0.52, 0.54),
    (0.42, 0.47, 0.51),
    (0.22, 0.34, 0.24),
    (0.44, 0.38, 0.28),
    (0.10, 0.16, 0.24),
)
SANDS: tuple[Colour, ...] = (
    (0.85, 0.76, 0.56),
    (0.86, 0.84, 0.78),
    (0.78, 0.52, 0.32),
    (0.42, 0.40, 0.39),
    (0.62, 0.54, 0.42),
)
ROADS: tuple[Colour, ...] = (
    (0.28, 0.28, 0.30),
    (0.48, 0.48, 0.48),
    (0.64, 0.62, 0.58),
    (0.46, 0.35, 0.25),
    (0.60, 0.40, 0.28),
)
WALLS: tuple[Colour, ...] = (
    (0.86, 0.84, 0.80),
    (0.56, 0.56, 0.57),
    (0.60, 0.30, 0.22),
    (0.80, 0.68, 0.42),
    (0.45, 0.36, 0.30),
    (0.42, 0.52, 0.60),
    (0.52, 0.56, 0.42),
)
ROOFS: tuple[Colour, ...] = ((0.50, 0.22, 0.16), (0.28, 0.27, 0.28), (0.40, 0.30, 0.22), (0.34, 0.40, 0.36))


@dataclass
class Canvas:
    """The picture so far: `image` float32 (240, 320, 3) in [0, 1] and `label` uint8 (240, 320)."""

    image: Floats = field(default_factory=lambda: np.zeros((HEIGHT, WIDTH, 3), np.float32))
    label: npt.NDArray[np.uint8] = field(default_factory=lambda: np.zeros((HEIGHT, WIDTH), np.uint8))

    def paint(self, mask: Mask, colour: Floats, class_id: int, top: int = 0, left: int = 0) -> None:
        """Put `colour` (h, w, 3) where `mask` (h, w) is set, at (top, left), and label those pixels."""
        place = np.s_[top : top + mask.shape[0], left : left + mask.shape[1]]
        np.copyto(self.image[place], colour, where=mask[..., None])
        self.label[place][mask] = class_id


@dataclass
class Scene:
    """What all things in one picture share: where the horizon is, where the light comes from, the haze."""

    rng: np.random.Generator
    horizon: int
    sky_colours: tuple[Floats, Floats]
    sun_x: float
    haze: float
    leaf_noise: Floats

    @property
    def light_side(self) -> float:
        """-1 when the sun stands left of the middle, 1 when right."""
        return -1.0 if self.sun_x < WIDTH / 2 else 1.0

    def family(self, colours: Sequence[Colour], jitter: float = 0.05) -> Floats:
        """One of `colours`, jittered: float32 (3,)."""
        colour = np.array(colours[int(self.rng.integers(len(colours)))], np.float32)
        return vary(self.rng, colour, jitter)

    def hazed(self, colour: Floats, depth: Floats | float) -> Floats:
        """Blend `colour` (..., 3) towards the low sky; `depth` in [0, 1] is how far away it is."""
        amount = np.asarray(depth, np.float32)[..., None] * np.float32(self.haze)
        return colour + (self.sky_colours[1] - colour) * amount

    def nearness(self) -> Floats:
        """(240, 1): 0 at the horizon (and above), 1 at the bottom edge."""
        return np.clip((ROWS - self.horizon) / (HEIGHT - self.horizon), 0, 1)


def below(row: Floats | float) -> Mask:
    """The pixels (240, 320) under a row, or under a line that gives a row for each column (320,)."""
    return np.broadcast_to(np.greater(ROWS, row), (HEIGHT, WIDTH))


def vary(rng: np.random.Generator, colour: Floats, amount: float) -> Floats:
    """`colour` (3,) with a random change of brightness and a smaller one of each channel."""
    change = rng.normal(0, amount) + rng.normal(0, amount / 2, 3)
    return np.clip(colour + change.astype(np.float32), 0.02, 0.98).astype(np.float32)


@lru_cache(maxsize=32)
def _spectrum(slope: float, stretch: float) -> Floats:
    fy = np.fft.fftfreq(HEIGHT)[:, None] * HEIGHT
    fx = np.fft.rfftfreq(WIDTH)[None, :] * WIDTH * stretch
    radius = np.hypot(fy, fx)
    radius[0, 0] = np.inf  # no mean
    return np.asarray(radius ** (-slope / 2), np.float32)


def noise(rng: np.random.Generator, slope: float, stretch: float = 1.0) -> Floats:
    """Fractal noise (240, 320) of mean 0 and deviation 1, which tiles.

    `slope` is how fast the power falls with frequency (0 white, 2 clouds, 3 and more smooth hills);
    `stretch` > 1 draws it out along the rows.
    """
    white = rng.random((HEIGHT, WIDTH), dtype=np.float32)
    values: Floats = fft.irfft2(fft.rfft2(white) * _spectrum(slope, stretch), s=(HEIGHT, WIDTH))
    return np.asarray(values / values.std(), np.float32)


def curve(rng: np.random.Generator, roughness: float) -> Floats:
    """A wavy line over the columns: (320,), mean 0, deviation 1; `roughness` in (0, 1]."""
    steps = np.arange(1, 40, dtype=np.float32)
    phases = rng.uniform(0, 2 * np.pi, steps.size).astype(np.float32)
    power = steps ** (-3.2 + 1.9 * roughness) * rng.uniform(0.4, 1.6, steps.size).astype(np.float32)
    waves = np.sin(np.pi * 1.3 * steps[:, None] * COLUMNS / WIDTH + phases[:, None]) * power[:, None]
    line: Floats = waves.sum(0)
    return np.asarray((line - line.mean()) / line.std(), np.float32)


def on_ground(scene: Scene, values: Floats, zoom: float, squash: float = 1.0) -> Floats:
    """Lay a tiling field (240, 320) on the ground plane and look at it in perspective: (240, 320).

    `zoom` is how many texels a pixel spans at the bottom edge; above the horizon the result is 0.
    """
    near = scene.nearness()[scene.horizon + 1 :]
    rows = np.broadcast_to(90 * squash * zoom / (near + 0.06), (near.size, WIDTH))
    columns = (COLUMNS - WIDTH / 2) * zoom / (near + 0.06)
    seen = np.zeros((HEIGHT, WIDTH), np.float32)
    seen[scene.horizon + 1 :] = ndimage.map_coordinates(values, [rows, columns], order=1, mode="grid-wrap")
    return seen


def sky(scene: Scene) -> Floats:
    """A gradient down to the horizon, a glow around the sun, and torn or spread clouds."""
    rng = scene.rng
    high, low = scene.sky_colours
    height = np.clip(ROWS / scene.horizon, 0, 1)[..., None] ** rng.uniform(0.6, 1.4)
    colour = high + (low - high) * height
    distance = np.hypot(COLUMNS - scene.sun_x, (ROWS - scene.horizon * rng.uniform(0.3, 1)) * 1.6)
    glow = np.exp(-distance / rng.uniform(30, 90))[..., None] * rng.uniform(0, 0.6)
    colour = colour + (np.float32(1) - colour) * glow
    clouds = noise(rng, 2.7, stretch=4.0 if rng.random() < 0.35 else 1.8)
    shade = np.roll(clouds, (4, int(3 * scene.light_side)), (0, 1)) - clouds
    cover = np.clip((clouds - rng.uniform(-0.6, 1.3)) * rng.uniform(0.6, 1.6), 0, 1)[..., None]
    lit = np.clip(low * 0.25 + 0.72 - 0.35 * shade[..., None] - 0.12 * clouds[..., None], 0, 1)
    return np.asarray(colour + (lit - colour) * cover * 0.9, np.float32)


def mountain(scene: Scene, ridge: Floats, depth: float) -> Floats:
    """Rock under a `ridge` line (320,) of rows: relief lit from the side, gullies, perhaps snow on top."""
    rng = scene.rng
    rock, other = scene.family(ROCKS), scene.family(ROCKS)
    relief = noise(rng, 3.0)
    slope = np.roll(relief, int(2 * scene.light_side), 1) - np.roll(relief, int(-2 * scene.light_side), 1)
    slope += 0.5 * (np.roll(relief, 2, 0) - relief)
    slope /= slope.std()
    below = ROWS - ridge[None]
    spurs = np.sin((COLUMNS + 0.55 * scene.light_side * below + 7 * relief) * rng.uniform(0.10, 0.22))
    shade = 0.82 + 0.26 * np.tanh(slope) + 0.16 * spurs
    mix = np.clip(below / rng.uniform(40, 110) + 0.25 * slope, 0, 1)[..., None]
    colour = (rock + (other - rock) * mix * 0.7) * shade[..., None]
    if rng.random() < 0.55:
        line = ridge.min() + rng.uniform(0.25, 0.9) * (scene.horizon - ridge.min())
        snow = np.clip((line - ROWS) / 12 + 0.9 * slope + 0.6 * spurs, 0, 1)[..., None]
        white = np.float32(0.72) + 0.24 * np.tanh(slope + spurs)[..., None]
        colour = colour + (white * np.array([0.96, 0.98, 1.02], np.float32) - colour) * snow
    return scene.hazed(np.clip(colour, 0, 1).astype(np.float32), depth)


def grass(scene: Scene) -> Floats:
    """Blades: strokes from far and short to near and long over a patchy ground."""
    rng = scene.rng
    dark, light = np.sort(np.stack([scene.family(BLADES[:2]), scene.family(BLADES)]), 0)
    if rng.random() < 0.5:
        base = scene.family(BLADES, 0.06)
        dark, light = base * 0.72, np.clip(base * 1.2, 0, 1)
    patches = on_ground(scene, noise(rng, 2.2), 0.6)
    mix = np.clip(0.45 + 0.22 * patches, 0, 1)[..., None]
    colour = (dark + (light - dark) * mix).astype(np.float32)
    count = 5200
    near = np.sort(rng.random(count)) ** 0.85
    y = scene.horizon + near * (HEIGHT + 12 - scene.horizon)
    x = rng.uniform(0, WIDTH, count)
    lean = rng.normal(scene.light_side * 0.15, 0.30, count)
    length = (2 + 15 * near) * rng.uniform(0.6, 1.3, count)
    tone = (dark + (light - dark) * rng.random((count, 1))) * rng.uniform(0.6, 1.35, (count, 1))
    for step in range(int(length.max())):
        alive = step < length
        row = (y - step)[alive].astype(int)
        column = (x + lean * step * (1 + step / 14))[alive].astype(int)
        inside = (row >= 0) & (row < HEIGHT) & (column >= 0) & (column < WIDTH)
        bright = 0.72 + 0.5 * (step / length[alive])[:, None]
        colour[row[inside], column[inside]] = (tone[alive] * bright)[inside]
    return scene.hazed(np.clip(colour, 0, 1), 1 - scene.nearness() * 1.2)


def water(scene: Scene) -> Floats:
    """Ripples drawn out along the rows, finer towards the horizon, with glints below the sun."""
    rng = scene.rng
    base = scene.family(WATERS)
    sky_part = rng.uniform(0.15, 0.6) * (1 - 0.6 * scene.nearness())[..., None]
    colour = base + (scene.sky_colours[1] - base) * sky_part
    waves = on_ground(scene, noise(rng, 2.0, stretch=5.0), 0.6, squash=rng.uniform(1, 2))
    waves = waves + 0.6 * noise(rng, 1.8, stretch=10.0)
    colour = colour * (1 + rng.uniform(0.08, 0.17) * waves[..., None])
    glint = np.exp(-(((COLUMNS - scene.sun_x) / rng.uniform(25, 120)) ** 2))
    crest = np.clip(waves - rng.uniform(0.7, 1.6), 0, 1) * (0.25 + 0.75 * glint)
    colour = np.clip(colour + crest[..., None] * (scene.sky_colours[1] * 0.6 + 0.35), 0, 1)
    return np.asarray(colour, np.float32)


def reflect(scene: Scene, canvas: Canvas) -> None:
    """Mirror in the water what stands above each column's shore, shaken by ripples. Labels stay."""
    wet = canvas.label == WATER
    strength = scene.rng.uniform(0.2, 0.65)
    shake = noise(scene.rng, 1.6, stretch=6.0)
    shore = np.where(wet.any(0), wet.argmax(0), 0)
    smooth = ndimage.uniform_filter1d(shore.astype(np.float32), 9, mode="nearest")
    y, x = np.nonzero(wet)
    depth = y - smooth[x]
    source_y = (smooth[x] - depth * 1.1 - 1 + 2 * shake[y, x]).astype(int)
    source_x = np.clip(x + (1.5 * shake[y, x] * (1 + depth / 25)).astype(int), 0, WIDTH - 1)
    seen = (source_y >= 0) & (depth > 0)
    y, x, source_y, source_x = y[seen], x[seen], source_y[seen], source_x[seen]
    fade = (strength * np.exp(-depth[seen] / 70))[:, None].astype(np.float32)
    mirrored = canvas.image[source_y, source_x] * 0.9
    canvas.image[y, x] += (mirrored - canvas.image[y, x]) * fade


def sand(scene: Scene) -> Floats:
    """Dunes with a lit and a steep side, wind ripples in perspective, and fine grain."""
    rng = scene.rng
    base = scene.family(SANDS)
    warp = noise(rng, 5.0)
    near = scene.nearness()
    far = 1 / (near + 0.12)
    aside = (COLUMNS - WIDTH / 2) / WIDTH * far
    dunes = (far * rng.uniform(0.5, 1.4) + aside * rng.uniform(-0.9, 0.9) + 0.45 * warp) % 1
    dunes = np.where(dunes < 0.75, dunes / 0.75, (1 - dunes) / 0.25) - 0.5
    ripples = np.sin(far * rng.uniform(30, 60) + aside * rng.uniform(-12, 12) + 6 * warp + 0.4 * noise(rng, 1.5))
    strength = rng.uniform(0.05, 0.12) * np.minimum(1, near * 2.5)
    shade = 0.95 + rng.uniform(0.1, 0.35) * dunes + strength * ripples + 0.06 * noise(rng, 0.3)
    colour = np.clip(base * shade[..., None], 0, 1).astype(np.float32)
    return scene.hazed(colour, 1 - near * 1.2)


def road(scene: Scene, across: Floats, along: Floats) -> Floats:
    """Asphalt with lines, or earth with ruts.

    `across` (240, 320) runs from -1 to 1 between the edges; `along` (240, 320) is the way gone, in dashes.
    """
    rng = scene.rng
    kind = int(rng.integers(len(ROADS)))
    base = vary(rng, np.array(ROADS[kind], np.float32), 0.05)
    stains = on_ground(scene, noise(rng, 1.6), 0.8)
    grain = noise(rng, 0.6)
    colour = base * (1 + 0.07 * stains + 0.08 * grain)[..., None]
    if kind < 3:
        paint = np.array([0.93, 0.80, 0.35] if rng.random() < 0.3 else [0.90, 0.90, 0.88], np.float32)
        middle = (np.abs(across) < 0.035) & ((along % 1 < 0.55) | (rng.random() < 0.2))
        edges = np.abs(np.abs(across) - 0.88) < 0.03
        marks = (middle | edges) & (grain > -1.5)
        colour[marks] = paint * (0.85 + 0.1 * grain[marks][:, None])
    else:
        ruts = np.exp(-(((np.abs(across) - 0.45) / 0.13) ** 2))
        colour = colour * (1 - 0.28 * ruts + 0.10 * (np.abs(across) < 0.2))[..., None]
    kerb = np.clip((np.abs(across) - 0.93) / 0.07, 0, 1)[..., None]
    return scene.hazed(np.clip(colour * (1 - 0.35 * kerb), 0, 1).astype(np.float32), 1 - scene.nearness() * 1.3)


def tree(scene: Scene, canvas: Canvas, x: float, base: float, height: float, leaf: Floats, conifer: bool) -> None:
    """One tree whose foot is at (base, x): a tiered cone or a round crown of leaf clumps on a trunk."""
    rng = scene.rng
    half = max(2.0, height * (0.24 if conifer else 0.38) * rng.uniform(0.8, 1.2))
    top, left = max(0, int(base - height)), max(0, int(x - half))
    bottom, right = min(HEIGHT, int(base) + 1), min(WIDTH, int(x + half) + 1)
    if bottom - top < 3 or right - left < 2:
        return
    dy = (ROWS[top:bottom] - (base - height)) / height  # 0 at the top, 1 at the foot
    dx = (COLUMNS[:, left:right] - x) / half
    oy, ox = int(rng.integers(HEIGHT - (bottom - top) + 1)), int(rng.integers(WIDTH - (right - left) + 1))
    leaves = scene.leaf_noise[oy : oy + bottom - top, ox : ox + right - left]
    if conifer:
        tiers = (dy * max(4.0, height / 9)) % 1
        mask = np.abs(dx) < dy * (0.72 + 0.28 * tiers) + 0.08 * leaves
        mask &= dy < 0.93
        shade = 0.62 + 0.42 * tiers + 0.20 * scene.light_side * dx + 0.13 * leaves
    else:
        up = (dy - 0.42) / 0.42
        mask = dx**2 + up**2 + 0.16 * leaves < 0.92
        shade = 0.82 - 0.30 * up + 0.16 * scene.light_side * dx + 0.20 * leaves
    trunk = (np.abs(dx) < 0.10) & (dy > 0.7) & ~mask
    colour = leaf * shade[..., None]
    colour[trunk] = (0.24, 0.18, 0.14)
    depth = 1 - min(1.0, max(0.0, (base - scene.horizon) / (HEIGHT - scene.horizon)) * 1.5)
    canvas.paint(mask | trunk, scene.hazed(np.clip(colour, 0, 1), depth * 0.8), FOREST, top, left)


def building(scene: Scene, canvas: Canvas, x: float, base: float, width: float, height: float) -> None:
    """One box whose lower left corner is at (base, x): wall, rows of windows, flat or pitched roof."""
    rng = scene.rng
    roof = rng.uniform(0.25, 0.5) * width if height < 1.6 * width and rng.random() < 0.75 else 2.0
    top, left = max(0, int(base - height - roof)), max(0, int(x))
    bottom, right = min(HEIGHT, int(base)), min(WIDTH, int(x + width))
    if bottom - top < 4 or right - left < 4:
        return
    dy = ROWS[top:bottom] - (base - height)  # 0 where the wall begins
    dx = COLUMNS[:, left:right] - int(x)
    wall = scene.family(WALLS, 0.06)
    colour = np.tile(wall, (bottom - top, right - left, 1))
    colour *= (1 - 0.10 * ((dy % 3) < 1))[..., None]  # courses of brick, boards
    colour *= (1 + 0.15 * scene.light_side * (dx / width - 0.5))[..., None]
    pitch_x, pitch_y = rng.uniform(6, 11), rng.uniform(7, 13)
    share_x, share_y = rng.uniform(0.4, 0.75), rng.uniform(0.45, 0.7)
    column, row = (dx - 2) % pitch_x, (dy - 3) % pitch_y
    inside = (dx > 1) & (dx < width - 2) & (dy > 2) & (dy < height - 2)
    glass = (column < pitch_x * share_x) & (row < pitch_y * share_y) & inside
    frame = (column < pitch_x * share_x + 1) & (row < pitch_y * share_y + 1) & inside & ~glass
    lit = rng.random() < 0.25
    pane = np.array([0.95, 0.82, 0.50] if lit else rng.uniform([0.08, 0.1, 0.12], [0.3, 0.36, 0.42]), np.float32)
    pane_shade = 1 + 0.35 * np.sin(np.floor((dx - 2) / pitch_x) * 2.3 + np.floor((dy - 3) / pitch_y) * 4.1)
    colour[glass] = (pane * pane_shade[..., None])[glass]
    colour[frame] = wall * 0.5 + 0.45
    mask = np.broadcast_to(dy >= 0, colour.shape[:2]).copy()
    if roof > 2:
        inset = np.clip(-dy / roof, 0, 1) * width * rng.uniform(0.25, 0.5)
        tiles = (dy < 0) & (dx >= inset) & (dx <= width - inset)
        shade = 1 - 0.16 * ((dy % 3) < 1) - 0.08 * ((dx + (dy // 3) * 2) % 4 < 1)
        colour[tiles] = (scene.family(ROOFS) * shade[..., None])[tiles]
    else:
        tiles = np.broadcast_to(dy < 0, colour.shape[:2])
        colour[tiles] = wall * 0.6
    depth = 1 - min(1.0, max(0.0, (base - scene.horizon) / (HEIGHT - scene.horizon)) * 1.5)
    canvas.paint(mask | tiles, scene.hazed(np.clip(colour, 0, 1), depth * 0.6), BUILDING, top, left)
