"""What binds in a plan, and what to change, in sentences.

In: an estimate for one number of images (jobs/plan.py). Out: a sentence for each thing to know; none where all fits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from stego_dist.console import duration, size

if TYPE_CHECKING:
    from stego_dist.jobs.plan import Facts, Figures

LISTING_BYTES = 1000
"""Memory of one image in the list of sources, in the process that builds shards."""
DAY = 86400.0
MOST_WORKERS = 2**20


def advice(found: dict[str, Any], facts: Facts, figures: Figures, total: Callable[[int], float]) -> Iterator[str]:
    """Sentences about disks, memory, coverage and time; `total`: seconds of it all by a number of workers."""
    yield from _disk(found, figures)
    yield from _memory(found, facts, figures)
    n = found["crops"]
    if (seen := facts.steps * facts.batch) < n:
        yield (
            f"training looks at {seen:,} of {n:,} crops (train.steps × train.batch_size); all of them once are "
            f"{math.ceil(n / facts.batch):,} steps"
        )
    yield from _time(found, total)


def _disk(found: dict[str, Any], figures: Figures) -> Iterator[str]:
    stages, free = found["stages"], figures.disk_free
    kept = stages["embedding"]["bytes"] + stages["knn exact"]["bytes"] + found["knn"]["index_bytes"]
    bank = stages["bank"]["bytes"] + stages["evaluation bank"]["bytes"]
    online, banked = (stages[f"training {name}"]["seconds"] for name in ("online", "bank"))
    if kept > free:
        yield (
            f"descriptors, neighbour table and inverted file need {size(kept)}, {size(free)} are free: name a larger "
            "disk by features.dir"
        )
    if kept + bank > free:
        yield (
            f"the bank needs {size(bank)} more, of {size(free)} free: train online (a run takes {duration(online)} "
            f"instead of {duration(banked)}), or name a larger disk by features.dir"
        )


def _memory(found: dict[str, Any], facts: Facts, figures: Figures) -> Iterator[str]:
    n, knn, limit = found["crops"], found["knn"], figures.memory
    shared = facts.descriptor_bytes * facts.dim * n
    if knn["method"] == "exact" and not knn["exact"]["resident"]:
        yield (
            f"a worker's share of the descriptors ({size(shared / found['workers'])}) does not fit into knn.memory_gb "
            f"({size(facts.knn_memory)}) and is read again for every chunk of queries: more memory, or about "
            f"{math.ceil(shared / (0.7 * facts.knn_memory)):,} workers, would keep it"
        )
    if knn["method"] == "ivf" and not knn["ivf"]["fits"]:
        held = found["stages"]["knn ivf"]["memory_per_worker"]
        coarser = {"flat": "knn.ivf_code=sq8 or pq, ", "sq8": "knn.ivf_code=pq, ", "pq": ""}[facts.code]
        yield (
            f"a worker's part of the inverted file ({facts.code}) takes {size(held)}, knn.memory_gb allows "
            f"{size(facts.knn_memory)}: {coarser}more workers or more memory"
        )
    if (most := found["total"]["memory_per_worker"]) > limit:
        yield f"a worker needs up to {size(most)} of memory and has {size(limit)}"
    if (listed := LISTING_BYTES * found["images"]) > limit:
        yield (
            f"the list of the images takes {size(listed)} in the process that builds the shards, which has "
            f"{size(limit)}: build them as several sets"
        )


def _time(found: dict[str, Any], total: Callable[[int], float]) -> Iterator[str]:
    """The longest stage, where it all takes more than a day, and how many workers would be done in one."""
    stages, whole = found["stages"], found["total"]["seconds"]
    if whole <= DAY:
        return
    longest = max(found["total"]["of"], key=lambda name: float(stages[name]["seconds"]))
    text = f"{longest} takes {duration(stages[longest]['seconds'])} of {duration(whole)}"
    enough = found["workers"]
    while total(enough) > DAY and enough < MOST_WORKERS:
        enough *= 2
    if total(enough) > DAY:
        yield f"{text}, and no number of such workers would be done in a day"
        return
    fewer = enough // 2
    while enough - fewer > max(1, enough // 100):
        middle = (fewer + enough) // 2
        fewer, enough = (middle, enough) if total(middle) > DAY else (fewer, middle)
    yield f"{text}; about {enough:,} such workers would be done in a day"
