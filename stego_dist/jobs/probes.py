"""The figures of a plan, measured on this machine by short probes of the real parts (some seconds in all).

In: a configuration; its shard set, where it exists, gives the images, otherwise one of noise stands in. Out: `Figures`
and where each comes from: `measured`, `given`, `manifest` or `assumed`.

A worker is one CPU core, or a GPU where there is one: probes run on one thread or on the GPU.
"""

from __future__ import annotations

import io
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from stego_dist import console
from stego_dist.config import Config
from stego_dist.data.card import load_card
from stego_dist.data.crops import Crops
from stego_dist.data.cut import cut_image
from stego_dist.data.estimate import tar_overhead
from stego_dist.data.manifest import ShardSet
from stego_dist.data.plan import BuildOptions
from stego_dist.data.samples import ShardSamples
from stego_dist.data.sources import Source, open_image
from stego_dist.data.transforms import to_training_view
from stego_dist.engine.coefficients import fill_in, loss_settings
from stego_dist.engine.feed import Batch
from stego_dist.engine.forward import Forward
from stego_dist.engine.inputs import AUTOCAST, make_backbone
from stego_dist.engine.step import TrainStep, parameter_groups
from stego_dist.errors import UserError
from stego_dist.jobs.plan import Facts, Figures, facts_of
from stego_dist.knn.cost import measure_rates
from stego_dist.knn.kernels import kernel
from stego_dist.knn.threads import one_thread
from stego_dist.losses.calibration import Coefficients
from stego_dist.losses.sampling import PAIRS
from stego_dist.models.backbone import Backbone, descriptors
from stego_dist.models.segmenter import Segmenter

TRIALS = 12
"""Images that are packed on trial."""
SECONDS = 1.5
"""What a probe may take about, after its first call."""
DISK_BYTES = 64 * 2**20
WIDTH, HEIGHT = 640, 480
"""Of the image that stands in for a shard set."""


@dataclass(frozen=True)
class Subject:
    """What is measured: a configuration, its backbone, its samples where there are any, and the crops wanted."""

    config: Config
    backbone: Backbone
    samples: ShardSamples | None
    crops: Crops
    clusters: int
    classes: int
    """Labelled classes; 0 without labels."""


def measure(subject: Subject, given: Mapping[str, float]) -> tuple[Figures, dict[str, str]]:
    """All figures, and their origins; what is given is not measured."""
    probes: list[tuple[tuple[str, ...], Callable[[], tuple[dict[str, float], dict[str, str]]]]] = [
        (("memory", "disk_free"), lambda: _machine(subject.config)),
        (("disk_read", "disk_write"), lambda: _disk(_existing(Path(subject.config.features.dir)))),
        (("pack", "sample_bytes"), lambda: _packing(subject)),
        (("embed",), lambda: _embedding(subject)),
        (("train",), lambda: _training(subject)),
        (("knn_flops", "knn_matmul_flops", "knn_scan_flops", "knn_query_seconds"), lambda: _search(subject)),
    ]
    values, origins = dict(given), dict.fromkeys(given, "given")
    todo = [(names, probe) for names, probe in probes if not set(names) <= set(given)]
    if todo:
        console.say("measuring this machine: " + ", ".join(name for names, _ in todo for name in names))
        with console.progress("measuring", len(todo), "probes") as bar, one_thread():
            for _, probe in todo:
                found, where = probe()
                values = {**found, **values}
                origins = {**dict.fromkeys(found, "measured"), **where, **origins}
                bar.advance()
    return Figures(**{field.name: values[field.name] for field in fields(Figures)}), origins


def measure_config(
    config: Config, samples: ShardSamples | None, crops: Crops, clusters: int, given: Mapping[str, float]
) -> tuple[Facts, Figures, dict[str, str]]:
    """What a plan of a configuration is computed from: its facts, and the figures of `measure`.

    Weights don't enter: none are read. Raises UserError: a backbone that is not known, a resolution that does not fit.
    """
    unread = config.backbone.model_copy(update={"weights": "random"})
    backbone = make_backbone(config.model_copy(update={"backbone": unread}))
    classes = samples.shard_set.num_classes or 0 if samples and samples.split.labelled else 0
    figures, origins = measure(Subject(config, backbone, samples, crops, clusters, classes), given)
    facts = facts_of(
        config,
        dim=backbone.dim,
        stride=backbone.stride,
        parameters=sum(p.numel() for p in backbone.parameters()),
        crops=1 if crops == "none" else 5,
        classes=classes,
    )
    return facts, figures, origins


