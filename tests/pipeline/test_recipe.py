"""Recipes: the same photo gives the same bytes, another one the same edit of its face, a bad file one clear line."""

from __future__ import annotations

import json
import shutil
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from scipy.ndimage import center_of_mass

import realdrag
from realdrag.errors import InputError
from realdrag.geometry import transform
from realdrag.placing import Wanted
from realdrag.points import Spot, parse_drag
from realdrag.recipe import FaceMask, Origin, Recipe, Step, parsed, read, text
from realdrag.replay import box_on, elsewhere, on_any_face, steps_on
from realdrag.values import Alignment, Photo

Run = Callable[..., Any]
CORNER = "215,120:210,112"


def same(a: str | Path, b: str | Path) -> bool:
    return Path(a).read_bytes() == Path(b).read_bytes()


@pytest.fixture
def empty_store(own_home: Path) -> Callable[[], None]:
    """Forgets every latent."""
    return lambda: shutil.rmtree(own_home / "latents")


def test_a_recipe_gives_the_same_bytes_on_an_empty_store_whatever_the_config_says(
    here: Path, cli: Run, empty_store: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    edit = ["edit", "a.png", "-o", "first.png", "--drag", CORNER, "--mask", "mask.png", "--save-recipe", "r.toml"]
    assert cli(*edit, "--feather", "0.02", "--strength", "0.8").code == 0
    empty_store()
    monkeypatch.delenv("REALDRAG_CONFIG")
    again = cli("edit", "a.png", "-o", "second.png", "--recipe", "r.toml", "--save-recipe", "r2.toml", "--json")
    assert again.code == 0, again.err
    assert json.loads(again.out)["cache"] == "miss"
    assert same("first.png", "second.png")
    assert same("r.toml", "r2.toml")
    assert not same("first.png", "out.png")  # the strength and the feather had a say


def test_points_are_kept_relative_to_landmarks_and_still_give_the_same_bytes(here: Path, cli: Run) -> None:
    drags = ["--drag", "203.25,140:199.5,137", "--drag", "54+0.1,0:54+0.2,-0.1", "--move", "chin=0.2"]
    edit = ["edit", "a.png", "-o", "first.png", *drags, "--detector", "embedded", "--save-recipe", "r.toml"]
    assert cli(*edit).code == 0
    recipe = read("r.toml")
    assert [h.landmark for h, _ in recipe.steps[0].wanted.drags] == [60, 54]  # the nearest, and the user's own
    assert recipe.steps[0].wanted.points[1] == "54+0.1,0:54+0.2,-0.1"
    assert recipe.steps[0].wanted.moves == {"chin": 0.2}
    assert recipe.settings.align.detector == "embedded"
    assert recipe.settings.inversion.perceptual == "embedded"
    assert cli("edit", "a.png", "-o", "second.png", "--recipe", "r.toml").code == 0
    assert same("first.png", "second.png")


def test_snapped_handles_are_the_landmarks_themselves(here: Path, cli: Run) -> None:
    edit = ["edit", "a.png", "-o", "first.png", "--drag", "203,140:199.5,137", "--snap", "--detector", "embedded"]
    assert cli(*edit, "--save-recipe", "r.toml").code == 0
    assert read("r.toml").steps[0].wanted.points[0].startswith("60+0,0:60")
    assert cli("edit", "a.png", "-o", "second.png", "--recipe", "r.toml").code == 0
    assert same("first.png", "second.png")


def test_drags_that_follow_on_each_other_are_replayed_in_a_row(
    here: Path, cli: Run, contents: Callable[[Path], dict[str, bytes]]
) -> None:
    assert cli("drag", "-w", "work", "--strength", "0.5").code == 0
    assert cli("drag", "-w", "work", "--continue", "--drag", "224,120:230,116", "--strength", "0.9").code == 0
    assert cli("drag", "-w", "work", "--continue", "--drag", "200,130:200,126").code == 0
    assert cli("drag", "-w", "work", "--step", "1").code == 0
    made = cli("composite", "-w", "work", "-o", "first.png", "--save-recipe", "r.toml")
    assert made.code == 0, made.err
    steps = read("r.toml").steps
    assert [(s.strength, s.step) for s in steps] == [(0.5, None), (0.9, None), (1.0, 1)]
    assert [s.mask is None for s in steps] == [False, True, True]
    assert cli("edit", "a.png", "-o", "second.png", "--recipe", "r.toml", "-w", "new").code == 0
    assert same("first.png", "second.png")
    assert json.loads(Path("new/drags.json").read_text()) == {"current": 3, "count": 3}
    before = contents(Path("new"))
    assert cli("edit", "a.png", "-o", "third.png", "--recipe", "r.toml", "-w", "new").code == 0
    assert same("first.png", "third.png")
    assert {n: d for n, d in contents(Path("new")).items() if n != "result.json"} == {
        n: d for n, d in before.items() if n != "result.json"
    }


def test_a_drag_changed_after_others_followed_it_does_not_change_their_recipe(here: Path, cli: Run) -> None:
    assert cli("drag", "-w", "work", "--continue", "--drag", "224,120:230,116").code == 0
    assert cli("composite", "-w", "work", "-o", "first.png").code == 0
    for flags in (["--undo"], ["--strength", "0.3"], ["--redo"]):
        assert cli("drag", "-w", "work", *flags).code == 0
    assert cli("composite", "-w", "work", "-o", "again.png", "--save-recipe", "r.toml").code == 0
    assert read("r.toml").steps[0].strength == 1
    assert cli("edit", "a.png", "-o", "second.png", "--recipe", "r.toml").code == 0
    assert same("first.png", "second.png")


def test_drags_of_different_settings_are_no_recipe(here: Path, cli: Run) -> None:
    assert cli("drag", "-w", "work", "--continue", "--drag", "224,120:230,116", "--max-steps", "2").code == 0
    refused = cli("composite", "-w", "work", "-o", "x.png", "--save-recipe", "r.toml")
    assert (refused.code, "different settings" in refused.err) == (2, True)
    assert not Path("r.toml").exists()


def test_the_api_takes_and_makes_recipes(here: Path) -> None:
    drags = [((215.0, 120.0), (210.0, 112.0))]
    first = realdrag.edit("a.png", "first.png", drags, mask="mask.png", save_recipe="r.toml")
    second = realdrag.edit("a.png", "second.png", recipe="r.toml")
    np.testing.assert_array_equal(first.result.photo.pixels, second.result.photo.pixels)
    less = realdrag.edit("a.png", None, recipe="r.toml", strength=0.0)
    assert less.result.changed is None
    with pytest.raises(InputError, match="a recipe says what to drag"):
        realdrag.edit("a.png", None, drags, recipe="r.toml")


def test_flags_that_a_recipe_answers_are_refused_and_the_others_win(here: Path, cli: Run) -> None:
    Path("r.toml").write_text('[[drags]]\npoints = ["215,120:210,112"]\n[align]\ndetector = "cascade"\n')
    for flags in (["--drag", CORNER], ["--move", "smile=1"], ["--preset", "fast"], ["--mask", "mask.png"]):
        refused = cli("edit", "a.png", "-o", "x.png", "--recipe", "r.toml", *flags)
        assert (refused.code, "--recipe says what to drag" in refused.err) == (2, True), flags
    for output in ("r.toml", "a.png"):
        assert cli("edit", "a.png", "-o", output, "--format", "png", "--recipe", "r.toml").code == 2
    assert Path("r.toml").read_text().startswith("[[drags]]")
    kept = cli("edit", "a.png", "-o", "x.png", "--recipe", "r.toml", "--max-steps", "1", "--save-recipe", "s.toml")
    assert kept.code == 0, kept.err
    assert read("s.toml").settings.drag.max_steps == 1
    assert cli("edit", "a.png", "-o", "y.png", "--recipe", "r.toml", "--save-recipe", "a.png").code == 2


def test_a_recipe_of_another_model_is_refused_unless_a_model_is_named(here: Path, cli: Run) -> None:
    Path("r.toml").write_text('[model]\nname = "faces-128"\nsha256 = "00"\n[[drags]]\nmoves = { smile = 0.5 }\n')
    refused = cli("edit", "a.png", "-o", "x.png", "--recipe", "r.toml")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "another faces-128" in refused.err
    assert cli("edit", "a.png", "-o", "x.png", "--recipe", "r.toml", "--model", "faces-128", "--tune", "none").code == 0


# What is done on another photo.


def face(matrix: npt.NDArray[Any], seed: int = 0) -> Alignment:
    """A made-up face seen through `matrix` 3×3, its crop the unit map seen through it."""
    marks = np.random.default_rng(seed).uniform(40, 160, (68, 2))
    marks[36:42], marks[42:48] = [80.0, 80.0], [120.0, 84.0]
    crop = np.zeros((64, 64, 3), np.uint8)
    to_crop = np.diag([0.32, 0.32, 1.0]) @ np.linalg.inv(matrix)
    return Alignment(to_crop, crop, transform(matrix, marks), None, "embedded", 1.0)


def turned(degrees: float, scale: float, dx: float, dy: float) -> npt.NDArray[Any]:
    c, s = scale * np.cos(np.radians(degrees)), scale * np.sin(np.radians(degrees))
    return np.array([[c, -s, dx], [s, c, dy], [0, 0, 1]])


@pytest.mark.parametrize("degrees", [0, 20, -90, 180])
def test_points_go_along_with_a_face_that_is_turned_larger_and_elsewhere(degrees: float) -> None:
    matrix = turned(degrees, 1.7, 300, 200)
    here, there = face(np.eye(3)), face(matrix)
    pair = np.array([[100.5, 130.25], [93.0, 121.0]])
    handle, target = on_any_face(pair, (Spot(*pair[0]), Spot(*pair[1])), None, here)
    np.testing.assert_allclose([handle.place(here), target.place(here)], pair, atol=1e-6)
    np.testing.assert_allclose([handle.place(there), target.place(there)], transform(matrix, pair), atol=1e-5)
    again = parse_drag(f"{handle}:{target}")
    np.testing.assert_allclose([spot.place(here) for spot in again], pair, atol=1e-6)


@pytest.mark.parametrize("degrees", [0, 20, 180])
def test_a_mask_goes_along_with_the_face(degrees: float) -> None:
    here, matrix = face(np.eye(3)), turned(degrees, 1.7, 300, 250)
    there = face(matrix)
    levels = np.zeros((200, 200), np.uint8)
    levels[60:80, 70:110] = 255
    origin = Origin("", (200, 200), tuple(map(tuple, here.to_crop.tolist())), here.size)
    photo = Photo(np.zeros((700, 600, 3), np.uint8), "RGB", "x")
    carried = FaceMask(levels, origin).on(photo, there)
    assert carried.shape == (700, 600)
    assert abs(carried.sum() / 1.7**2 - 20 * 40) < 8
    y, x = center_of_mass(carried)
    np.testing.assert_allclose([x, y], transform(matrix, np.array([[89.5, 69.5]]))[0], atol=0.3)


def test_on_another_photo_neither_box_nor_step_count() -> None:
    origin = Origin("a", (200, 200), tuple(map(tuple, np.eye(3).tolist())), 64)
    step = Step(Wanted([parse_drag("1,2:3,4")]), np.ones((200, 200), np.uint8), 0.8, 5, 0.5)
    recipe = Recipe((step,), box=(1, 2, 3, 4), origin=origin)
    own, other = (Photo(np.zeros((200, 200, 3), np.uint8), "RGB", name) for name in ("a", "b"))
    assert steps_on(recipe, own) == [step]
    assert box_on(recipe, own) == (1, 2, 3, 4)
    assert box_on(recipe, other) is None
    (there,) = steps_on(recipe, other)
    assert (there.step, there.strength) == (None, 0.4)
    assert isinstance(there.mask, FaceMask)
    assert elsewhere(replace(step, strength=1.5, share=2.0), origin).strength == 1.5
    assert steps_on(recipe, other, strength=1.0)[0].strength == 0.5


# The file.


def test_what_is_written_is_read_again() -> None:
    soft = (np.arange(6, dtype=np.uint16) * 9999).reshape(2, 3)
    recipe = Recipe(
        steps=(
            Step(Wanted([parse_drag("48+0.1,-0.05:48+0,0"), parse_drag("1.5,2:3,4")], {"smile": 0.5}, True), soft, 0.5),
            Step(Wanted([], {"turn": -5.0}), np.full((2, 3), 255, np.uint8), 1.5, 3, 0.25),
        ),
        model="x",
        model_sha256="ab",
        precision="bf16",
        threads=3,
        face=2,
        whole=False,
        origin=Origin("cd", (3, 2), ((1.5, 0.0, 1 / 3), (0.0, 1.5, 2.0), (0.0, 0.0, 1.0)), 64),
    )
    again = parsed(tomllib.loads(text(recipe)), "r.toml")
    assert text(again) == text(recipe)
    assert [step.wanted.points for step in again.steps] == [step.wanted.points for step in recipe.steps]
    for a, b in zip(again.steps, recipe.steps, strict=True):
        np.testing.assert_array_equal(a.mask, b.mask)
    assert vars(replace(again, steps=())) == vars(replace(recipe, steps=()))


GOOD = "[[drags]]\nmoves = { smile = 0.5 }\n"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("", "has no drags"),
        ("drags = 3", "drags is 3"),
        ("drags = [3]", "[[drags]] 1 is not a table"),
        ("[[drags]]", "[[drags]] 1 drags nothing"),
        ("version = 2\n" + GOOD, "version 2 is another realdrag's"),
        ("version = true\n" + GOOD, "version is True"),
        ("treads = 2\n" + GOOD, "unknown key treads; did you mean threads?"),
        ("threads = 0.5\n" + GOOD, "threads is 0.5"),
        (GOOD + "[modell]", "unknown key modell; did you mean model?"),
        (GOOD + "[drag]\nmask_wieght = 1", "unknown key mask_wieght in [drag]; did you mean mask_weight?"),
        (GOOD + "[drag]\nlr = nan", "[drag] lr is nan"),
        (GOOD + "[photo]\nsha256 = 3", "[photo] sha256 is 3"),
        (GOOD + "[photo]\nto_crop = [[1, 2], [3]]", "to_crop takes 3 × 3 numbers"),
        (GOOD + "[photo]\nto_crop = [[0,0,0],[0,0,0],[0,0,0]]\ncrop = 3", "to_crop has no inverse"),
        (GOOD + "[photo]\nto_crop = [[1,0,0],[0,1,0],[0,0,1]]", "crop is missing"),
        (GOOD + "[choice]\nbox = [1, 2, 3]", "[choice] box takes 4 numbers"),
        (GOOD + "strength = 2.0", "strength is 2: not between 0 and 1.5"),
        (GOOD + "strength = inf", "strength is inf"),
        (GOOD + "step = -1", "step is -1"),
        (GOOD + 'mask = "no"', "mask is not a PNG in base64"),
        (GOOD + 'mask = "AAAA"', "mask is not a PNG in base64"),
        (GOOD + "msak = 1", "unknown key msak in [[drags]] 1; did you mean mask?"),
        ("[[drags]]\nmoves = { smlie = 0.5 }", "did you mean smile?"),
        ("[[drags]]\nmoves = { smile = 5 }", "is not between -1 and 1.5"),
        ('[[drags]]\nmoves = { smile = "x" }', "moves.smile is 'x', not a number"),
        ('[[drags]]\npoints = ["1,2"]', "is not a drag"),
        ("[[drags]]\npoints = [1]", "points takes texts"),
        ("[[drags]]\nmoves = { smile = 1" + "0" * 400 + " }", "moves.smile is 1000"),
        (GOOD + "strength = 1" + "0" * 400, "strength is 1"),
        (GOOD + "[choice]\nbox = [1, 2, 3, 1" + "0" * 400 + "]", "box takes 4 numbers"),
        ("x = " + "[" * 100_000, "is nested too deeply"),
        ("[[drags]\n", "is not TOML"),
        ("\x00", "is not TOML"),
    ],
)
def test_a_bad_recipe_is_refused_in_one_line(given: str, words: str, tmp_path: Path, cli: Run) -> None:
    (tmp_path / "r.toml").write_text(given)
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    ran = cli("edit", tmp_path / "a.png", "-o", tmp_path / "x.png", "--recipe", tmp_path / "r.toml")
    assert (ran.code, ran.err.count("\n")) == (2, 1), ran.err
    assert words in ran.err
    assert not (tmp_path / "x.png").exists()


def test_a_mask_of_another_size_than_the_recipes_photo_is_refused() -> None:
    mask = text(Recipe((Step(Wanted([], {"smile": 0.5}), np.ones((4, 4), np.uint8)),)))
    tables = tomllib.loads(mask) | {"photo": {"size": [5, 4]}}
    with pytest.raises(InputError, match="has another size than the photo"):
        parsed(tables, "r.toml")
