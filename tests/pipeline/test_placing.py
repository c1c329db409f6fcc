"""From flags to points on a photo: moves, snapping, and what does not fit."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.data import astronaut

import realdrag
from realdrag.errors import InputError
from realdrag.placing import Wanted, parse_moves, place
from realdrag.points import Spot, parse_drag
from realdrag.progress import Silent
from realdrag.settings import AlignSettings, Settings
from realdrag.values import Alignment

SIZE = (512, 512)


@pytest.fixture(scope="module")
def alignment() -> Alignment:
    """The astronaut's, with the embedded landmarks."""
    editor = realdrag.Editor(settings=Settings(align=AlignSettings(detector="embedded")))
    return editor.align(realdrag.open(astronaut()))


@pytest.fixture
def faceless() -> Alignment:
    return Alignment(np.eye(3), np.zeros((512, 512, 3), np.uint8), None, None, "cascade", None)


def test_moves_as_people_write_them() -> None:
    assert parse_moves(["smile=0.5", " turn = -5 ", "open-mouth=.2"]) == {"smile": 0.5, "turn": -5, "open-mouth": 0.2}
    assert parse_moves([]) == {}


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["smile"], "NAME=NUMBER"),
        (["smile="], "NAME=NUMBER"),
        (["=1"], "NAME=NUMBER"),
        (["smile=much"], "NAME=NUMBER"),
        (["smile=nan"], "NAME=NUMBER"),
        (["smile=1=2"], "NAME=NUMBER"),
        (["smile=0.5", "smile=1"], "twice"),
        (["smlie=1"], "did you mean smile"),
        (["turn=30"], "not between -10 and 10"),
    ],
)
def test_what_is_no_move(texts: list[str], words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        parse_moves(texts)
    assert caught.value.code == "move"
    assert caught.value.hint


def test_points_come_first_then_those_of_the_moves(alignment: Alignment) -> None:
    wanted = Wanted([parse_drag("215,150:215,155")], {"smile": 1, "turn": 5})
    placed = place(wanted, alignment, SIZE)
    assert placed.handles[0].tolist() == [215, 150]
    assert alignment.landmarks is not None
    np.testing.assert_allclose(placed.handles[1:3], alignment.landmarks[[48, 54]], atol=6e-4)
    assert placed.moved[1] == placed.moved[2] == ("smile",)
    assert {names for i, names in placed.moved.items() if i > 2} == {("turn",)}
    about = placed.about(wanted)
    assert about["moves"][0] == {"name": "smile", "number": 1, "handles": [1, 2]}
    assert about["moves"][1]["handles"] == list(range(3, len(placed.handles)))
    assert about["snapped"] == []


def test_what_is_printed_is_what_is_dragged(alignment: Alignment) -> None:
    """Three decimals of a pixel, so that flags made of the pairs are the same drag."""
    placed = place(Wanted(moves={"smile": 1, "jaw": -0.5}), alignment, SIZE)
    flags = [
        parse_drag(f"{x:.10g},{y:.10g}:{x2:.10g},{y2:.10g}")
        for (x, y), (x2, y2) in zip(placed.handles, placed.targets, strict=True)
    ]
    again = place(Wanted(flags), alignment, SIZE)
    np.testing.assert_array_equal(again.handles, placed.handles)
    np.testing.assert_array_equal(again.targets, placed.targets)


def test_snapping_moves_handle_and_target_alike(alignment: Alignment) -> None:
    marks = alignment.landmarks
    assert marks is not None
    x, y = marks[48] + [-2.0, 0.5]  # away from 60, the corner inside
    placed = place(Wanted([(Spot(x, y), Spot(x - 6, y - 4))], snap=True), alignment, SIZE)
    np.testing.assert_allclose(placed.handles, marks[[48]], atol=6e-4)
    np.testing.assert_allclose(placed.targets, marks[[48]] - [6, 4], atol=6e-4)
    assert placed.snapped == {0: 48}
    assert placed.about(Wanted())["snapped"] == [{"handle": 0, "landmark": 48}]
    (note,) = placed.notes
    assert "landmark 48" in note


def test_a_handle_near_nothing_stays_and_that_is_said(alignment: Alignment) -> None:
    placed = place(Wanted([parse_drag("215,20:215,25")], snap=True), alignment, SIZE)
    assert (placed.handles.tolist(), placed.targets.tolist()) == ([[215, 20]], [[215, 25]])
    (note,) = placed.notes
    assert note.startswith("--snap: 215,20 stays: no landmark within 0.25")


def test_points_of_moves_do_not_snap(alignment: Alignment) -> None:
    placed = place(Wanted(moves={"smile": 1}, snap=True), alignment, SIZE)
    assert (placed.snapped, placed.notes) == ({}, ())


def test_without_landmarks_one_line_says_so(faceless: Alignment) -> None:
    for wanted in (Wanted(moves={"smile": 1}), Wanted([parse_drag("9,9:12,9")], snap=True)):
        with pytest.raises(
            InputError, match=r"needs the landmarks of a face: the cascade detector finds none"
        ) as caught:
            place(wanted, faceless, SIZE)
        assert caught.value.code == "landmarks"
    assert len(place(Wanted([parse_drag("9,9:12,9")]), faceless, SIZE).handles) == 1


def test_points_of_a_move_that_the_mask_holds_are_left_out(alignment: Alignment) -> None:
    marks = alignment.landmarks
    assert marks is not None
    mask = np.ones((512, 512), np.float32)
    mask[round(marks[8, 1]) - 2 :] = 0  # holds the chin
    placed = place(Wanted(moves={"open-mouth": 1}), alignment, SIZE, mask)
    np.testing.assert_allclose(placed.handles, marks[[57, 51]], atol=6e-4)  # both lips, not the chin
    (note,) = placed.notes
    assert note.startswith("--move open-mouth: one point is left out: ")
    with pytest.raises(InputError, match=r"--move chin: .* mask lets nothing move"):
        place(Wanted(moves={"chin": 1}), alignment, SIZE, np.where(np.arange(512)[:, None] < 100, mask, 0))


def test_points_of_a_move_beyond_the_crop_are_left_out(alignment: Alignment) -> None:
    marks = alignment.landmarks
    assert marks is not None
    low = Alignment(alignment.to_crop, alignment.crop, marks.copy(), None, "fan", None)
    assert low.landmarks is not None
    to_crop = alignment.to_crop
    low.landmarks[8] = [marks[8, 0], (alignment.size - 2 - to_crop[1, 2] - to_crop[1, 0] * marks[8, 0]) / to_crop[1, 1]]
    placed = place(Wanted(moves={"open-mouth": 1}), low, SIZE)
    np.testing.assert_allclose(placed.handles, marks[[57, 51]], atol=6e-4)
    assert "outside the crop" in placed.notes[0]


def test_nothing_wanted_is_refused(alignment: Alignment) -> None:
    with pytest.raises(InputError, match="nothing to drag"):
        place(Wanted(), alignment, SIZE)
    with pytest.raises(InputError, match="--move smile: it moves nothing on this face"):
        place(Wanted(moves={"smile": 0, "jaw": 1}), alignment, SIZE)


def test_from_python(alignment: Alignment) -> None:
    said: list[str] = []

    class Told(Silent):
        def say(self, message: str) -> None:
            said.append(message)

    editor = realdrag.Editor(progress=Told())
    drags = editor.moves(alignment, {"smile": 0.5})
    placed = place(Wanted(moves={"smile": 0.5}), alignment, SIZE)
    assert drags == [
        (tuple(h), tuple(t)) for h, t in zip(placed.handles.tolist(), placed.targets.tolist(), strict=True)
    ]
    ((handle, target),) = editor.snap(alignment, [((drags[0][0][0] - 2, drags[0][0][1]), (100.0, 100.0))])
    assert handle == drags[0][0]
    assert target == pytest.approx((102, 100), abs=2e-3)
    assert len(said) == 1
