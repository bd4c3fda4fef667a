"""A run made once; tests only read it, or copy it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from stego_dist.rundir import RunDir
from tests.inference.made import write_run


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory) -> RunDir:
    """A run with labels, five clusters; do not change it."""
    return write_run(tmp_path_factory.mktemp("tiny_run"))


@pytest.fixture
def own_run(tiny_run, tmp_path) -> RunDir:
    """A copy that a test may change."""
    return RunDir(Path(shutil.copytree(tiny_run.root, tmp_path / "run")))
