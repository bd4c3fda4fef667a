"""The driver: hands trials to Ray Tune until each has a result.

Ray Tune places the actors, reuses them, and stops trials early. The truth lies in the sweep's folder: which trials
there are, what they were begun with, what became of them. To resume is to leave out the trials that have a result; the
rest go on from their checkpoints. `Tuner.restore` is not used: it restores Tune's own snapshot, which may lag seconds
behind what trials have written, and ties the sweep to pickled objects of one version of Ray and of this package.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from stego_dist import console
from stego_dist.errors import UserError
from stego_dist.jobs.cluster import ray_cluster, room_for
from stego_dist.jobs.sweep.course import Course
from stego_dist.jobs.sweep.plan import Folder, Plan
from stego_dist.jobs.sweep.tell import scoreboard
from stego_dist.jobs.sweep.trial import Work, perform

TUNE = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "1000000000",
    "RAY_AIR_NEW_OUTPUT": "0",
}
"""No files, signal handlers and prints of Tune's own."""


@dataclass(frozen=True)
class Resources:
    """What trials may take."""

    concurrent: int | None = None
    """Trials at a time; None: as many as have a place."""
    cpus: int = 1
    """Of a trial."""
    gpus: float | None = None
    """Of a trial, whole or a fraction; None: one a process where the cluster has any."""


class Interruption:
    """A signal that asks the driver to stop."""

    number: int | None = None

    def set(self, number: int, frame: FrameType | None) -> None:
        """The handler; a second signal ends at once."""
        if self.number is not None:
            raise KeyboardInterrupt
        self.number = number
        console.say("stopping: running trials are ended within seconds, their checkpoints are kept", style="yellow")


def drive(plan: Plan, folder: Folder, resources: Resources, *, retries: int = 2, work: Work = perform) -> int | None:
    """Run what is left of a sweep; returns the number of the signal that stopped it, None when all is done.

    Raises UserError when the cluster has no place for a trial.
    """
    with ray_cluster() as ray, scoreboard(plan, folder.results()) as board, _interruptible() as flag:
        course = Course(plan, folder, retries, board)
        if not course.finished:
            concurrent, gpus = _fit(ray, plan, resources)
            _tune(course, concurrent, {"cpu": resources.cpus, "gpu": gpus}, flag, work)
        return None if course.finished else flag.number or signal.SIGTERM


def _fit(ray: Any, plan: Plan, resources: Resources) -> tuple[int, float]:
    """Trials at a time, and GPUs of each."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    have = any(node.get("GPU") for node in nodes)
    gpus = float(plan.processes if have else 0) if resources.gpus is None else resources.gpus
    if gpus and not have:
        raise UserError(f"--gpus {gpus:g}: the Ray cluster has no GPU; leave it out to train on CPUs")
    room = room_for(nodes, resources.cpus, gpus)
    if not room:
        raise UserError(f"no node of the Ray cluster has the {resources.cpus} CPU(s) and {gpus:g} GPU(s) of a trial")
    concurrent = min(resources.concurrent or room, room)
    share = f", each {resources.cpus} CPU(s)" + (f" and {gpus:g} GPU(s)" if gpus else "")
    console.say(f"{plan.trials} trials, {concurrent} at a time{share}")
    return concurrent, gpus


def _tune(course: Course, concurrent: int, share: Mapping[str, float], flag: Interruption, work: Work) -> None:
    """Let Ray Tune run the trials until all are finished or the flag is raised."""
    os.environ |= {key: os.environ.get(key, value) for key, value in TUNE.items()}
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    from ray import tune  # not at the head: `ray_cluster` sets the environment in which Ray must be imported

    from stego_dist.jobs.sweep.actor import TrialActor
    from stego_dist.jobs.sweep.glue import Asha, Ends, Stop, Trials

    plan, folder = course.plan, course.folder
    shutil.rmtree(folder.tune, ignore_errors=True)
    scheduler = None
    if plan.early_stop == "asha":
        scheduler = Asha(plan)
        scheduler.replay(course.results.values())
    constant = {"work": work, "root": str(folder.root), "cwd": str(Path.cwd())}
    try:
        tune.Tuner(
            tune.with_resources(TrialActor, dict(share)),
            tune_config=tune.TuneConfig(
                search_alg=Trials(course, concurrent, constant), scheduler=scheduler, num_samples=-1, reuse_actors=True,
                trial_dirname_creator=lambda trial: f"{trial.config['trial']}-{trial.trial_id}",
            ),
            run_config=tune.RunConfig(
                name="tune", storage_path=str(folder.tune), stop=Stop(flag), callbacks=[Ends(course)], verbose=0,
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        ).fit()  # fmt: skip
    finally:
        shutil.rmtree(folder.tune, ignore_errors=True)


@contextmanager
def _interruptible() -> Iterator[Interruption]:
    """SIGTERM and ctrl-C raise a flag inside of it."""
    flag = Interruption()
    before = {number: signal.signal(number, flag.set) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
