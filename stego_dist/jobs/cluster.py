"""A Ray cluster, and how shard functions run on it.

An existing cluster is used when RAY_ADDRESS names one; otherwise a local one is started and stopped again. Ray supplies
the workers; what runs on them are pure functions that do not know it. A worker that dies is replaced and its task
repeated (pool.py); an error of the user's (UserError) comes back as itself.

Where one worker does all on this machine (`alone`), it is this process, and Ray is not started.
"""

from __future__ import annotations

import os
import secrets
import sys
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, TypeVar

from stego_dist import console
from stego_dist.errors import UserError
from stego_dist.jobs.pool import START_TIMEOUT_S, Lanes, Pool, Worker
from stego_dist.system import may_have_gpu

T = TypeVar("T")
R = TypeVar("R")
OBJECT_STORE_BYTES = 256 * 2**20
"""Tasks and results are small: arrays go through files."""
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_worker_niceness": "0",
    "RAY_health_check_initial_delay_ms": "2000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_grpc_client_keepalive_time_ms": "5000",
    "RAY_grpc_client_keepalive_timeout_ms": "3000",
}
"""Set, where they are not, before Ray is imported; launchers export the same on all nodes. A lost node is then noticed
in seconds: with Ray's own values a driver was still waiting after 150 s. Workers do the work: by Ray's own value (15)
they starve beside any other process of the machine."""


@contextmanager
def ray_cluster() -> Iterator[Any]:
    """Yield the `ray` module, connected; a local cluster lives as long as the context."""
    for variable, value in ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
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
            # "local": a cluster of our own, although another's may run on this machine
            ray.init(
                address="local",
                include_dashboard=False,
                log_to_driver=False,
                object_store_memory=OBJECT_STORE_BYTES,
                logging_level="ERROR",
            )
        else:
            console.say(f"connecting to the Ray cluster at {address}")
            ray.init(address=address, log_to_driver=False, logging_level="ERROR")
            _await_nodes(ray)
    except ConnectionError as error:
        raise UserError(
            f"RAY_ADDRESS={address}: no Ray cluster answers there ({error}); start one or unset it"
        ) from None
    try:
        have = ray.cluster_resources()
        gpus = f"{have['GPU']:g} GPU(s)" if have.get("GPU") else "no GPU: workers compute on CPUs"
        console.say(f"the Ray cluster has {have.get('CPU', 0):g} CPU(s) and {gpus}")
        yield ray
    finally:
        ray.shutdown()


def alone(workers: int | None, gpus: float) -> bool:
    """Whether `run_on_workers` needs no cluster: one worker does all, on this machine, and no cluster is connected."""
    ray = sys.modules.get("ray")
    if "RAY_ADDRESS" in os.environ or (ray is not None and ray.is_initialized()):
        return False
    return workers == 1 or (workers is None and _places_here(gpus) == 1)


def _places_here(gpus: float) -> int:
    """Workers that this machine has room for."""
    found = 0
    if may_have_gpu():
        import torch

        found = torch.cuda.device_count()
    return room_for([{"CPU": os.cpu_count() or 1, "GPU": found}], 1, gpus if found else 0.0)


@contextmanager
def cluster_for(workers: int | None, gpus: float) -> Iterator[None]:
    """A cluster that several calls of `run_on_workers` share, where they need one."""
    with nullcontext() if alone(workers, gpus) else ray_cluster():
        yield


def _await_nodes(ray: Any) -> None:
    """Wait until as many nodes have joined as STEGO_RAY_NODES says. Raises UserError: too few do."""
    wanted, deadline = int(os.environ.get("STEGO_RAY_NODES", "0")), time.monotonic() + START_TIMEOUT_S
    while (found := sum(node["Alive"] for node in ray.nodes())) < wanted:
        if time.monotonic() > deadline:
            raise UserError(
                f"{found} of {wanted} nodes (STEGO_RAY_NODES) have joined the Ray cluster in {START_TIMEOUT_S:.0f} s; "
                "what launchers/ray/node.sh printed on the others says why"
            )
        time.sleep(0.2)


