"""Named drags: pairs that follow the face wherever it is, and go where their names say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from realdrag.cli_options import MOVE_NAMES
from realdrag.drag.moves import MIRROR, MOVES, SNAP_REACH, Pairs, expand, snap
from realdrag.errors import InputError

EXTREMES = [(name, number) for name, move in MOVES.items() for number in (move.low, move.high) if number]
# 300-W's numbers of a mirrored face: what is landmark k of the mirror image.
MIRRORED = [*range(16, -1, -1), *range(26, 16, -1), *range(27, 31), *range(35, 30, -1)]
MIRRORED += [45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40]
MIRRORED += [54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65]


@pytest.fixture
def face() -> np.ndarray:
    """A lopsided face in photo pixels: the eyes 80 px apart around (300, 200), the rest roughly where it belongs."""
    marks = np.random.default_rng(5).normal(0, 2, (68, 2))
    angle = np.linspace(np.pi, 0, 17)
    marks[:17] += np.stack([300 + 100 * np.cos(angle), 210 + 130 * np.sin(angle)], 1)
    marks[17:22] += np.stack([np.linspace(230, 280, 5), np.full(5, 170)], 1)
    marks[22:27] += np.stack([np.linspace(320, 370, 5), np.full(5, 170)], 1)
    marks[27:31] += np.stack([np.full(4, 300), np.linspace(200, 245, 4)], 1)
    marks[31:36] += np.stack([np.linspace(280, 320, 5), np.full(5, 255)], 1)
    for first, x in ((36, 260), (42, 340)):
        around = np.array([np.pi, 4.2, 5.2, 0, 1, 2.1])
        marks[first : first + 6] += np.stack([x + 16 * np.cos(around), 200 + 7 * np.sin(around)], 1)
    around = np.pi + np.arange(12) * np.pi / 6
    marks[48:60] += np.stack([300 + 40 * np.cos(around), 290 + 15 * np.sin(around)], 1)
    around = np.pi + np.arange(8) * np.pi / 4
    marks[60:68] += np.stack([300 + 30 * np.cos(around), 290 + 5 * np.sin(around)], 1)
    return marks


def by_landmark(pairs: Pairs) -> dict[int, np.ndarray]:
    """Landmark → [2, 2], handle and target."""
    return dict(zip(pairs.landmarks, np.stack([pairs.handles, pairs.targets], 1), strict=True))


def offsets(name: str, number: float, face: np.ndarray) -> dict[int, np.ndarray]:
    """Landmark → how far it is to move, in photo pixels."""
    return {k: target - handle for k, (handle, target) in by_landmark(expand({name: number}, face)).items()}


# --- following the face ---


@pytest.mark.parametrize(("name", "number"), EXTREMES)
def test_handles_are_the_landmarks_and_targets_elsewhere(name: str, number: float, face: np.ndarray) -> None:
    pairs = expand({name: number}, face)
    np.testing.assert_array_equal(pairs.handles, face[list(pairs.landmarks)])
    way = np.linalg.norm(pairs.targets - pairs.handles, axis=1) / 80
    assert (way > 0.001).all()
    assert way.max() < 0.4
    assert pairs.moves == ((name,),) * len(pairs.handles)


@pytest.mark.parametrize(("name", "number"), EXTREMES)
@pytest.mark.parametrize(
    ("angle", "scale", "shift"), [(0, 1, (500, -40)), (0, 3.5, (0, 0)), (35, 0.5, (7, 9)), (180, 1, (0, 0))]
)
def test_a_face_turned_scaled_and_moved_has_its_pairs_so(
    name: str, number: float, angle: float, scale: float, shift: tuple[float, float], face: np.ndarray
) -> None:
    sine, cosine = np.sin(np.radians(angle)), np.cos(np.radians(angle))
    similarity = scale * np.array([[cosine, -sine], [sine, cosine]])
    here, there = expand({name: number}, face), expand({name: number}, face @ similarity.T + shift)
    assert here.landmarks == there.landmarks
    np.testing.assert_allclose(there.handles, here.handles @ similarity.T + shift, atol=1e-9)
    np.testing.assert_allclose(there.targets, here.targets @ similarity.T + shift, atol=1e-9)


@pytest.mark.parametrize(("name", "number"), EXTREMES)
def test_the_mirror_image_has_mirrored_pairs(name: str, number: float, face: np.ndarray) -> None:
    """A turn to the left is one to the right there; all else is what it was."""
    flip = np.array([-1, 1])
    here = by_landmark(expand({name: number}, face))
    there = by_landmark(expand({name: -number if name == "turn" else number}, face[MIRRORED] * flip))
    assert {MIRRORED[k] for k in here} == there.keys()
    for k, pair in here.items():
        np.testing.assert_allclose(there[MIRRORED[k]], pair * flip, atol=1e-9)


def test_the_table_of_pairs_is_300_w_s() -> None:
    assert all(MIRRORED[left] == right for left, right in MIRROR.items())


# --- going where their names say; x to the right, y down ---


def test_a_smile_goes_out_and_up(face: np.ndarray) -> None:
    left, right = (offsets("smile", 1, face)[k] for k in (48, 54))
    assert left[0] < 0 < right[0]
    assert left[1] < 0
    assert right[1] < 0


def test_a_mouth_opens_downwards(face: np.ndarray) -> None:
    moved = offsets("open-mouth", 1, face)
    assert moved[57][1] > moved[8][1] > 0 > moved[51][1]


def test_a_mouth_closes_as_far_as_it_is_open(face: np.ndarray) -> None:
    to_photo = np.linalg.norm(face[42:48].mean(0) - face[36:42].mean(0))
    shut = np.linalg.norm(offsets("open-mouth", -1, face)[57])
    assert offsets("open-mouth", -1, face)[57][1] < 0
    assert shut == pytest.approx(face[66, 1] - face[62, 1], abs=1)
    face[62] = face[66]
    assert "open-mouth" not in [name for names in expand({"open-mouth": -1}, face).moves for name in names]
    assert np.linalg.norm(offsets("open-mouth", 1, face)[57]) == pytest.approx(0.16 * to_photo)


def test_a_jaw_widens_on_both_sides(face: np.ndarray) -> None:
    assert all((offset[0] > 0) == (k > 8) for k, offset in offsets("jaw", 1, face).items())
    assert all((offset[0] < 0) == (k > 8) for k, offset in offsets("jaw", -1, face).items())


def test_a_chin_goes_down(face: np.ndarray) -> None:
    assert all(offset[1] > 0 and 5 < k < 11 for k, offset in offsets("chin", 1, face).items())


def test_lids_go_apart_and_brows_up(face: np.ndarray) -> None:
    assert all((offset[1] < 0) == (k in (37, 38, 43, 44)) for k, offset in offsets("eyes", 1, face).items())
    assert all(offset[1] < 0 and 17 <= k <= 26 for k, offset in offsets("brows", 1, face).items())


@pytest.mark.parametrize("degrees", [-10, -5, 5, 10])
def test_a_turn_is_to_the_left_when_negative_and_what_lies_behind_goes_the_other_way(
    degrees: float, face: np.ndarray
) -> None:
    moved = offsets("turn", degrees, face)
    assert np.sign(moved[30][0]) == np.sign(degrees)
    assert np.sign(moved[2][0]) == np.sign(moved[14][0]) == -np.sign(degrees)
    # The nose's tip lies 0.45 of the distance of the eyes before them; this face's is 80 px.
    assert moved[30][0] == pytest.approx(0.45 * 80 * np.sin(np.radians(degrees)), abs=1)


@pytest.mark.parametrize("name", [name for name in MOVES if name != "turn"])
def test_half_the_number_is_half_the_way(name: str, face: np.ndarray) -> None:
    whole, half = offsets(name, 1, face), offsets(name, 0.5, face)
    for k, offset in whole.items():
        np.testing.assert_allclose(half[k], offset / 2, atol=1e-9)


# --- together ---


def test_moves_that_drag_one_landmark_add_up_to_one_handle(face: np.ndarray) -> None:
    pairs = expand({"open-mouth": 1, "turn": 10, "smile": 0.5}, face)
    assert len(set(pairs.landmarks)) == len(pairs.landmarks)
    sum_of_both = offsets("open-mouth", 1, face)[8] + offsets("turn", 10, face)[8]
    np.testing.assert_allclose(by_landmark(pairs)[8][1] - face[8], sum_of_both, atol=1e-9)
    assert dict(zip(pairs.landmarks, pairs.moves, strict=True))[8] == ("open-mouth", "turn")


def test_their_order_does_not_matter(face: np.ndarray) -> None:
    one, other = (by_landmark(expand(moves, face)) for moves in ({"smile": 1, "turn": 5}, {"turn": 5, "smile": 1}))
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[k], other[k]) for k in one)


def test_nothing_moves_at_zero(face: np.ndarray) -> None:
    assert len(expand(dict.fromkeys(MOVES, 0.0), face).handles) == 0


# --- what cannot be ---


@pytest.mark.parametrize(("name", "near"), [("smlie", "smile"), ("Turn", "turn"), ("open_mouth", "open-mouth")])
def test_an_unknown_name_has_a_neighbour(name: str, near: str, face: np.ndarray) -> None:
    with pytest.raises(InputError, match=f"did you mean {near}?") as caught:
        expand({name: 0.5}, face)
    assert caught.value.code == "move"


def test_a_name_like_no_other_lists_them_all(face: np.ndarray) -> None:
    with pytest.raises(InputError, match=", ".join(MOVES)):
        expand({"xyzzy": 0.5}, face)


@pytest.mark.parametrize(
    ("name", "number"), [("smile", 1.6), ("smile", -9), ("turn", 90), ("eyes", -1), ("jaw", np.nan)]
)
def test_a_number_out_of_range_names_the_range(name: str, number: float, face: np.ndarray) -> None:
    low, high = f"{MOVES[name].low:g}", f"{MOVES[name].high:g}"
    with pytest.raises(InputError, match=f"not between {low} and {high}"):
        expand({name: number}, face)


def test_landmarks_that_are_no_face() -> None:
    for marks in (np.zeros((68, 2)), np.full((68, 2), np.nan)):
        with pytest.raises(InputError, match="do not form a face"):
            expand({"smile": 0.5}, marks)


def test_help_and_readme_name_just_these() -> None:
    assert MOVE_NAMES.split(", ") == list(MOVES)
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    table = readme.split("| move | range |")[1].split("\n\n")[0].splitlines()[2:]
    named = [tuple(cell.strip() for cell in line.split("|")[1:3]) for line in table]
    assert named == [(f"`{move.name}`", f"{move.low:g} … {move.high:g}") for move in MOVES.values()]


# --- snapping ---


def test_a_handle_near_a_landmark_snaps_to_it(face: np.ndarray) -> None:
    assert snap(face[[48, 8]] + [3.0, -2.0], face) == [48, 8]


def test_how_far_is_near(face: np.ndarray) -> None:
    """In distances of the eyes: the same for a small face."""
    eyes = np.linalg.norm(face[42:48].mean(0) - face[36:42].mean(0))
    down = np.array([0, SNAP_REACH * eyes])
    for scale in (1, 0.2):
        assert snap((face[8] + 0.99 * down)[None] * scale, face * scale) == [8]
        assert snap((face[8] + 1.01 * down)[None] * scale, face * scale) == [None]


def test_of_two_handles_at_one_landmark_the_nearer_gets_it(face: np.ndarray) -> None:
    assert snap(np.stack([face[8] + [0, 4], face[8] + [0, 2]]), face) == [None, 8]


def test_no_handles(face: np.ndarray) -> None:
    assert snap(np.zeros((0, 2)), face) == []
