"""A Slurm of virtual hosts, once a session."""

from __future__ import annotations

import pytest

from tests.cluster.virtual import Cluster, missing


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    """Eight hosts; all of their names mean 127.0.1.1 to themselves, and HOME holds a stale token of Ray's."""
    if reason := missing():
        pytest.skip(reason)
    names = tuple(f"n{i}" for i in range(1, 9))
    made = Cluster(tmp_path_factory.mktemp("cluster"), len(names), loopback=names)
    try:
        (made.home / ".ray").mkdir()
        (made.home / ".ray" / "auth_token").write_text("0" * 64)
        yield made
    finally:
        made.down()
