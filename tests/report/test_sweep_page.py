"""The sweep's page: every number of sweep.json is where it belongs; in a browser it asks for nothing and responds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stego_dist.engine.evaluate import Panel
from stego_dist.engine.validate import Validation
from stego_dist.metrics.matching import match_clusters
from stego_dist.report.charts import Chart, Series, draw
from stego_dist.report.parallel import Axis, Line, draw_parallel, key_axis
from stego_dist.report.sweep import best_trials, print_sweep, write_sweep_page
from tests.browser import browser, find_browser

PALETTE = [(200, 30, 30), (30, 30, 200)]
HOSTILE = "<script>document.title = 'hit'</script>"
NARROW = "document.documentElement.scrollWidth <= innerWidth"


def trial(n: int, objective: float | None, state: str = "done", **more: Any) -> dict[str, Any]:
    values = {"loss.self_pair.shift": n / 10, "train.lr_head": 10.0 ** -(1 + n), "head.projection": HOSTILE}
    numbers = {"val/label_free": objective, "miou": 0.1 * n, "accuracy": 0.5} if state == "done" else {}
    base = {"trial": n, "state": state, "values": values, "objective": objective, "step": 6, "numbers": numbers}
    base |= {"curve": [], "warnings": [], "reason": None, "seconds": 1.0, "finished": 100.0 - n}
    return base | more


def found_sweep(*, labels: bool = True, **more: Any) -> dict[str, Any]:
    """A sweep's result, made by hand: two finished, one collapsed, one stopped, one failed."""
    trials = [
        trial(0, 0.25), trial(1, 0.75), trial(2, 0.125, warnings=["all codes agree"]), trial(3, 0.9, "stopped"),
        trial(4, None, "failed", reason="its worker died <b>"),
    ]  # fmt: skip
    if not labels:
        for one in trials:
            one["numbers"] = {key: value for key, value in one["numbers"].items() if key == "val/label_free"}
    space = [
        {"key": "loss.self_pair.shift", "kind": "uniform", "low": 0.0, "high": 0.8},
        {"key": "train.lr_head", "kind": "loguniform", "low": 1e-5, "high": 0.1, "log": True},
        {"key": "head.projection", "kind": "choice", "values": ["linear", HOSTILE]},
    ]
    spearman = {"miou": {"spearman": 0.625, "trials": 3}} if labels else {}
    return {
        "format": "stego_dist.sweep/1", "name": f"night {HOSTILE}", "objective": "label_free", "uses_labels": False,
        "search": "random", "seed": 3, "early_stop": "asha", "steps": 1234, "planned": 8, "best": 1, "space": space,
        "counts": {"done": 3, "stopped": 1, "failed": 1, "collapsed": 1}, "correlations": spearman, "trials": trials,
        "importance": {"method": "x", "trials": 3, "shares": None, "why": "at least 8 finished trials are needed"},
    } | more  # fmt: skip


def validation(labels: bool = True) -> Validation:
    label = np.zeros((8, 8), np.int16)
    panel = Panel("a <b>", np.full((8, 8, 3), 90, np.uint8), label if labels else None, {"learned": label})
    return Validation({}, [panel], {"learned": match_clusters(np.eye(2, dtype=np.int64))} if labels else {})


def page_at(folder: Path, found: dict[str, Any], **validations: Any) -> str:
    return write_sweep_page(folder, found, validations.get("shown", {}), PALETTE).read_text("utf-8")


def test_every_trial_and_its_numbers_are_there(tmp_path):
    html = page_at(tmp_path, found_sweep(), shown={1: validation(), 0: validation()})
    assert html.count('<polyline class="trial ') == 5 and html.count("<tr data-trial=") == 5
    expected = (
        "0.7500", "10.0", "3 of 8", "trials finished, 1 stopped early, 1 failed", "trials collapsed", "1,234",
        "all codes agree", "label-free score, without labels", "its worker died &lt;b&gt;",
        "mIoU: 0.62 over 3 finished trials", "Not estimated: at least 8 finished trials are needed",
    )  # fmt: skip
    assert [words for words in expected if words not in html] == []
    assert HOSTILE not in html and "http" not in html.replace("http-equiv", "")
    assert html.count("data:image/webp") == 4  # image and label once, two trials
    assert 'class="trial done best" data-trial="1"' in html and 'class="trial done collapsed" data-trial="2"' in html


def test_shares_are_shown_in_order(tmp_path):
    shares = {"loss.self_pair.shift": 0.125, "train.lr_head": 0.5, "head.projection": 0.0}
    html = page_at(tmp_path, found_sweep(importance={"method": "Kruskal", "trials": 12, "shares": shares}))
    rows = html[html.index('id="importance"') : html.index("How much of the order")]
    assert rows.index("train.lr_head") < rows.index("loss.self_pair.shift") < rows.index("head.projection")
    assert "12.5</td>" in rows and "50.0</td>" in rows and "of 12 finished trials" in html