def _machine(config: Config) -> tuple[dict[str, float], dict[str, str]]:
    """Memory of this machine for each of its workers, and the free space where features lie."""
    workers = torch.cuda.device_count() or os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / workers
    return {"memory": memory, "disk_free": shutil.disk_usage(_existing(Path(config.features.dir))).free}, {}


def _existing(path: Path) -> Path:
    return next(parent for parent in [path.resolve(), *path.resolve().parents] if parent.exists())


def _disk(folder: Path) -> tuple[dict[str, float], dict[str, str]]:
    """Bytes/s written to the disk of a folder and read from it, not from memory; assumed where it can't be written."""
    data = np.random.default_rng(0).bytes(DISK_BYTES)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            start = time.perf_counter()
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            written = time.perf_counter() - start
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            start = time.perf_counter()
            file.seek(0)
            while file.read(2**22):
                pass
            read = time.perf_counter() - start
    except OSError:
        return {"disk_read": 5e8, "disk_write": 2e8}, dict.fromkeys(("disk_read", "disk_write"), "assumed")
    return {"disk_read": DISK_BYTES / read, "disk_write": DISK_BYTES / written}, {}


def _packing(subject: Subject) -> tuple[dict[str, float], dict[str, str]]:
    """Images/s and bytes a crop of the real packing, on samples of the shard set as if they were source images."""
    samples, card, options = subject.samples, load_card("folder"), BuildOptions(crops=subject.crops)
    with tempfile.TemporaryDirectory() as folder:
        sources = list(_written(samples, Path(folder)))
        labelled = sources[0].label is not None
        start = time.perf_counter()
        cuts = [cut for source in sources for cut in cut_image(source, card, options, labelled)]
        packed = sum(len(cut.jpeg) + len(cut.label_png or b"") for cut in cuts)
        seconds = (time.perf_counter() - start) / len(sources)
    each = packed / len(cuts) + tar_overhead(labelled)
    if samples is None:
        return {"pack": 1 / seconds, "sample_bytes": each}, {"pack": "assumed", "sample_bytes": "assumed"}
    built = BuildOptions(**samples.shard_set.manifest.options)
    larger = 1.0 if built.crops == "none" else built.ratio**-2  # the image that a crop was cut from
    if built.crops == subject.crops:
        return {"pack": 1 / seconds / larger, "sample_bytes": samples.split.bytes / len(samples)}, {
            "sample_bytes": "manifest"
        }
    return {"pack": 1 / seconds / larger, "sample_bytes": each * larger}, {}


def _written(samples: ShardSamples | None, folder: Path) -> Iterator[Source]:
    """Some samples as files, or an image of smooth noise."""
    if samples is None:
        path = folder / "noise.jpg"
        Image.fromarray(_noise()).save(path, quality=90)
        yield from [Source(path, None, "noise")] * TRIALS
        return
    for i in np.linspace(0, len(samples) - 1, min(TRIALS, len(samples))).round().astype(int).tolist():
        image, label = folder / f"{i}.jpg", samples.label_bytes(i)
        image.write_bytes(samples.image_bytes(i))
        if label is not None:
            image.with_suffix(".png").write_bytes(label)
        yield Source(image, None if label is None else image.with_suffix(".png"), str(i))


def _noise() -> np.ndarray[Any, np.dtype[np.uint8]]:
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (HEIGHT // 16, WIDTH // 16, 3), dtype=np.uint8))
    smooth = np.asarray(small.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), np.float64)
    return np.clip(smooth + rng.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8)


