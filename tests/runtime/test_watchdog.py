"""Deadlines for waits: an overdue one is ended from outside."""

import socket
from threading import Event

from tests.support.waiting import PATIENCE_S
from worker.runtime.watchdog import Wait, Watchdog, shut_socket


def test_overdue_wait_is_shut_once() -> None:
    shut: list[int] = []
    wait = Wait(lambda: shut.append(1), 10.0)
    with wait:
        began = wait.began or 0.0
        wait.end_if_overdue(began + 9.9, None)
        assert not wait.is_overdue
        wait.end_if_overdue(began + 10.1, None)
        wait.end_if_overdue(began + 20.0, None)
    assert shut == [1]


def test_connection_that_waits_for_nothing_is_left_alone() -> None:
    wait = Wait(lambda: None, 1.0)
    with wait:
        pass
    wait.end_if_overdue(1e12, None)
    assert not wait.is_overdue


def test_process_that_is_to_end_waits_no_longer_than_its_bound() -> None:
    wait = Wait(lambda: None, 10.0)
    with wait:
        wait.end_if_overdue((wait.began or 0.0) + 3.1, 3.0)
    assert wait.is_overdue


def test_shut_that_finds_a_closed_socket_disturbs_nobody() -> None:
    def shut() -> None:
        raise OSError("closed")

    wait = Wait(shut, 1.0)
    with wait:
        wait.end_if_overdue((wait.began or 0.0) + 2, None)
    assert wait.is_overdue


def test_watchdog_ends_a_read_that_nobody_answers() -> None:
    silent, waiting = socket.socketpair()
    watchdog, ended = Watchdog(), Event()
    wait = Wait(lambda: shut_socket(waiting.fileno()), 0.3)
    watchdog.watch(wait)
    with silent, waiting, wait:
        assert waiting.recv(1) == b""
        ended.set()
    assert ended.wait(PATIENCE_S)
    assert wait.is_overdue
