"""Who says in status.json what became of a run, where several processes fail."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import pytest

from stego_dist.engine import record
from stego_dist.engine.record import LostContactError, record_failure
from stego_dist.errors import UserError
from stego_dist.rundir import RunDir, read_json

MAIN, OTHER = SimpleNamespace(is_main_process=True), SimpleNamespace(is_main_process=False)


@pytest.fixture
def run(tmp_path) -> RunDir:
    run = RunDir(tmp_path / "run")
    run.root.mkdir()
    run.write_status("running", exit_code=None, step=3)
    return run


def said(run: RunDir) -> str:
    return read_json(run.status, "status", "")["error"]


def test_processes_that_lose_contact_at_the_same_instant(run, monkeypatch):
    """The other process looked before the main one wrote, and writes after it: it must look again."""
    monkeypatch.setattr(record, "MAIN_FIRST_S", 0.3)
    other = threading.Thread(
        target=record_failure, args=(run, OTHER, LostContactError("0 is gone")), kwargs={"step": 3}
    )
    other.start()
    time.sleep(0.1)
    record_failure(run, MAIN, LostContactError("1 is gone"), step=3)
    other.join()
    assert said(run) == "LostContactError: 1 is gone"


def test_the_main_process_says_it_over_and_is_not_waited_for_where_it_is_dead(run, monkeypatch):
    monkeypatch.setattr(record, "MAIN_FIRST_S", 0.0)
    record_failure(run, OTHER, LostContactError("0 is gone"), step=3)
    assert said(run) == "LostContactError: 0 is gone"
    record_failure(run, MAIN, LostContactError("1 is gone"), step=3)
    assert said(run) == "LostContactError: 1 is gone"


def test_a_cause_is_not_hidden_by_the_contact_that_it_costs(run):
    record_failure(run, OTHER, UserError("the disk is full"), step=3)
    record_failure(run, MAIN, LostContactError("1 is gone"), step=3)
    assert said(run) == "UserError: the disk is full"
