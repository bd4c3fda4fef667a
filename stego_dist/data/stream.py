"""Anchors streamed from shards with webdataset, lane by lane.

1. A lane's windows come from data/order.py: runs of consecutive samples of a few shards.
2. A run is read by webdataset's tar reader from a stream of the storage, which starts at the run's first header; one
   from afar ends with its last sample, so that nothing is sent in vain.
3. The samples of a window are handed out in the window's permutation.

A stream that starts in the middle of an epoch skips the windows before without reading them.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from webdataset.tariterators import group_by_keys, tar_file_expander

from stego_dist.data.order import Order, Run
from stego_dist.data.samples import ShardSamples
from stego_dist.errors import UserError


@dataclass(frozen=True)
class RawSample:
    """A compressed sample of the stream."""

    id: int
    image: bytes
    label: bytes | None


def read_run(samples: ShardSamples, run: Run) -> Iterator[RawSample]:
    """The samples of a run, in order. Raises UserError naming the shard when it ends early or is no tar."""
    shard, storage = samples.split.shards[run.shard], samples.shard_set.storage
    path = storage.where(shard.tar)
    first = int(samples.shard_starts[run.shard]) + run.first
    count = 0
    try:
        with storage.open(shard.tar, samples.header_offset(first), samples.end_of_run(first, run.count)) as file:
            members = tar_file_expander([{"url": str(path), "stream": file}])
            for number, sample in enumerate(islice(group_by_keys(members), run.count)):
                if sample["__key__"] != samples.key(first + number):
                    raise UserError(
                        f"{path}: found sample {sample['__key__']} where the index has {samples.key(first + number)}"
                    )
                if samples.split.labelled and "label.png" not in sample:
                    break  # cut off between image and label
                yield RawSample(first + number, sample["jpg"], sample.get("label.png"))
                count += 1
    except (OSError, KeyError, ValueError, tarfile.TarError) as error:
        # webdataset adds its objects to what an error says
        reason = error if isinstance(error, OSError) else str(error.args[0]).split(" @ ")[0]
        raise UserError(f"{path} can't be read: {reason}; run `stego-dist shards verify`") from None
    if count < run.count:
        raise UserError(f"{path} ends after {run.first + count} samples; run `stego-dist shards verify`")


def stream_lane(samples: ShardSamples, order: Order, lane: int, first_batch: int = 0) -> Iterator[RawSample]:
    """A lane for ever, from batch `first_batch` (counted over epochs) on."""
    epoch, skip = order.position(first_batch)
    while True:
        for runs, permutation in order.windows(epoch, lane):
            if skip >= len(permutation):
                skip -= len(permutation)
                continue
            window = [sample for run in runs for sample in read_run(samples, run)]
            for place in permutation[skip:]:
                yield window[place]
            skip = 0
        epoch += 1
