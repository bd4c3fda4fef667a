"""Workers on a real local Ray cluster: results, errors as they are, and what happens when a worker dies."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from stego_dist.errors import ConfigError, UserError
from stego_dist.jobs.cluster import ray_cluster, run_on_workers, run_tasks

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module", autouse=True)
def cluster():
    with ray_cluster() as ray:
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers can't import this file
        yield ray
        ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def constant(fn: Callable[..., object]) -> Callable[..., object]:
    return fn


def square(x: int) -> int:
    return x * x


def square_or_complain(x: int) -> int:
    if x == 3:
        raise ConfigError(f"task {x} is not wanted")
    return x * x


def divide(x: int) -> float:
    return 1 / x


def die_once(folder: Path, x: int) -> tuple[int, int]:
    """Counts its attempts in a file; task 2 kills its worker in the first."""
    with (folder / str(x)).open("a") as file:
        file.write("x")
    attempts = (folder / str(x)).stat().st_size
    if x == 2 and attempts == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return x, attempts


class DiesWhereItIsUnpickled:
    """As a function does that needs more memory than there is."""

    def __call__(self) -> Callable[[int], int]:
        return square

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os._exit, (1,)


class CannotBeImported(DiesWhereItIsUnpickled):
    """As a function does whose module a node lacks."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return importlib.import_module, ("a_module_that_is_nowhere",)


def die(x: int) -> int:
    if x == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return x


def slow_or_complain(begun: Path, x: int) -> int:
    """Task 0 fails as soon as task 1 is begun, which takes longer."""
    while x == 0 and not begun.exists():
        time.sleep(0.01)
    if x == 0:
        raise UserError("task 0 is not wanted")
    begun.touch()
    time.sleep(0.5)
    return x


def make_counting(folder: Path) -> Callable[[int], tuple[int, int]]:
    (folder / f"{os.getpid()}-{time.monotonic_ns()}").touch()
    return lambda x: (x, os.getpid())


def make_complaining() -> Callable[[int], int]:
    raise UserError("the model can't be loaded")


@pytest.mark.parametrize("workers", [2, None])
def test_all_results_come_back(workers):
    assert sorted(run_tasks(square, range(8), workers=workers)) == [x * x for x in range(8)]


def test_no_tasks_no_results():
    assert list(run_tasks(square, [])) == []


def test_one_worker_keeps_the_order():
    assert list(run_tasks(square, [5, 1, 4], workers=1)) == [25, 1, 16]


def test_an_error_of_the_users_comes_back_as_itself():
    found = run_tasks(square_or_complain, range(8), workers=1)
    assert [next(found) for _ in range(3)] == [0, 1, 4]  # what was finished before is not lost
    with pytest.raises(ConfigError) as error:
        next(found)
    assert type(error.value) is ConfigError and str(error.value) == "task 3 is not wanted"


def test_an_error_of_ours_is_raised_with_its_cause():
    with pytest.raises(ZeroDivisionError, match="division by zero"):
        list(run_tasks(divide, [1, 0], workers=1))


def test_a_worker_that_is_killed_is_replaced_and_its_task_repeated(tmp_path, capfd):
    found = sorted(run_tasks(partial(die_once, tmp_path), range(5), workers=2))
    assert found == [(0, 1), (1, 1), (2, 2), (3, 1), (4, 1)]
    assert "a worker died at 2 (" in capfd.readouterr().err


def test_a_task_that_always_kills_its_worker_is_given_up_by_name():
    found, it = [], run_on_workers(partial(constant, die), range(9), workers=2, name="shard {}".format)
    with pytest.raises(UserError, match=r"^shard 3: 3 workers died at it.*memory.*fewer workers"):
        found.extend(it)
    assert set(found) <= set(range(9)) - {3} and len(found) == len(set(found))


@pytest.mark.parametrize(("make", "why"), [(DiesWhereItIsUnpickled(), "died"), (CannotBeImported(), "'a_module_that")])
def test_workers_that_die_while_they_start_are_named(make, why):
    with pytest.raises(UserError, match=rf"3 Ray workers in a row died while they started \(.*{why}.*\)\. Is the"):
        list(run_on_workers(make, range(3), workers=1))


def test_what_others_are_at_is_finished_before_an_error_is_raised(tmp_path):
    found = run_tasks(partial(slow_or_complain, tmp_path / "begun"), range(4), workers=2)
    assert next(found) == 1  # task 0 had failed long before
    with pytest.raises(UserError, match="task 0 is not wanted"):
        next(found)


def test_a_worker_stays_on_its_lane():
    tasks = [1, 10, 2, 20, 3, 30]
    found = list(run_on_workers(partial(constant, square), tasks, workers=1, lane=lambda x: x >= 10))
    assert found == [1, 4, 9, 100, 400, 900]


def test_follow_ups_go_ahead():
    found = list(run_on_workers(partial(constant, square), [2, 5, 6], workers=1, then=lambda x: [x] if x < 10 else []))
    assert found == [4, 16, 25, 36]


def test_make_runs_once_in_each_worker(tmp_path):
    found = list(run_on_workers(partial(make_counting, tmp_path), range(9), workers=2))
    assert sorted(x for x, _ in found) == list(range(9))
    made = [int(path.name.split("-")[0]) for path in tmp_path.iterdir()]
    assert len(made) == len(set(made)) <= 2 and {pid for _, pid in found} <= set(made)
    assert os.getpid() not in made


def test_an_error_while_making_comes_back():
    with pytest.raises(UserError, match=r"^the model can't be loaded$"):
        list(run_on_workers(make_complaining, range(3), workers=2))


def test_workers_go_when_the_caller_stops_asking(cluster):
    found = run_tasks(square, range(50), workers=1)
    next(found)
    found.close()
    assert sorted(run_tasks(square, [2], workers=1)) == [4]  # the CPUs are free again


def test_a_cluster_that_is_connected_is_used_and_left_alone(cluster):
    with ray_cluster() as inner:
        assert inner is cluster
    assert cluster.is_initialized()


def test_no_cluster_at_the_address(cluster, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    monkeypatch.setattr(cluster, "is_initialized", lambda: False)

    def refuse(**options: object) -> None:
        assert options["address"] == "127.0.0.1:1"
        raise ConnectionError("nobody there")

    monkeypatch.setattr(cluster, "init", refuse)
    with (
        pytest.raises(UserError, match=r"RAY_ADDRESS=127\.0\.0\.1:1: no Ray cluster answers there .*unset it"),
        ray_cluster(),
    ):
        pass
