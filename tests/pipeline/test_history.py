"""Undo, redo and the timeline of a work folder's drags."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from realdrag.errors import InputError
from realdrag.history import History
from realdrag.workfolder import WorkFolder

Run = Callable[..., Any]
Contents = Callable[[Path], dict[str, bytes]]
SECOND = ["--continue", "--drag", "224,120:230,116"]


def drawn(contents: Contents) -> dict[str, bytes]:
    """The files of the drag that lies in the folder itself."""
    names = ("mask.png", "drag.json", "drag.safetensors", "dragged.png")
    return {name: data for name, data in contents(Path("work")).items() if name in names}


def test_drags_are_undone_and_done_again_to_the_byte(here: Path, cli: Run, contents: Contents) -> None:
    first = drawn(contents)
    assert cli("drag", "-w", "work", *SECOND).code == 0
    second = drawn(contents)
    assert second["drag.json"] != first["drag.json"]
    done = cli("drag", "-w", "work", "--undo")
    assert (done.code, drawn(contents)) == (0, first)
    assert "drag 1 of 2" in done.out
    assert cli("composite", "-w", "work", "-o", "again.png").code == 0
    assert Path("again.png").read_bytes() == Path("out.png").read_bytes()
    gone = cli("drag", "-w", "work", "--undo", "--json")
    assert (gone.code, drawn(contents)) == (0, {})
    assert json.loads(gone.out) == {"history": {"current": 0, "count": 2}}
    assert cli("composite", "-w", "work", "-o", "none.png").code == 2
    assert cli("drag", "-w", "work", "--redo").code == 0
    assert drawn(contents) == first
    record = json.loads(cli("drag", "-w", "work", "--redo", "--json").out)
    assert record["history"] == {"current": 2, "count": 2}
    assert drawn(contents) == second


def test_what_is_not_there_is_neither_undone_nor_redone(here: Path, cli: Run, contents: Contents) -> None:
    assert cli("drag", "-w", "work", "--undo").code == 0
    before = contents(Path("work"))
    for flag, word in (("--undo", "undo"), ("--redo", "redo")):
        ran = cli("drag", "-w", "work", flag)
        if flag == "--undo":
            assert (ran.code, contents(Path("work"))) == (2, before)
            assert f"nothing to {word}" in ran.err
    ran = cli("drag", "-w", "work", "--redo")
    assert (ran.code, "nothing to redo" in ran.err) == (2, True)


def test_a_new_drag_forgets_those_undone(here: Path, cli: Run, contents: Contents) -> None:
    assert cli("drag", "-w", "work", *SECOND).code == 0
    assert cli("drag", "-w", "work", "--undo").code == 0
    assert cli("drag", "-w", "work", "--continue", "--drag", "224,120:224,126").code == 0
    third = drawn(contents)
    assert cli("drag", "-w", "work", "--redo").code == 2
    assert cli("drag", "-w", "work", "--undo").code == 0
    assert cli("drag", "-w", "work", "--redo").code == 0
    assert drawn(contents) == third


def test_a_strength_is_kept_through_undo(here: Path, cli: Run, contents: Contents) -> None:
    assert cli("drag", "-w", "work", *SECOND).code == 0
    assert cli("drag", "-w", "work", "--strength", "0.5").code == 0
    half = drawn(contents)
    for flag in ("--undo", "--redo"):
        assert cli("drag", "-w", "work", flag).code == 0
    assert drawn(contents) == half


def test_every_step_can_be_shown_and_the_drag_itself_again(here: Path, cli: Run, contents: Contents) -> None:
    whole = drawn(contents)
    record = json.loads(whole["drag.json"])
    shown = json.loads(cli("drag", "-w", "work", "--step", "3", "--json").out)
    assert (shown["chosen"], shown["best"]) == (3, record["best"])
    distances = [handle["distance_end"] for handle in shown["handles"]]
    assert distances == pytest.approx(record["trace"][3]["distances"], abs=2e-3)
    assert cli("drag", "-w", "work", "--step", "0").code == 0
    np.testing.assert_array_equal(*(np.asarray(Image.open(f"work/{n}.png")) for n in ("dragged", "inverted")))
    assert cli("drag", "-w", "work", "--drag", "215,120:210,112", "--mask", "mask.png").code == 0
    assert drawn(contents) == whole


@pytest.mark.parametrize("step", ["-1", "13", "999"])
def test_a_step_that_there_was_not_is_refused(here: Path, cli: Run, contents: Contents, step: str) -> None:
    before = contents(Path("work"))
    ran = cli("drag", "-w", "work", "--step", step)
    assert (ran.code, contents(Path("work"))) == (2, before)
    assert f"step {step}" in ran.err


@pytest.mark.parametrize(
    "flags",
    [
        ["--undo", "--redo"],
        ["--undo", "--step", "1"],
        ["--undo", "--drag", "1,1:2,2"],
        ["--step", "1", "--strength", "1"],
    ],
)
def test_looking_back_is_one_thing_at_a_time(here: Path, cli: Run, flags: list[str]) -> None:
    ran = cli("drag", "-w", "work", *flags)
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "one of these at a time" in ran.err


def test_another_inversion_has_a_history_of_its_own(here: Path, cli: Run) -> None:
    assert cli("drag", "-w", "work", *SECOND).code == 0
    assert cli("invert", "-w", "work", "--space", "w").code == 0
    assert cli("drag", "-w", "work", "--undo").code == 2
    assert cli("drag", "-w", "work", "--drag", "215,120:210,112").code == 0
    assert History(WorkFolder(Path("work"))).about() == {"current": 1, "count": 1}
    assert not any(Path("work/drags").glob("*"))


@pytest.mark.parametrize("at", range(1, 10))
def test_an_interrupted_undo_is_done_by_the_next(
    here: Path, cli: Run, contents: Contents, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """Stopped before any of its writes: the same command then undoes that one drag, and nothing is lost."""
    first = drawn(contents)
    assert cli("drag", "-w", "work", *SECOND).code == 0
    second = drawn(contents)
    from realdrag import history

    write, written = history.write_bytes, 0

    def stopped(data: bytes, path: Path) -> None:
        nonlocal written
        written += 1
        if written == at:
            raise KeyboardInterrupt
        write(data, path)

    with monkeypatch.context() as patch:
        patch.setattr(history, "write_bytes", stopped)
        with pytest.raises(KeyboardInterrupt):
            History(WorkFolder(Path("work"))).go(-1)
    history_now = History(WorkFolder(Path("work")))
    assert history_now.about() == {"current": 2, "count": 2}
    history_now.go(-1)
    assert drawn(contents) == first
    History(WorkFolder(Path("work"))).go(1)
    assert drawn(contents) == second


def test_a_folder_without_a_history_has_its_drag_in_it(here: Path, cli: Run, contents: Contents) -> None:
    first = drawn(contents)
    Path("work/drags.json").unlink()
    shutil.rmtree("work/drags", ignore_errors=True)
    assert cli("drag", "-w", "work", "--undo").code == 0
    assert cli("drag", "-w", "work", "--redo").code == 0
    assert drawn(contents) == first


def test_nothing_lies_outside_a_history(tmp_path: Path) -> None:
    work = WorkFolder(tmp_path)
    (tmp_path / "drags.json").write_text('{"current": 3, "count": 7}')
    assert History(work).about() == {"current": 0, "count": 0}
    with pytest.raises(InputError, match="nothing to undo"):
        History(work).go(-1)
