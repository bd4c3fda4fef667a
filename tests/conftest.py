"""Shared fixtures: golden figures, and the folder of real data where it is there."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pytest
import torch

from stego_dist.jobs.cluster import ENVIRONMENT

for variable, value in ENVIRONMENT.items():  # before a test module imports Ray
    os.environ.setdefault(variable, value)
torch.set_num_threads(1)

REPO = Path(__file__).resolve().parent.parent
GOLDEN = REPO / "tests" / "golden"


@pytest.fixture(scope="session")
def golden() -> Callable[[str], dict[str, Any]]:
    """Load a golden case by name: arrays as numpy, see tests/golden/README.md."""

    def load(name: str) -> dict[str, Any]:
        with np.load(GOLDEN / f"{name}.npz") as file:
            return dict(file)

    return load


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real data and weights that stands beside some checkouts of this project."""
    path = REPO.parent / "shared"
    if not (path / "data" / "camvid").is_dir():
        pytest.skip("real data (../shared/data/camvid, ../shared/weights) are not beside this checkout")
    return path
