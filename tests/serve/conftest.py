"""One random run and its server for all tests of a module; names are taken away after each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from stego_dist.rundir import RunDir
from tests.serve.serving import Served, random_run, served


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory) -> RunDir:
    """A run with random weights."""
    return random_run(tmp_path_factory.mktemp("serve"))


@pytest.fixture(scope="module")
def server(tiny_run) -> Iterator[Served]:
    """Its page."""
    with served(tiny_run) as found:
        yield found


@pytest.fixture
def site(server) -> Iterator[Served]:
    """The same; afterwards it still answers, and nothing but names.yaml was written, which goes."""
    yield server
    assert server.ask("GET", "/api/state").status == 200
    written = {path.name for path in Path(server.run.root).iterdir()}
    assert written <= {"config.yaml", "model.safetensors", "names.yaml"}
    server.run.names.unlink(missing_ok=True)
