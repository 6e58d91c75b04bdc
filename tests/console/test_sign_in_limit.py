"""Limit of sign-ins within a time."""

from worker.console.sign_in_limit import SignInLimit


def test_sign_ins_are_counted_within_their_time_for_each_key() -> None:
    now = [100.0]
    limit = SignInLimit(most=2, within_s=10, clock=lambda: now[0])
    assert limit.wait_s("ann") == 0
    limit.count("ann")
    now[0] += 4
    limit.count("ann")
    assert limit.wait_s("ann") == 6
    assert limit.wait_s("bob") == 0
    now[0] += 6
    assert limit.wait_s("ann") == 0
    limit.count("ann")
    limit.forget("ann")
    assert limit.wait_s("ann") == 0
