"""A tiny shard set with its features and table, made once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.tiny import build_shards, config_at, embed_and_search


@pytest.fixture(scope="session")
def prepared(tmp_path_factory) -> Path:
    """A folder with shards, bank and table; tests copy it or only read it."""
    root = tmp_path_factory.mktemp("prepared")
    build_shards(root)
    embed_and_search(config_at(root))
    return root


@pytest.fixture
def workspace(prepared, tmp_path) -> Path:
    """A copy of it that a test may change."""
    return Path(shutil.copytree(prepared, tmp_path / "workspace"))
