"""Packing shards on a Ray cluster: any number of nodes, a pure function a shard (data/pack.py).

In: how many workers. Out: a runner for `data.pack.build`. The nodes share the folders of source and shards by a file
system; a node that dies costs the shards it was at, which are packed again elsewhere, to the same bytes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence

from stego_dist.data.pack import Record, Runner, serial
from stego_dist.data.plan import PackTask
from stego_dist.errors import UserError

SERIAL_BELOW = 64
"""Images for which starting Ray would cost more than the work."""


def packing_runner(workers: int | None) -> Runner:
    """Shards on `workers` Ray workers (None: one a CPU of the cluster), or one after the other, without Ray, where
    that is asked for or as quick."""

    def run(fn: Callable[[PackTask], Record], tasks: Sequence[PackTask]) -> Iterable[Record]:
        return serial(fn, tasks) if _alone(workers, tasks) else _on_cluster(fn, tasks, workers)

    return run


def _alone(workers: int | None, tasks: Sequence[PackTask]) -> bool:
    if workers == 1 or len(tasks) == 1:
        return True
    if workers is not None:
        return False
    one_cpu = os.cpu_count() == 1 and "RAY_ADDRESS" not in os.environ
    return one_cpu or sum(len(task.sources) for task in tasks) < SERIAL_BELOW


def _on_cluster(fn: Callable[[PackTask], Record], tasks: Sequence[PackTask], workers: int | None) -> Iterable[Record]:
    from stego_dist.jobs.cluster import run_tasks

    by_name = {task.name: task for task in tasks}
    for record in run_tasks(fn, tasks, workers=workers):
        task = by_name[record["name"]]
        if task.target is None and not task.record_path.exists():
            raise UserError(
                f"shard {task.name} was written to {task.out} on another node, and is not there on this one: --out and "
                "--source must lie on a file system that all nodes of the cluster share"
            )
        yield record
