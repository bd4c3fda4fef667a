"""A Ray cluster, and how shard functions run on it.

An existing cluster is used when RAY_ADDRESS names one; otherwise a local one is started and stopped again. Ray supplies
the workers; what runs on them are pure functions that do not know it. A worker that dies is restarted and its task
repeated; an error of the user's (UserError) comes back as itself.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from stego_dist import console
from stego_dist.errors import UserError

T = TypeVar("T")
R = TypeVar("R")
OBJECT_STORE_BYTES = 256 * 2**20
"""Tasks and results are small: arrays go through files."""


@contextmanager
def ray_cluster() -> Iterator[Any]:
    """Yield the `ray` module, connected; a local cluster lives as long as the context."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    address = os.environ.get("RAY_ADDRESS")
    if address is None and "RAY_AUTH_MODE" not in os.environ:
        # a token of this cluster's own, instead of one that Ray would write into HOME
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    import ray

    if ray.is_initialized():
        yield ray
        return
    try:
        if address is None:
            console.say("starting a local Ray cluster")
            ray.init(include_dashboard=False, log_to_driver=False, object_store_memory=OBJECT_STORE_BYTES,
                     logging_level="ERROR")  # fmt: skip
        else:
            console.say(f"connecting to the Ray cluster at {address}")
            ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except ConnectionError as error:
        raise UserError(
            f"RAY_ADDRESS={address}: no Ray cluster answers there ({error}); start one or unset it"
        ) from None
    try:
        yield ray
    finally:
        ray.shutdown()


def run_on_workers(
    make: Callable[[], Callable[[T], R]], tasks: Sequence[T], *, workers: int | None = None, gpu: bool = False
) -> Iterator[R]:
    """Results of `make()(task)` for all tasks, in the order in which they finish.

    `make` runs once in each worker (to load a model, say). With `gpu` a worker holds one GPU where the cluster has
    any; workers None: one a GPU, or one a CPU. The first failure is raised after the tasks in flight are cancelled.
    """
    with ray_cluster() as ray:
        resources = ray.cluster_resources()
        gpus = int(resources.get("GPU", 0)) if gpu else 0
        count = max(1, min(workers or gpus or int(resources.get("CPU", 1)), len(tasks)))
        options = {"num_cpus": 1, "num_gpus": 1 if gpus else 0, "max_restarts": -1, "max_task_retries": -1}
        actor = ray.remote(_Worker).options(**options)
        pool = [actor.remote(make) for _ in range(count)]
        left = iter(tasks)
        busy = {}
        try:
            for worker, task in zip(pool, left):
                busy[worker.run.remote(task)] = worker
            while busy:
                (done,), _ = ray.wait(list(busy), num_returns=1)
                worker = busy.pop(done)
                result = _get(ray, done)
                for task in left:
                    busy[worker.run.remote(task)] = worker
                    break
                yield result
        finally:
            for worker in pool:
                ray.kill(worker)


def run_tasks(fn: Callable[[T], R], tasks: Sequence[T], *, workers: int | None = None) -> Iterator[R]:
    """Results of `fn(task)` for all tasks on the CPUs of the cluster, in the order in which they finish."""
    return run_on_workers(partial(_constant, fn), tasks, workers=workers)


def _constant(fn: Callable[[T], R]) -> Callable[[T], R]:
    return fn


class _Worker:
    """A Ray actor that keeps what `make` built."""

    def __init__(self, make: Callable[[], Callable[[Any], Any]]) -> None:
        self.make = make
        self.fn: Callable[[Any], Any] | None = None

    def run(self, task: Any) -> Any:
        """The result of a task, or the user's error as a value."""
        try:
            if self.fn is None:
                self.fn = self.make()
            return None, self.fn(task)
        except UserError as error:
            return error, None


def _get(ray: Any, reference: Any) -> Any:
    error, result = ray.get(reference)
    if error is not None:
        raise error
    return result
