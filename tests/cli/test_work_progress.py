"""Progress of long work where no person looks: a line now and then."""

import pytest

from worker.cli.work_progress import WorkProgress


class StillClock:
    """A clock that stands still."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_progress_in_a_pipe_is_a_line_each_ten_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    seconds = StillClock()
    with WorkProgress(redirect_stdout=False, seconds=seconds) as bar:
        task = bar.add_task("replay 3", total=5_000)
        for _ in range(25):
            seconds.now += 1
            bar.advance(task, 100)
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(", after")[0] for line in lines] == [
        "replay 3: 1,000 of 5,000",
        "replay 3: 2,000 of 5,000",
    ]


def test_short_work_prints_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    with WorkProgress(redirect_stdout=False, seconds=StillClock()) as bar:
        bar.update(bar.add_task("judging", total=None), completed=7)
    assert capsys.readouterr().err == ""


def test_note_is_a_line_with_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    with WorkProgress(redirect_stdout=False, seconds=StillClock()) as bar:
        bar.note("the broker is away\x1b[2J")
    assert capsys.readouterr().err == "the broker is away\\x1b[2J\n"