def _embedding(subject: Subject) -> tuple[dict[str, float], dict[str, str]]:
    """Crops/s of decoding and backbone, with the configuration's batches as far as time allows.

    On a CPU both share the worker's core; for a GPU the machine's cores decode at the same time.
    """
    config, samples, side = subject.config, subject.samples, subject.config.data.resolution
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    backbone, dtype = subject.backbone.to(device), AUTOCAST[config.features.precision]
    if samples is not None:
        data = [samples.image_bytes(i) for i in range(min(4, len(samples)))]
    else:
        buffer = io.BytesIO()
        Image.fromarray(_noise()).save(buffer, "JPEG", quality=90)
        data = [buffer.getvalue()]

    def decode() -> list[torch.Tensor]:
        return [to_training_view(open_image(image, "a sample"), side, config.data.image_resize) for image in data]

    image = decode()[0]
    decoding = min(_seconds(decode) for _ in range(3)) / len(data)

    def embed(count: int) -> None:
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            feats = backbone(image.expand(count, -1, -1, -1).to(device))
        descriptors(feats).cpu()

    embed(1)
    one = _seconds(lambda: embed(1))
    count = max(1, min(config.features.batch_size, int(SECONDS / one)))
    forward = min(_seconds(lambda: embed(count)) for _ in range(2)) / count
    subject.backbone.cpu()
    if device.type == "cuda":
        cores = max(1, (os.cpu_count() or 1) // torch.cuda.device_count())
        return {"embed": 1 / max(decoding / cores, forward)}, {}
    return {"embed": 1 / (decoding + forward)}, {}


def _training(subject: Subject) -> tuple[dict[str, float], dict[str, str]]:
    """Groups/s of the training step on features that are there: forward, backward, optimiser; not compiled."""
    config, backbone = subject.config, subject.backbone
    still = {"compile": False}, {"contrastive_crf_weight": 0.0}  # compiling takes a minute, the CRF term wants images
    plain = config.model_copy(
        update={"train": config.train.model_copy(update=still[0]), "loss": config.loss.model_copy(update=still[1])}
    )
    plain = fill_in(plain, dict.fromkeys(PAIRS, Coefficients(1.0, 0.5)))  # any will do
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    size, grid = config.loss.group_size, config.data.resolution // backbone.stride
    segmenter = Segmenter(
        dim=backbone.dim,
        code_dim=config.head.code_dim,
        projection=config.head.projection,
        num_clusters=subject.clusters,
        num_classes=subject.classes or None,
    )
    step = TrainStep(segmenter, loss_settings(plain)).to(device)
    forward = Forward(plain, step, backbone, online=False)
    optimiser = torch.optim.Adam(parameter_groups(segmenter, config.train.lr_head, config.train.lr_probes))
    ids, maps, labels = torch.arange(size), torch.randn(2, size, backbone.dim, grid, grid).half(), None
    if subject.classes:
        labels = torch.randint(0, subject.classes, (size, *(config.data.resolution,) * 2), dtype=torch.uint8)
    batch = Batch(ids, ids, maps[0], maps[1], labels)

    def train() -> None:
        loss, _ = forward(batch.to(device), step=0, groups=range(1), label_scale=torch.tensor(1e-6, device=device))
        torch.autograd.backward(loss)
        optimiser.step()
        optimiser.zero_grad()
        loss.item()

    train()
    first = _seconds(train)
    times = [first, *(_seconds(train) for _ in range(min(3, int(SECONDS / first))))]
    return {"train": 1 / min(times)}, {}


def _search(subject: Subject) -> tuple[dict[str, float], dict[str, str]]:
    """The rates of the search."""
    rates = measure_rates(kernel(subject.config.knn.backend), dim=subject.backbone.dim, k=subject.config.knn.k)
    return {
        "knn_flops": rates.flops,
        "knn_matmul_flops": rates.matmul_flops,
        "knn_scan_flops": rates.scan_flops,
        "knn_query_seconds": rates.query_seconds,
    }, {}


def _seconds(fn: Callable[[], object]) -> float:
    start = time.perf_counter()
    fn()
    return time.perf_counter() - start


def open_samples(config: Config) -> ShardSamples | None:
    """The training samples, None where there is no shard set yet."""
    with suppress(UserError):
        return ShardSamples(ShardSet.open(config.data.shards, config.data.storage), config.data.train_split)
    return None
