"""Other pages in the visitor's browser can't use the server, and its own page can load nothing from elsewhere."""

from __future__ import annotations

import json

import pytest

from stego_dist.serve.guard import HEADER, VALUE
from tests.serve.serving import encoded, picture


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "localhost.evil.example", "", "a b", "x@localhost"]
)
def test_other_names_of_the_server_are_refused(site, host):
    for method, path in (("GET", "/"), ("GET", "/api/state"), ("PUT", "/api/names")):
        answer = site.ask(method, path, headers={"Host": host, HEADER: VALUE})
        assert answer.status in (400, 421) and b"<title>" not in answer.data


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9000", "127.0.0.1", "[::1]:8000", "192.168.1.7:8000"])
def test_names_of_this_machine_and_addresses_are_its_own(site, host):
    assert site.ask("GET", "/", headers={"Host": host}).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {HEADER: "XMLHttpRequest"},
        {HEADER: VALUE, "Origin": "http://evil.example"},
        {HEADER: VALUE, "Origin": "null"},
        {HEADER: VALUE, "Origin": "http://["},
        {HEADER: VALUE, "Origin": "http://127.0.0.1:1"},
        {HEADER: VALUE, "Sec-Fetch-Site": "cross-site"},
        {HEADER: VALUE, "Sec-Fetch-Site": "same-site"},
    ],
)
def test_only_the_page_itself_writes(site, headers):
    edit = {"clusters": [0], "name": "hit", "colour": None, "version": site.names()["version"]}
    assert site.ask("PUT", "/api/names", json.dumps(edit), headers).status == 403
    assert site.ask("POST", "/api/images?name=a", encoded(picture()), headers).status == 403
    assert not site.run.names.exists()
    own = {HEADER: VALUE, "Origin": f"http://{site.netloc}", "Sec-Fetch-Site": "same-origin"}
    assert site.ask("PUT", "/api/names", json.dumps(edit), own).status == 200


def test_no_other_page_is_let_in(site):
    asked = {"Origin": "http://evil.example", "Access-Control-Request-Method": "PUT"}
    answer = site.ask("OPTIONS", "/api/names", headers=asked)
    assert answer.status == 403 and not any(name.startswith("access-control") for name in answer.headers)


def test_every_answer_says_what_may_be_loaded(site):
    key = site.upload(encoded(picture())).json["id"]
    paths = ["/", "/static/page.js", "/api/state", f"/api/images/{key}/overlay.png", "/api/images/none", "/none"]
    answers = [site.ask("GET", path) for path in paths] + [site.ask("PUT", "/api/names", headers={})]
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin" and "server" not in answer.headers
    assert [answer.status for answer in answers] == [200, 200, 200, 200, 404, 404, 403]


@pytest.mark.parametrize("query", ["?opacity=2", "?opacity=x", "?opacity=nan"])
def test_opacity_is_a_share(site, query):
    key = site.upload(encoded(picture())).json["id"]
    assert site.ask("GET", f"/api/images/{key}/overlay.png{query}").status == 400


def test_other_methods(site):
    for method, path in (("DELETE", "/api/names"), ("POST", "/"), ("PUT", "/api/images")):
        answer = site.ask(method, path)
        assert answer.status == 405 and "Method Not Allowed" in answer.json["error"]
