"""Prediction of any number of images by one process, or by workers of a Ray cluster.

1. what is named is listed, and each image gets the name of its outputs;
2. images whose record says that they were made from the same are skipped;
3. the others are segmented, here or, a chunk at a time, on workers; a killed job goes on where it stopped;
4. predictions.json and what else spans all images are put together from the records.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from stego_dist import console
from stego_dist.errors import ConfigError, UserError
from stego_dist.inference.exchange import write_coco, write_label_studio, write_lists
from stego_dist.inference.inputs import Failure, Input, list_inputs, printable
from stego_dist.inference.model import Model, OpenedRun, Scale
from stego_dist.inference.modelfile import find_model_file
from stego_dist.inference.names import Names, hex_colour
from stego_dist.inference.options import FORMAT, Options, made_from, settings_of
from stego_dist.inference.outputs import Outputs
from stego_dist.inference.predictor import RESTART, Outcome, Predictor
from stego_dist.jobs.cluster import run_on_workers
from stego_dist.rundir import sha256_file, writing_to

CHUNK = 32
"""Most images of a task."""
COARSE = 4
"""Times the network's scale from which an image's shorter side is said to lose details."""


@dataclass
class Summary:
    """What a prediction came to."""

    out: Path
    names: Names
    failures: list[Failure]
    done_before: int = 0
    seconds: float = 0.0
    images: int = 0
    coarse: int = 0
    """Images that are seen at less than a quarter of their size."""
    pixels: Counter[str] = field(default_factory=Counter)
    """By class, of all images."""
    images_with: Counter[str] = field(default_factory=Counter)
    """Images that have a class."""
    led: Counter[str] = field(default_factory=Counter)
    """Confidence by class, summed over its pixels."""

    def add(self, image: Mapping[str, Any], scale: Scale) -> None:
        """Count an image as predictions.json has it."""
        self.images += 1
        self.coarse += scale != "native" and min(image["width"], image["height"]) > COARSE * scale
        for name, found in image["classes"].items():
            count = round(found["share"] * image["width"] * image["height"])
            self.pixels[name] += count
            self.images_with[name] += 1
            self.led[name] += count * found["confidence"]

    def classes(self) -> list[dict[str, Any]]:
        """Share of all pixels, number of images and mean confidence of each class, the largest first."""
        total = max(1, self.pixels.total())
        rows = [
            {
                "name": c.name,
                "share": self.pixels[c.name] / total,
                "images": self.images_with[c.name],
                "confidence": self.led[c.name] / max(1, self.pixels[c.name]),
            }
            for c in self.names.classes
        ]
        return sorted(rows, key=lambda row: -float(row["share"]))


@dataclass(frozen=True)
class Setup:
    """What every process needs to begin."""

    run: Path
    overrides: tuple[str, ...]
    options: Options
    out: Path

    def model(self, device: str = "auto") -> Model:
        """The model, as the options say."""
        o = self.options
        return Model.load(
            self.run, device=device, readout=o.readout, scale=o.scale, window=o.window, flip=o.flip,
            overrides=self.overrides,
        )  # fmt: skip


def predict(
    setup: Setup,
    words: Sequence[str],
    *,
    split: str | None = None,
    stdin: Iterable[str] = (),
    workers: int = 1,
    overwrite: bool = False,
) -> Summary:
    """Segment what the words name and write to setup.out; see inference/outputs.py for the files.

    split: of shard sets; None: the run's evaluated one. workers: processes; more than one are Ray's. overwrite: also
    what is done. Raises UserError: no run, what can't be written, no worker left.
    """
    opened = OpenedRun.open(setup.run, setup.overrides)
    setup = replace(setup, run=setup.run.absolute(), out=setup.out.absolute())
    if setup.out == setup.run:
        raise ConfigError(f"--out {setup.out} is the run itself; name another folder")
    listing = list_inputs(
        words, split=split or opened.config.data.eval_split, storage=opened.config.data.storage, stdin=stdin,
        out=setup.out,
    )  # fmt: skip
    model = setup.model("cpu" if workers > 1 else "auto")
    digest = sha256_file(find_model_file(setup.run) or opened.run.model)
    settings = settings_of(model, opened.config, setup.options, digest)
    outputs = Outputs(setup.out, setup.options, made_from(settings, model, setup.options))
    summary = Summary(setup.out, model.names, listing.failures)
    with writing_to(setup.out, RESTART):
        setup.out.mkdir(parents=True, exist_ok=True)
        outputs.clean()
    todo, done = _sorted_out(outputs, listing.inputs, overwrite)
    summary.done_before = len(done)
    console.say(
        f"predicting {len(listing.inputs)} images with {opened.config.name} ({model.scorer.readout} clusters, "
        f"{len(model.names.classes)} classes) to {setup.out}" + (f"; {len(done)} are there already" if done else "")
    )
    start = time.monotonic()
    with console.progress("predict", len(listing.inputs), done=len(listing.inputs) - len(todo)) as bar:
        for item, failure in _outcomes(setup, opened, model, outputs, todo, workers):
            bar.advance()
            if failure is None:
                done.add(item.name)
            else:
                summary.failures.append(failure)
                console.warn(failure.reason)
    summary.seconds = time.monotonic() - start
    finished = [item.name for item in listing.inputs if item.name in done]
    with writing_to(setup.out, RESTART):
        _put_together(setup, opened.config.name, settings, outputs, finished, summary)
    return summary


def _sorted_out(outputs: Outputs, inputs: Sequence[Input], overwrite: bool) -> tuple[list[Input], set[str]]:
    """What is left to do, and the names of what is done."""
    done = set() if overwrite else {item.name for item in inputs if outputs.is_done(item)}
    return [item for item in inputs if item.name not in done], done


def _outcomes(
    setup: Setup, opened: OpenedRun, model: Model, outputs: Outputs, todo: list[Input], workers: int
) -> Iterator[Outcome]:
    if workers == 1 or not todo:
        yield from Predictor(model, outputs, opened.config.eval).predict(todo)
        return
    size = max(1, min(CHUNK, -(-len(todo) // (4 * workers))))
    chunks = [todo[first : first + size] for first in range(0, len(todo), size)]
    make = partial(_make_worker, setup, outputs)
    for outcomes in run_on_workers(
        make, chunks, workers=workers, gpus=opened.config.features.gpus_per_worker,
        name=lambda chunk: f"the images from {chunk[0].source.where} on",
    ):  # fmt: skip
        for item, failure in outcomes:
            if failure is None and not outputs.record_path(item.name).exists():
                raise UserError(
                    f"{item.name} was written to {setup.out} on another node, and is not there on this one: --out must "
                    "lie on a file system that all nodes of the cluster share"
                )
            yield item, failure


def _make_worker(setup: Setup, outputs: Outputs) -> Callable[[list[Input]], list[Outcome]]:
    """Runs in a worker: load the model once."""
    opened = OpenedRun.open(setup.run, setup.overrides)
    settings = opened.config.eval.model_copy(update={"crf_workers": opened.config.eval.crf_workers or 1})
    predictor = Predictor(setup.model(), outputs, settings)
    return lambda chunk: list(predictor.predict(chunk))


def _put_together(
    setup: Setup, run: str, settings: dict[str, Any], outputs: Outputs, finished: list[str], summary: Summary
) -> None:
    """Write what spans all images."""
    names, options = summary.names, setup.options

    def images() -> Iterator[dict[str, Any]]:
        for name in finished:
            image = outputs.record(name)["image"]
            summary.add(image, settings["scale"])
            yield image

    classes = [
        {
            "id": i,
            "name": c.name,
            "colour": hex_colour(c.colour),
            "clusters": [k for k, place in enumerate(names.of_cluster) if place == i],
        }
        for i, c in enumerate(names.classes)
    ]
    head = {"format": FORMAT, "run": printable(run), "settings": settings, "classes": classes}
    failures = [{"file": f.where, "reason": f.reason} for f in sorted(summary.failures, key=lambda f: f.where)]
    write_lists(setup.out / "predictions.json", head, {"images": images(), "failures": failures})

    def records() -> Iterator[dict[str, Any]]:
        return map(outputs.record, finished)

    if options.coco:
        write_coco(setup.out / "coco.json", records, names, f"stego_dist: {run}")
    if options.label_studio is not None:
        path = setup.out / "label_studio.json"
        write_label_studio(path, records(), names, run, options.label_studio)