def test_without_labels_nothing_speaks_of_them(tmp_path):
    html = page_at(tmp_path, found_sweep(labels=False), shown={1: validation(labels=False)})
    assert "mIoU" not in html and "Score and labels" not in html and "cluster numbers of each trial" in html


def test_labels_that_were_used_are_admitted(tmp_path, capsys):
    found = found_sweep(objective="miou", uses_labels=True)
    assert "Labels were used" in page_at(tmp_path, found) and "mIoU, which uses labels" in page_at(tmp_path, found)
    print_sweep(found, tmp_path)
    assert "uses labels" in " ".join(capsys.readouterr().out.split())


def test_what_is_printed(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    found = found_sweep()
    print_sweep(found, tmp_path)
    said = " ".join(capsys.readouterr().out.split())  # wherever lines end
    assert (
        "3 of 8 trials finished, 1 stopped, 1 failed, 1 collapsed" in said
        and "label-free score with mIoU: 0.62" in said
    )
    assert (
        said.index("0.7500")
        < said.index("0.2500")
        < said.index("0.1250")
        < said.index("0.9000")
        < said.index("failed │")
    )
    assert best_trials(found, 2) == [1, 0] and str(tmp_path / "best.yaml") in said


def test_axes_place_values():
    assert Axis("a", 1.0, 3.0).place(2.0) == 0.5 and Axis("a", 2.0, 2.0).place(2.0) == 0.5
    assert Axis("a", 0.01, 1.0, log=True).place(0.1) == pytest.approx(0.5)
    assert key_axis({"key": "a.b.c", "kind": "choice", "values": ["x", [1, 2], None]}).place([1, 2]) == 0.5
    assert Axis("a").place(None) is None
    assert [text for _, text in Axis("a", 0.02, 5.0, log=True).labels()] == ["0.02", "0.1", "1", "5"]
    assert len(Axis("a", 0.905, 0.911).labels()) >= 2
    svg = draw_parallel([Axis("a"), Axis("b")], [Line(7, "failed", [0.5, None], 0.0, "t")], "note")
    points = svg.split('points="')[1].split('"')[0]
    assert points.count(",") == 1  # it ends where it has no value


def test_dots_have_no_line_between_them():
    svg = draw(Chart("t", "x", "y", [Series("a", [1, 2, 3], [1, 2, 3], dots=True), Series("b", [1, 3], [1, 3])]))
    drawing = svg[: svg.index("<ul")]
    assert drawing.count("<circle") == 3 and drawing.count("<polyline") == 1


@pytest.fixture(scope="module")
def chromium():
    if find_browser() is None:
        pytest.skip("no Chromium here (apt-get install chromium)")
    with browser() as opened:
        yield opened


def test_in_a_browser(chromium, tmp_path):
    write_sweep_page(tmp_path, found_sweep(), {1: validation(), 0: validation()}, PALETTE)
    path = tmp_path / "sweep.html"
    chromium.open(path)
    assert chromium.requests() == [path.as_uri()] and chromium.complaints() == []
    assert chromium.run("document.title").startswith("night <script>") and chromium.run(NARROW)
    assert chromium.run("[...document.images].every(i => i.complete && i.naturalWidth > 0 && i.alt)")
    picked = "[...document.querySelectorAll('.on')].map(e => e.dataset.trial).join()"
    assert chromium.run(picked) == ""
    point = """
    (() => {
      const line = document.querySelector('.trial[data-trial="2"]');
      const p = line.points[0], q = line.points[1], svg = line.ownerSVGElement;
      svg.scrollIntoView();
      const at = new DOMPoint(p.x + (q.x - p.x) / 8, p.y + (q.y - p.y) / 8).matrixTransform(svg.getScreenCTM());
      return [at.x, at.y];
    })()"""
    x, y = chromium.run(point)
    chromium.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    assert chromium.run(picked) == "2,2"  # the line and its row
    assert "trial 2 (done, collapsed): 0.1250" in chromium.run("document.getElementById('readout').textContent")
    chromium.call("Input.dispatchMouseEvent", type="mouseMoved", x=1, y=1)
    assert chromium.run(picked) == ""
    chromium.run("document.querySelector('svg.parallel').focus()")
    chromium.press("ArrowUp", 38)
    assert chromium.run(picked) == "1,1"  # the best comes first
    chromium.press("ArrowDown", 40)
    assert chromium.run(picked) == "0,0" and chromium.complaints() == []
    chromium.run("document.getElementById('theme').click()")
    assert chromium.run("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
