"""Progress is a bar on a terminal and a few whole lines in a log, and nothing where it is quick or not wanted."""

import contextlib
import io

import datasets
import pytest

from dermalert import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """The time, in seconds, of what is written in lines."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def count(clock: list[float], *, total: int, seconds: float) -> None:
    with progress.bar(total, "Reading") as shown:
        for _ in range(total):
            clock[0] += seconds / total
            shown.update()


def test_a_log_gets_one_line_without_control_characters_when_the_work_is_done(clock, capsys):
    count(clock, total=200, seconds=50)
    assert capsys.readouterr().err == "Reading: 200 images in 50 s\n"


def test_a_log_gets_a_line_a_quarter_of_what_takes_minutes(clock, capsys):
    count(clock, total=1000, seconds=7200)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Reading: 250 of 1,000 images, about 90 min left"
    assert [line.split()[1] for line in lines] == ["250", "500", "750", "1,000"]


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
def test_what_is_quick_shows_nothing_in_a_log_or_on_a_terminal(clock, stream):
    with contextlib.redirect_stderr(stream()) as written:
        count(clock, total=10, seconds=1)
    assert written.getvalue() == ""


def test_work_that_fails_is_not_called_done(clock, capsys):
    with pytest.raises(ZeroDivisionError), progress.bar(10, "Reading"):
        clock[0] += 60
        1 / 0  # noqa: B018
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar_that_is_redrawn():
    with contextlib.redirect_stderr(Terminal()) as terminal, progress.bar(3, "Reading", delay=0) as shown:
        shown.update(3)
    assert "Reading: 100%" in terminal.getvalue() and "\r" in terminal.getvalue() and "3/3" in terminal.getvalue()


def test_each_step_has_one_bar_in_which_all_within_it_counts(clock, capsys):
    steps = progress.Steps({"abstention": 30, "card": 0})
    with steps.step("abstention"):
        assert list(progress.track("abc", 3, "Decoding")) == ["a", "b", "c"]
        with progress.bar(40, "Predicting") as shown:
            shown.update(40)
    with steps.step("card"):
        clock[0] += 130
    assert capsys.readouterr().err == "1/2 abstention: 43 images in 0 s\n2/2 card: 2 min\n"


def test_a_bar_of_a_step_ends_at_all_of_it_whatever_was_counted_beforehand():
    with contextlib.redirect_stderr(Terminal()) as terminal, progress.Steps({"abstention": 100}).step("abstention"):
        list(progress.track("abc", 3, "Decoding"))
    assert "1/1 abstention: 100%" in terminal.getvalue() and "3/3" in terminal.getvalue()


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
def test_without_bars_nothing_is_shown(clock, stream):
    with contextlib.redirect_stderr(stream()) as written, progress.ours_alone(shown=False):
        count(clock, total=1000, seconds=7200)
        with progress.bar(3, "Reading", delay=0) as shown:
            shown.update(3)
    assert written.getvalue() == ""


def test_libraries_draw_no_bars_of_their_own_work_and_are_left_as_they_were():
    rows = datasets.Dataset.from_dict({"a": [1, 2]})
    with contextlib.redirect_stderr(Terminal()) as terminal:
        with progress.ours_alone():
            rows.map(lambda row: row)
            assert terminal.getvalue() == ""
            with progress.downloads():
                rows.map(lambda row: row)
            assert "Map" in terminal.getvalue()
            drawn = len(terminal.getvalue())
            rows.map(lambda row: row)
            assert len(terminal.getvalue()) == drawn
        rows.map(lambda row: row)
    assert len(terminal.getvalue()) > drawn
