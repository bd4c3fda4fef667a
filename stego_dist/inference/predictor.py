"""Segments inputs and writes what is asked for about each: the work of one process.

1. a few images ahead are read by threads, while
2. windows go through the network in batches, whichever image they are of;
3. the CRF, where it is asked for, refines at a bounded number of pixels;
4. each image's files are written, its record last.

An image that can't be read is a `Failure`; the rest goes on. What can't be written ends the work.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import torch

from stego_dist.config.tree import EvalConfig
from stego_dist.data.sources import open_image
from stego_dist.engine.refine import Refiner, make_refiner
from stego_dist.errors import UserError
from stego_dist.inference import geo
from stego_dist.inference.batches import Failed, Finished
from stego_dist.inference.inputs import Failure, Input
from stego_dist.inference.model import Model
from stego_dist.inference.outputs import Outputs
from stego_dist.inference.rasters import Pixels, Raster, whole, within
from stego_dist.inference.segmentation import Segmentation
from stego_dist.inference.sources import FileSource, ImageSource, UrlSource
from stego_dist.rundir import writing_to

AHEAD, AHEAD_WEB = 2, 16
"""Images that are read ahead: from disks, and from the web, where each waits for an answer."""
CRF_PIXELS = 1 << 20
"""The CRF looks at no more than these; larger images are reduced for it."""
RESTART = "What is finished is kept: the same command goes on from there."

Outcome = tuple[Input, Failure | None]


class Predictor:
    """A model and the folder that its results go to."""

    def __init__(self, model: Model, outputs: Outputs, settings: EvalConfig) -> None:
        """settings: how the CRF is run."""
        self.model, self.outputs, self.settings = model, outputs, settings

    def predict(self, inputs: Sequence[Input]) -> Iterator[Outcome]:
        """Work on inputs; each comes back when its files are there, or with the reason why they are not.

        Raises UserError: something can't be written.
        """
        failures: deque[Outcome] = deque()

        def failed(number: int, error: UserError) -> None:
            item = inputs[number]
            self.outputs.forget(item)
            failures.append((item, Failure.of(item.source.where, error)))

        made: dict[int, str] = {}
        with ThreadPoolExecutor(AHEAD_WEB) as threads, _memory_explained():
            rasters = _read_ahead(threads, inputs, self.outputs.made_of, made, failed)
            found = self.model.segment_rasters(rasters, self.outputs.options.batch_size, failed)
            for number, raster, segmentation in self._refined(found, failed):
                with writing_to(self.outputs.out, RESTART):
                    try:
                        self.outputs.write(inputs[number], made.pop(number), raster, segmentation)
                    except UserError as error:  # of a file whose parts are read for the overlay; not of writing
                        failed(number, error)
                    else:
                        yield inputs[number], None
                while failures:
                    yield failures.popleft()
        yield from failures

    def _refined(self, found: Iterable[Finished], failed: Failed) -> Iterator[Finished]:
        if not self.outputs.options.crf:
            yield from found
            return
        refiner = make_refiner(self.settings, self.model.device)
        try:
            yield from _through(refiner, found, self.model.device, failed)
        finally:
            refiner.close()


@contextlib.contextmanager
def _memory_explained() -> Iterator[None]:
    """Turns a GPU's lack of memory into a UserError."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"the GPU's memory does not suffice ({str(error).partition('. ')[0]}); take a smaller --batch-size or "
            f"--window, or fewer workers a GPU. {RESTART}"
        ) from None


def _through(refiner: Refiner, found: Iterable[Finished], device: torch.device, failed: Failed) -> Iterator[Finished]:
    """Segmentations with what the CRF makes of them."""
    waiting: dict[int, tuple[Raster, Segmentation]] = {}

    def finished(everything: bool) -> Iterator[Finished]:
        for number, _, _, winners in refiner.finished(everything):
            raster, segmentation = waiting.pop(number)
            yield number, raster, replace(segmentation, refined=winners.cpu().numpy())

    for number, raster, segmentation in found:
        size = within(segmentation.size, CRF_PIXELS, CRF_PIXELS)
        try:
            image = whole(raster.scaled(*size)).to(device)
        except UserError as error:
            failed(number, error)
            continue
        waiting[number] = raster, segmentation
        log_probs = segmentation.log_probabilities(*size).to(device)
        refiner.submit([number], image[None], {"clusters": log_probs[None]}, None)
        yield from finished(False)
    yield from finished(True)


def open_raster(source: ImageSource) -> Raster:
    """An image to be looked at, upright RGB. Raises UserError: unreadable, no image, too large to be read whole."""
    if isinstance(source, FileSource) and geo.wants_parts(source.path, source.where):
        return geo.TiffRaster(source.path, source.where)
    return Pixels.of(open_image(source.read(), source.where))


def _read_ahead(
    threads: ThreadPoolExecutor,
    inputs: Sequence[Input],
    made_of: Callable[[Input], str],
    made: dict[int, str],
    failed: Failed,
) -> Iterator[tuple[int, Raster]]:
    """Numbered rasters of inputs, in order; `made` gets what each is made of, as it was before it was read."""

    def read(item: Input) -> tuple[str, Raster]:
        return made_of(item), open_raster(item.source)

    under_way: deque[tuple[int, Future[tuple[str, Raster]]]] = deque()
    following = iter(enumerate(inputs))
    upcoming = next(following, None)
    while under_way or upcoming:
        while upcoming and len(under_way) < (AHEAD_WEB if isinstance(upcoming[1].source, UrlSource) else AHEAD):
            under_way.append((upcoming[0], threads.submit(read, upcoming[1])))
            upcoming = next(following, None)
        number, future = under_way.popleft()
        try:
            made[number], raster = future.result()
        except UserError as error:
            failed(number, error)
        else:
            yield number, raster
