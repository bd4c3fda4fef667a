"""Progress for logs, and silence on other ranks."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from stego_dist import console


class Clock:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(console, "time", clock)
    monkeypatch.delenv("RANK", raising=False)
    return clock


@pytest.fixture
def lines(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(console, "err", Console(file=stream, width=200))
    return lambda: stream.getvalue().splitlines()


def test_plain_bar_prints_rate_and_eta(clock, lines):
    with console.progress("embed", 100, "crops") as bar:
        clock.now += 1
        bar.advance(10)  # too soon
        assert lines() == []
        clock.now += 4
        bar.advance(15, loss=0.12345, part="b")
        clock.now += 1
        bar.advance(5)
        clock.now += 5
        bar.advance(70)
    assert lines() == [
        "embed 25/100 · 5.0 crops/s · ETA 15 s · loss 0.123 · part b",
        "embed 100/100 · 9.1 crops/s · ETA 0 s",
    ]


def test_the_rate_leaves_out_what_was_done_before(clock, lines):
    with console.progress("knn", 100, "crops", done=60) as bar:
        clock.now += 10
        bar.advance(20)
    assert lines() == ["knn 80/100 · 2.0 crops/s · ETA 10 s"]


def test_the_last_line_comes_even_at_once(clock, lines):
    with console.progress("eval", 2) as bar:
        bar.advance()
        bar.advance()
    assert len(lines()) == 1 and lines()[0].startswith("eval 2/2 · ")


def test_other_ranks_are_silent(clock, lines, monkeypatch, capfd):
    monkeypatch.setenv("RANK", "1")
    assert not console.is_main_process()
    with console.progress("train", 10) as bar:
        clock.now += 60
        bar.advance(10, loss=1.0)
    console.say("hello")
    console.warn("careful")
    assert lines() == [] and capfd.readouterr() == ("", "")
    monkeypatch.setenv("RANK", "0")
    assert console.is_main_process()
    console.say("hello")
    console.warn("careful")
    assert lines() == ["hello", "warning: careful"]


def test_messages_are_text_not_markup(clock, capsys):
    console.say("a path [red]/x[0]/y[/red] :smile:")
    assert capsys.readouterr().err == "a path [red]/x[0]/y[/red] :smile:\n"


def test_notices_go_to_stderr_and_are_not_wrapped(clock, capsys):
    console.say("long " * 60)
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1


def test_a_terminal_gets_a_bar(clock, monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(console, "err", Console(file=stream, force_terminal=True, width=160))
    monkeypatch.setattr(console.sys, "stderr", type("Tty", (), {"isatty": lambda self: True})())
    with console.progress("train", 50, "steps", done=20) as bar:
        bar.advance(15, loss=0.7)
        bar.advance(15, loss=0.5)
    assert " steps/s " in stream.getvalue() and "ETA" in stream.getvalue()
    assert "train" in stream.getvalue() and "50/50" in stream.getvalue() and "loss 0.5" in stream.getvalue()