def run_on_workers(
    make: Callable[[], Callable[[T], R]],
    tasks: Iterable[T],
    *,
    workers: int | None = None,
    gpus: float = 0.0,
    lane: Callable[[T], Hashable] | None = None,
    then: Callable[[R], Iterable[T]] | None = None,
    attempts: int = 3,
    name: Callable[[T], str] = repr,
) -> Iterator[R]:
    """Results of `make()(task)` for all tasks, in the order in which they finish; each once, whatever worker dies.

    Args:
        make: runs once in each worker (to load a model, say).
        tasks: handed out in their order, or in that of their lane.
        workers: how many at most; None: as many as have a place on the cluster, one a CPU, or `1 / gpus` a GPU.
        gpus: GPUs of a worker, whole or a fraction; a cluster without any gives none.
        lane: tasks of a lane go to the worker that is on it; others help when no lane is left without a worker.
        then: more tasks that follow from a result; they go ahead of all others, to the first free worker.
        attempts: workers that a task may cost before it is given up.
        name: how errors call a task.

    Raises what a task raised, after the tasks in flight are finished, and UserError: a task that kills its workers, a
    cluster without a worker.
    """
    lanes = Lanes(tasks, lane)
    if not lanes:
        return
    if alone(workers, gpus):
        yield from lanes.one_by_one(make, then)
        return
    with ray_cluster() as ray:
        nodes, gpus, places = _cluster(ray, gpus)
        options = {
            "num_cpus": _threads(nodes, workers or places, gpus),
            "num_gpus": gpus,
            "max_restarts": 0,  # the pool replaces them: Ray would make the task wait for a node that may never return
            "scheduling_strategy": "SPREAD",
        }
        start = partial(ray.remote(Worker).options(**options).remote, make)
        yield from Pool(ray, start, lanes, then=then, attempts=attempts, name=name).results(
            min(workers or places, len(lanes))
        )


def worker_count(workers: int | None, gpus: float) -> int:
    """How many workers `run_on_workers` would start for any number of tasks."""
    if alone(workers, gpus):
        return 1
    with ray_cluster() as ray:
        return workers or _cluster(ray, gpus)[2]


def _cluster(ray: Any, gpus: float) -> tuple[list[Mapping[str, float]], float, int]:
    """Resources of the living nodes, GPUs of a worker, and how many workers have a place. Raises UserError: none."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = gpus if any(node.get("GPU") for node in nodes) else 0.0
    places = room_for(nodes, 1, gpus)
    if not places:
        raise UserError(f"no node of the Ray cluster has the CPU and the {gpus:g} GPUs that a worker takes")
    return nodes, gpus, places


def room_for(nodes: Sequence[Mapping[str, float]], cpus: int, gpus: float) -> int:
    """Workers of so many CPUs and GPUs that fit the nodes."""
    return sum(
        int(min(node.get("CPU", 0) // cpus, node.get("GPU", 0) / gpus + 1e-6 if gpus else node.get("CPU", 0)))
        for node in nodes
    )


def _threads(nodes: Sequence[Mapping[str, float]], workers: int, gpus: float) -> int:
    """CPUs of a worker, which are its threads (Ray sets OMP_NUM_THREADS where it is unset): as many as leave a place
    for each of the workers, since cores that no worker holds would lie idle. It is no matter of how many tasks are
    left: products may round otherwise with other threads, and a job that is started again goes on as it began."""
    most = int(max(node.get("CPU", 0) for node in nodes))
    return max((cpus for cpus in range(1, most + 1) if room_for(nodes, cpus, gpus) >= workers), default=1)


def run_tasks(fn: Callable[[T], R], tasks: Iterable[T], *, workers: int | None = None) -> Iterator[R]:
    """Results of `fn(task)` for all tasks on the CPUs of the cluster, in the order in which they finish."""
    return run_on_workers(partial(_constant, fn), tasks, workers=workers)


def _constant(fn: Callable[[T], R]) -> Callable[[T], R]:
    return fn
