"""Points as people write them."""

from __future__ import annotations

import numpy as np
import pytest

from realdrag.errors import InputError
from realdrag.points import Spot, parse_box, parse_drag, parse_spot, place_drags
from realdrag.values import Alignment


def alignment(landmarks: bool) -> Alignment:
    """Eyes 40 px apart, landmark 48 at (100, 200)."""
    marks = np.zeros((68, 2))
    marks[42:48] = 40.0, 0.0
    marks[48] = 100.0, 200.0
    crop = np.zeros((8, 8, 3), np.uint8)
    return Alignment(np.eye(3), crop, marks if landmarks else None, None, "fan" if landmarks else "cascade", None)


@pytest.mark.parametrize(
    ("text", "spot"),
    [
        ("210,180", Spot(210, 180)),
        ("210.5,.25", Spot(210.5, 0.25)),
        ("-0.5,+3.", Spot(-0.5, 3)),
        (" 210 , 180 ", Spot(210, 180)),
        ("48+0.1,-0.05", Spot(0.1, -0.05, 48)),
        ("0-.5,0", Spot(-0.5, 0, 0)),
        ("67+1, 2", Spot(1, 2, 67)),
    ],
)
def test_what_is_a_point(text: str, spot: Spot) -> None:
    assert parse_spot(text) == spot


@pytest.mark.parametrize(
    "text",
    [
        *("", ",", "210", "210,", ",180", "210;180", "210,180,5", "2 10,180", "x,y", "210,,180", "--1,2", "."),
        *("1e3,5", "5,1E3", "nan,5", "5,NaN", "inf,5", "5,-inf", "infinity,1", "0x10,5", "1_0,5", "٢,٣"),
        *("68+0.1,0", "-1+0.1,0", "48+,0", "48+0.1", "4.8+0.1,0", "48 +0.1,0"),
    ],
)
def test_what_is_none(text: str) -> None:
    assert parse_spot(text) is None


def test_a_drag_goes_from_handle_to_target() -> None:
    assert parse_drag("1,2:3,-4.5") == (Spot(1, 2), Spot(3, -4.5))
    assert parse_drag(" 48+0,0 : 48+0.1,0 ") == (Spot(0, 0, 48), Spot(0.1, 0, 48))


@pytest.mark.parametrize("text", ["", "1,2", "1,2:", ":1,2", "1,2:3,4:5,6", "1,2-3,4", "1,2:3", "1,2:nan,4", "1,2:1,2"])
def test_a_drag_that_is_none_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(InputError, match="X,Y:X2,Y2") as caught:
        parse_drag(text)
    assert caught.value.code == "drag"
    assert repr(text) in caught.value.message


def test_points_near_a_landmark_are_in_eye_distances() -> None:
    handles, targets = place_drags([parse_drag("48+0.1,-0.05:7,9")], alignment(landmarks=True))
    np.testing.assert_allclose(handles, [[104, 198]])
    np.testing.assert_allclose(targets, [[7, 9]])


def test_without_landmarks_that_is_said() -> None:
    with pytest.raises(InputError, match=r"landmark 48 is not known: the cascade detector.*photo pixels"):
        place_drags([parse_drag("7,9:48+0.1,0")], alignment(landmarks=False))


def test_boxes() -> None:
    assert parse_box(None) is None
    assert parse_box("1,2.5, 30,-4") == (1, 2.5, 30, -4)
    for text in ("", "1,2,3", "1,2,3,4,5", "a,b,c,d", "1,2,3,nan", "1,2,3,1e9", "1 2 3 4"):
        with pytest.raises(InputError, match="X0,Y0,X1,Y1"):
            parse_box(text)
