"""What a batch is to do: right in every part, or refused before anything is done."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from realdrag.errors import InputError
from realdrag.jobs import Job, plan
from realdrag.placing import Wanted
from realdrag.recipe import Recipe, Step, from_text, text

SMILE = Recipe((Step(Wanted([], {"smile": 0.5})),))
BARE = Recipe(())


def lines(folder: Path, *rows: object) -> str:
    path = folder / "jobs.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return str(path)


def refused(folder: Path, *rows: object, recipe: Recipe | None = SMILE) -> str:
    with pytest.raises(InputError) as caught:
        plan(lines(folder, *rows), str(folder / "out"), recipe, BARE)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_folder_is_all_its_photos_at_all_levels_but_not_the_results(tmp_path: Path) -> None:
    for name in ("b.jpg", "a.PNG", "sub/ü ö.heic", "sub/b.jpg", "out/a.PNG", "notes.txt", "sub/.hidden"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    jobs = plan(str(tmp_path), str(tmp_path / "out"), SMILE, BARE)
    assert [Path(job.photo).relative_to(tmp_path).as_posix() for job in jobs] == [
        "a.PNG", "b.jpg", "sub/b.jpg", "sub/ü ö.heic",
    ]  # fmt: skip
    assert [Path(job.output).relative_to(tmp_path / "out").as_posix() for job in jobs] == [
        "a.PNG", "b.jpg", "sub/b.jpg", "sub/ü ö.png",
    ]  # fmt: skip


def test_a_pattern_keeps_the_folders_after_its_first_star(tmp_path: Path) -> None:
    for name in ("x/1.jpg", "y/1.jpg", "y/2.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    jobs = plan(f"{tmp_path}/*/1.jpg", "out", SMILE, BARE)
    assert [Path(job.output).as_posix() for job in jobs] == ["out/x/1.jpg", "out/y/1.jpg"]


def test_photos_and_results_by_url() -> None:
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    memory.pipe({"/faces/a.jpg": b"1", "/faces/deep/b.png": b"2", "/faces/c.txt": b"3"})
    jobs = plan("memory://faces", "memory://out", SMILE, BARE)
    assert [(job.photo, job.output) for job in jobs] == [
        ("memory://faces/a.jpg", "memory://out/a.jpg"),
        ("memory://faces/deep/b.png", "memory://out/deep/b.png"),
    ]


def test_lines_have_recipes_or_drags_of_their_own_and_overrides(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(text(SMILE))
    path = lines(
        tmp_path,
        "\ufeff" + json.dumps({"photo": "a.jpg"}),
        "",
        {"photo": "ü b.jpg", "recipe": "r.toml", "face": 2, "strength": 1, "output": "x/y.png", "mask": "m.png"},
        {"photo": "/abs/c.bmp", "drags": ["1,2:3,4"], "moves": {"turn": 5}, "snap": True, "box": [1, 2, 3, 4]},
    )
    turn = Recipe((Step(Wanted([], {"turn": -5})),))
    first, second, third = plan(path, "out", turn, BARE, strength=0.25)
    assert first == Job(str(tmp_path / "a.jpg"), "out/a.jpg", text(turn), strength=0.25)
    assert second == Job(
        str(tmp_path / "ü b.jpg"), "out/x/y.png", text(SMILE), 2, strength=1.0, mask=str(tmp_path / "m.png")
    )
    assert (third.photo, third.output, third.box) == ("/abs/c.bmp", "out/c.png", (1, 2, 3, 4))
    wanted = from_text(third.recipe, "").steps[0].wanted
    assert (wanted.points, dict(wanted.moves), wanted.snap) == (["1,2:3,4"], {"turn": 5}, True)


def test_every_line_at_fault_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("[drag]\nlearning_rate = 1\n[[drags]]\nmoves = { smile = 1 }\n")
    good = {"photo": "a.jpg"}
    told = refused(tmp_path, good, {"photo": "b.jpg", "fcae": 1}, {"photo": "c.jpg", "recipe": "bad.toml"}, *[""] * 3,
                   '{"photo": "d.jpg"', {"photo": "e.jpg", "output": "../e.jpg"})  # fmt: skip
    assert "line 2: unknown key fcae (did you mean face?)" in told
    assert "line 3" in told
    assert "unknown key learning_rate in [drag]" in told
    assert "line 7: is not JSON" in told
    assert "line 8: output ../e.jpg lies outside" in told
    assert "nothing was done" in told


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("[1]", "is not an object"),
        ({}, "has no photo"),
        ({"photo": ""}, "has no photo"),
        ({"photo": 3}, "photo is 3"),
        ({"photo": "a.jpg", "face": True}, "face is True"),
        ({"photo": "a.jpg", "face": 1.5}, "face is 1.5"),
        ({"photo": "a.jpg", "strength": 2}, "not between 0 and 1.5"),
        ({"photo": "a.jpg", "box": [1, 2, 3]}, "box takes 4 numbers"),
        ({"photo": "a.jpg", "recipe": "no.toml"}, "no such file"),
        ({"photo": "a.jpg", "recipe": "r.toml", "moves": {"smile": 1}}, "both a recipe and moves"),
        ({"photo": "a.jpg", "moves": {"smlie": 1}}, "did you mean smile?"),
        ({"photo": "a.jpg", "moves": {"smile": "much"}}, "not a number"),
        ({"photo": "a.jpg", "drags": ["1,2"]}, "is not a drag"),
        ({"photo": "a.jpg", "output": "/etc/a.jpg"}, "lies outside"),
        ({"photo": "a.jpg", "output": "a.gif"}, "is no kind of photo"),
        ({"photo": "a.jpg", "output": "../out/../a.jpg"}, "lies outside"),
        ("[" * 100_000, "is not JSON"),
        ({"photo": "a\0.jpg"}, "can be no name"),
        ({"photo": "a\ud800.jpg"}, "can be no name"),
        ({"photo": "a.jpg", "recipe": "\0"}, "can be no name"),
        ({"photo": "a.jpg", "moves": {"smile": True}}, "moves.smile is True"),
        ({"photo": "a.jpg", "moves": {"smile": [1]}}, "moves.smile is [1]"),
        ({"photo": "a.jpg", "moves": {"smile": math.nan}}, "moves.smile is nan"),
        ({"photo": "a.jpg", "strength": 10**400}, "strength is 1000"),
        ({"photo": "a.jpg", "box": [1, 2, math.nan, 4]}, "box takes 4 numbers"),
        ({"photo": "a.jpg", "box": [1, 2, 10**400, 4]}, "box takes 4 numbers"),
        ({"photo": "a.jpg", "face": 0}, "the largest is 1"),
        ({"photo": "a.jpg", "face": 1, "whole": True}, "exclude each other"),
        ({"photo": "contact-sheet.jpg"}, "would be replaced by the contact sheet"),
    ],
)
def test_a_bad_line(line: object, words: str, tmp_path: Path) -> None:
    assert words in refused(tmp_path, line)


def test_results_that_clash_are_refused(tmp_path: Path) -> None:
    told = refused(tmp_path, {"photo": "x/a.jpg"}, {"photo": "y/a.jpg"})
    assert "have one result" in told
    out = tmp_path / "out"
    told = refused(tmp_path, {"photo": str(out / "a.jpg"), "output": "b.jpg"}, {"photo": "a.jpg"})
    assert "would replace a photo" in told
    told = refused(tmp_path, {"photo": "a.jpg"}, {"photo": "b.jpg", "output": "a.jpg/b.jpg"})
    assert "would lie below another" in told
    told = refused(tmp_path, {"photo": "x/a.jpg"}, {"photo": "y/a.jpg"}, "{")
    assert "line 3: is not JSON" in told
    assert "have one result" in told, "all faults at once"
    (tmp_path / "a.jpg").touch()
    with pytest.raises(InputError, match="is the folder of the photos"):
        plan(str(tmp_path), str(tmp_path), SMILE, BARE)


def test_what_is_no_jobs_at_all(tmp_path: Path) -> None:
    assert "nothing to drag" in refused(tmp_path, {"photo": "a.jpg"}, recipe=None)
    assert "has no lines" in refused(tmp_path, "")
    (tmp_path / "latin.jsonl").write_bytes(b"\xff\xfe{}")
    for source, words in (
        (tmp_path / "none", "no such folder or jobs file"),
        (tmp_path, "holds no photos"),
        (tmp_path / "latin.jsonl", "cannot be read as text"),
    ):
        with pytest.raises(InputError, match=words):
            plan(str(source), "out", SMILE, BARE)
    with pytest.raises(InputError, match="give --recipe R or --move"):
        plan(str(tmp_path), "out", None, BARE)


def test_a_separator_that_is_no_new_line_stays_in_its_text(tmp_path: Path) -> None:
    (job,) = plan(lines(tmp_path, '{"photo": "a\u2028b\u0085.png"}'), "out", SMILE, BARE)
    assert job.photo.endswith("a\u2028b\u0085.png")


def test_results_are_edited_again_without_their_contact_sheet(tmp_path: Path) -> None:
    for name in ("1.png", "contact-sheet.jpg", "report.jsonl"):
        (tmp_path / name).touch()
    (job,) = plan(str(tmp_path), str(tmp_path.parent / "again"), SMILE, BARE)
    assert job.photo.endswith("1.png")


def test_what_a_result_depends_on_is_in_its_key(tmp_path: Path) -> None:
    rows = [{"photo": "1.png"}, {"photo": "2.png"}, {"photo": "3.png", "strength": 0.5}, {"photo": "4.png", "face": 1}]
    keys = [job.key for job in plan(lines(tmp_path, *rows), "out", SMILE, BARE)]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3
