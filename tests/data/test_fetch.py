"""One file of the web: bounded, retried, and named without what its address keeps secret."""

from __future__ import annotations

import pytest

from stego_dist.config import StorageConfig
from stego_dist.data.storage.fetch import fetch, public
from stego_dist.errors import UserError
from tests.servers import FaultyServer

SETTINGS = StorageConfig(tries=3, timeout_s=5)


@pytest.fixture
def server(tmp_path):
    (tmp_path / "a b.jpg").write_bytes(b"0123456789" * 1000)
    server = FaultyServer(tmp_path)
    yield server
    server.close()


def test_the_bytes(server, tmp_path):
    (tmp_path / "x.jpg").write_bytes(b"abc")
    assert fetch(f"{server.url}/x.jpg", SETTINGS, 100) == b"abc"
    assert fetch(f"{server.url}/x.jpg#part", SETTINGS, 3) == b"abc"


def test_a_query_is_sent_and_never_shown(server):
    with pytest.raises(UserError) as caught:
        fetch(f"{server.url}/none.jpg?token=secret", SETTINGS, 100)
    assert "secret" not in str(caught.value)
    assert "no such file" in str(caught.value)
    assert server.requests[-1][0] == "/none.jpg?token=secret"
    assert public("https://me:pw@host:8/a/b.jpg?x=1#y") == "https://host:8/a/b.jpg"


@pytest.mark.parametrize("most", [9_999, 100, 0])
def test_more_bytes_than_allowed_are_refused(server, tmp_path, most):
    (tmp_path / "large.jpg").write_bytes(b"x" * 10_000)
    with pytest.raises(UserError, match=f"limit of {most} bytes"):
        fetch(f"{server.url}/large.jpg", SETTINGS, most)


def test_what_passes_is_tried_again(server, tmp_path):
    (tmp_path / "x.jpg").write_bytes(b"abc" * 100)
    server.status_first = [503]
    server.cut = 1
    assert fetch(f"{server.url}/x.jpg", SETTINGS, 1000) == b"abc" * 100
    server.status_always = 503
    with pytest.raises(UserError, match="given up after 3 tries"):
        fetch(f"{server.url}/x.jpg", SETTINGS, 1000)


@pytest.mark.parametrize("url", ["ftp://host/x.jpg", "http:///x.jpg", "http://me:pw@host/x.jpg", "file:///etc/passwd"])
def test_other_addresses_are_refused(url):
    with pytest.raises(UserError) as caught:
        fetch(url, SETTINGS, 100)
    assert "pw" not in str(caught.value)
