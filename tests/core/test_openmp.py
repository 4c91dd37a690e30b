"""Threads that wait look for long only while nobody else needs the cores."""

import threading
import time
from types import SimpleNamespace

import pytest

from llama_factory.core import openmp
from llama_factory.core.openmp import CoreUse, choose_spin_count, in_passing, others_need_cores

DEADLINE = 30.0


@pytest.mark.parametrize(
    ("given", "after", "may_change"),
    [
        ({}, {"GOMP_SPINCOUNT": "30000"}, True),
        ({"GOMP_SPINCOUNT": "30000"}, {"GOMP_SPINCOUNT": "30000"}, True),
        ({"GOMP_SPINCOUNT": "77"}, {"GOMP_SPINCOUNT": "77"}, False),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_WAIT_POLICY": "ACTIVE"}, False),
    ],
)
def test_what_the_user_has_set_stays(given, after, may_change):
    assert choose_spin_count(given) is may_change
    assert given == after


@pytest.mark.parametrize(
    ("others", "num_threads", "num_cores", "expected"),
    [
        (0.3, 2, 2, False),
        (0.6, 2, 2, True),
        (8.2, 8, 16, False),  # half of the cores are left to them
        (8.6, 8, 16, True),
        (0.0, 64, 2, True),  # more threads than cores wait for one another
    ],
)
def test_a_team_is_in_the_way_where_others_need_more_than_it_leaves(
    others, num_threads, num_cores, expected
):
    assert others_need_cores(others, num_threads, num_cores) is expected


def test_what_this_program_uses_is_not_others():
    before, after = CoreUse(own=5.0, all=20.0), CoreUse(own=6.5, all=23.0)
    assert after.others_since(before) == 1.5


def test_the_use_of_cores_grows_by_what_is_computed_here():
    before = CoreUse.now({0, 1})
    sum(range(3_000_000))
    after = CoreUse.now({0, 1})
    assert after.own > before.own
    assert after.all >= before.all > 0


def test_a_result_or_an_error_comes_from_a_thread_that_has_ended():
    def work():
        return threading.current_thread()

    thread = in_passing(work)
    assert thread is not threading.current_thread()
    assert not thread.is_alive()
    with pytest.raises(ZeroDivisionError):
        in_passing(lambda: 1 // 0)


class Machine:
    """A machine on which others use as many cores as they are told to."""

    def __init__(self, monkeypatch):
        self.others, self._time = 0.0, 0.0
        monkeypatch.setattr(openmp.CoreUse, "now", self._now)
        monkeypatch.setattr(openmp, "time", SimpleNamespace(monotonic=lambda: self._time))
        monkeypatch.setattr(openmp, "LOOK_SECONDS", 0.001)
        monkeypatch.setattr(openmp.os, "sched_getaffinity", lambda _: range(4))
        self._all = 0.0

    def _now(self, cores):
        assert len(cores) == 4
        self._time += 1.0
        self._all += self.others
        return CoreUse(own=0.0, all=self._all)


def wait_for_teams(number):
    deadline = time.monotonic() + DEADLINE
    while sum(thread.name == "team" for thread in threading.enumerate()) != number:
        assert time.monotonic() < deadline, [t.name for t in threading.enumerate()]
        time.sleep(0.001)


@pytest.mark.parametrize(("num_threads", "num_teams"), [(4, 1), (3, 1), (2, 3), (1, 0)])
def test_idle_teams_are_there_while_others_need_the_cores(monkeypatch, num_threads, num_teams):
    import torch

    monkeypatch.setattr(torch, "get_num_threads", lambda: num_threads)
    machine = Machine(monkeypatch)
    with openmp.sharing_cores():
        for _ in range(2):
            machine.others = 3.9
            wait_for_teams(num_teams)
            machine.others = 0.2
            wait_for_teams(0)
        machine.others = 3.9
        wait_for_teams(num_teams)
    wait_for_teams(0)
