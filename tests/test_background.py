"""Work in a thread: its result or error reaches who asks for it, and it ends when it is told to."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError

import pytest

from lit_tpgrpo.background import BackgroundWork

PATIENCE_S = 300.0


class Stop(Exception): ...


def nothing() -> None: ...


def test_the_result_is_what_the_work_returned_in_another_thread():
    work = BackgroundWork(lambda check: (threading.current_thread().name, check()), nothing, "worker")
    assert work.result(nothing) == ("worker", None)
    assert work.result(nothing) == ("worker", None)
    assert not work.failed


def test_an_error_of_the_work_is_raised_where_its_result_is_asked_for():
    def fail(check):
        raise Stop

    work = BackgroundWork(fail, nothing, "worker")
    work.wait(nothing)
    assert work.failed
    with pytest.raises(Stop):
        work.result(nothing)


def test_an_error_of_the_outer_check_ends_the_work():
    def refuse() -> None:
        raise Stop

    work = BackgroundWork(lambda check: check(), refuse, "worker")
    with pytest.raises(Stop):
        work.result(nothing)


def test_who_waits_can_be_called_away_and_the_work_goes_on():
    release = threading.Event()
    work = BackgroundWork(lambda check: release.wait(PATIENCE_S), nothing, "worker")

    def leave() -> None:
        raise Stop

    with pytest.raises(Stop):
        work.result(leave)
    assert not work.failed
    release.set()
    assert work.result(nothing)


def test_cancelled_work_ends_with_its_next_check():
    begun, go = threading.Event(), threading.Event()
    after: list[str] = []

    def labour(check):
        begun.set()
        assert go.wait(PATIENCE_S)
        check()
        after.append("went on")

    work = BackgroundWork(labour, nothing, "worker")
    assert begun.wait(PATIENCE_S)
    work.cancel(wait=False)
    go.set()
    work.cancel()
    assert work.failed
    assert after == []
    with pytest.raises(CancelledError):
        work.result(nothing)
