"""The whole path through sbatch on two hosts, two jobs on the same hosts at once, and what is left of them."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from stego_dist.data.card import load_card
from stego_dist.data.pack import build
from stego_dist.data.plan import BuildOptions
from tests.cluster.virtual import Cluster, Job
from tests.engine.faults import command
from tests.launching import stego
from tests.ranks import on_ranks
from tests.tiny import config_at, embed_and_search, write_images

pytestmark = [pytest.mark.cluster, pytest.mark.ray, pytest.mark.ranks]
TWO = "--nodes=2 --nodelist=n1,n2 --cpus-per-task=2 --time=10"
SHORT = ("train.steps=4", "eval.correspondences=0")


@pytest.fixture(scope="module")
def root(cluster) -> Path:
    """Images and a configuration; the same shards, table, run and results, made here, in `alone`."""
    made = cluster.folder / "pipeline"
    write_images(made / "images")
    config_at(made)
    alone = made / "alone"
    alone.mkdir()
    build(load_card("folder"), made / "images", alone / "shards", BuildOptions())
    embed_and_search(config_at(alone))
    return made


@pytest.fixture(scope="module")
def jobs(cluster: Cluster, root: Path) -> dict[str, Job]:
    """The stages, ended; while they ran, another process of the user's that looks like Ray's was on a host."""
    cluster("on", "n1", "bash", "-c", "exec -a raylet sleep 1000 >/dev/null 2>&1 & echo")
    words = [root / "config.yaml", *SHORT, "--", "folder", "--source", root / "images", "--workers", "2"]
    flags = f"{TWO} --output={cluster.folder}/%x-%j.out"
    printed = cluster.on("login", "launchers/slurm/pipeline", *map(str, words), STEGO_SBATCH=flags, OMP_NUM_THREADS=1)
    stages = dict(line.split() for line in printed.splitlines())
    assert list(stages) == ["shards", "knn", "train", "eval"]
    return {stage: cluster.job(number) for stage, number in stages.items()}


def test_the_pipeline_gives_what_one_machine_gives(jobs, root):
    for job in jobs.values():
        assert job.end() == "COMPLETED", job.log[-6000:]
    alone = root / "alone"
    for file in ("shards/manifest.json", *(f"shards/{p.name}" for p in (alone / "shards").glob("*.tar"))):
        assert (root / file).read_bytes() == (alone / file).read_bytes(), file
    parts = sorted(p.relative_to(alone) for p in (alone / "features" / "knn").glob("*.np*"))
    assert parts
    for part in parts:
        assert (root / part).read_bytes() == (alone / part).read_bytes(), part
    assert "connecting to the Ray cluster at 10.77.0.1:" in jobs["knn"].log
    assert "the Ray cluster has 4 CPU(s)" in jobs["knn"].log and "2 process(es) on cpu" in jobs["train"].log

    assert on_ranks(2, command, None, "train", str(alone / "config.yaml"), *SHORT) == [0, 0]
    ours, theirs = (load_file(run / "run" / "model.safetensors") for run in (root, alone))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    stego(1, "eval", str(alone / "run"))
    ours, theirs = (json.loads((run / "run" / "results.json").read_text()) for run in (root, alone))
    assert ours["measures"] == theirs["measures"] and ours["images"] == 5


def test_a_sweep_has_trials_on_both_hosts_at_once(cluster, jobs, root):
    jobs["eval"].end()
    space = root / "space.yaml"
    space.write_text("loss.self_pair.shift: {grid: [0.05, 0.1]}\n")
    arguments = (
        root / "config.yaml",
        *SHORT,
        "--",
        "--space",
        space,
        "--search",
        "grid",
        "--cpus",
        2,
        "--out",
        root / "sweep",
    )
    job = cluster.submit("sweep", *arguments, flags=TWO)
    assert job.end() == "COMPLETED", job.log[-6000:]
    assert "2 trials, 2 at a time, each 2 CPU(s)" in job.log  # which is all of a host
    assert job.log.index("trial 1 begins") < job.log.index("trial 0: label_free")
    runs = sorted((root / "sweep" / "trials").glob("*/run"))
    assert len(runs) == 2
    assert on_ranks(1, command, None, "train", str(root / "config.yaml"), *SHORT, "loss.self_pair.shift=0.05",
                    f"run_dir={root / 'trial'}") == [0]  # fmt: skip
    ours, alone = (load_file(run / "model.safetensors") for run in (runs[0], root / "trial"))
    for key in alone:
        torch.testing.assert_close(ours[key], alone[key], rtol=1e-3, atol=1e-4)


@pytest.mark.long
def test_two_jobs_on_the_same_hosts_leave_each_other_alone(cluster, jobs, root):
    """Each has a Ray cluster of its own; the second one is at work when the first one's ends."""
    jobs["eval"].end()
    others = [f"features.dir={root / name}" for name in ("first", "second")]
    first, second = (cluster.submit("knn", root / "config.yaml", words, flags=TWO) for words in others)
    assert (first.end(), second.end()) == ("COMPLETED", "COMPLETED"), first.log[-3000:] + second.log[-3000:]
    assert first.field("StartTime") <= second.field("EndTime") and second.field("StartTime") <= first.field("EndTime")
    addresses = {line for job in (first, second) for line in job.log.splitlines() if "Ray cluster at" in line}
    assert len(addresses) == 2


def test_nothing_is_left_but_what_is_others(cluster, jobs):
    for job in jobs.values():
        job.end()
    deadline = time.monotonic() + 120
    while (left := cluster.processes("n1") + cluster.processes("n2")) != [
        "raylet 1000"
    ] and time.monotonic() < deadline:
        time.sleep(0.5)
    assert left == ["raylet 1000"]
    for host in ("n1", "n2"):
        assert "stego-ray" not in cluster.on(host, "ls", "/tmp")


@pytest.mark.long
def test_a_ray_cluster_on_named_hosts(cluster, tmp_path):
    """`ssh` is a command here that goes to a virtual host."""
    ssh = cluster.folder / "ssh"
    ssh.write_text(f'#!/bin/bash\nexec {Path.cwd()}/tests/cluster/vcluster on "$1" bash -c "$2"\n')
    ssh.chmod(0o755)
    where = cluster.folder / "ray"
    environment = {**cluster.environment, "STEGO_SSH": str(ssh), "STEGO_RAY_CPUS": "1"}
    subprocess.run(["launchers/ray/hosts", "up", str(where), "n3", "n4"], env=environment, check=True)
    try:
        assert where.stat().st_mode & 0o077 == 0  # the token is in it
        found = cluster.on(
            "n3", "bash", "-c", f". {where}/environment; python -m stego_dist doctor --json", check=False
        )
        ray = next(finding for finding in json.loads(found)["findings"] if finding["name"] == "Ray")
        assert ray["state"] == "ok" and "2 node(s), 2 CPU(s)" in ray["found"]
    finally:
        subprocess.run(["launchers/ray/hosts", "down", str(where)], env=environment, check=True)
    deadline = time.monotonic() + 120
    while (left := cluster.processes("n3") + cluster.processes("n4")) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert left == []
