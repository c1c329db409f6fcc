"""What is told on stderr, on a terminal and without one."""

from __future__ import annotations

import io
import sys

import pytest

from realdrag import terminal
from realdrag.progress import stretch
from realdrag.terminal import TerminalProgress, plain


class Screen(io.StringIO):
    """A stderr that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def work(quiet: bool) -> None:
    told = TerminalProgress(quiet=quiet)
    told.say("a note")
    with stretch(told, "drag", 3) as report:
        for done in range(1, 4):
            report.step(done, f"{3 - done} px left")


def test_a_log_gets_a_line_a_stretch(capsys: pytest.CaptureFixture[str]) -> None:
    work(quiet=False)
    out, err = capsys.readouterr()
    assert out == ""
    note, line = err.splitlines()
    assert note == "a note"
    assert line.startswith("drag: 3 of 3, 0 px left (")


@pytest.mark.parametrize("variable", ["FORCE_COLOR", "TTY_COMPATIBLE", "TERM"])
def test_a_log_gets_no_control_characters_whatever_the_environment_says(
    variable: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(variable, {"TERM": "xterm-256color"}.get(variable, "1"))
    work(quiet=False)
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 2
    assert all(c.isprintable() or c == "\n" for c in err)


def test_a_log_shows_that_long_work_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(terminal, "HEARTBEAT", -1.0)
    work(quiet=False)
    assert [
        line for line in capsys.readouterr().err.splitlines() if line.startswith("drag: 2 of 3, 1 px left, at most")
    ]


def test_a_terminal_gets_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    work(quiet=False)
    assert "3/3" in screen.getvalue()
    assert "\x1b[" in screen.getvalue()


def test_a_dumb_terminal_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    work(quiet=False)
    assert "\x1b" not in screen.getvalue()
    assert "drag: 3 of 3" in screen.getvalue()


def test_quiet_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    work(quiet=True)
    assert screen.getvalue() == ""


def test_a_bar_ends_where_the_work_breaks_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    told = TerminalProgress(quiet=False)

    def interrupted() -> None:
        with stretch(told, "w", 9) as report:
            report.step(4)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert told.bars is None
    assert screen.getvalue().endswith("\x1b[?25h")  # the cursor is shown again


def test_names_cannot_steer_the_terminal() -> None:
    assert plain("a\x1b[31m\nb\tc\udcff ü → é") == "a\\x1b[31m b c\\udcff ü → é"
