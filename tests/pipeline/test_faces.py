"""The faces of a photo as a user chooses among them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import realdrag
from realdrag.align import CascadeDetector
from realdrag.settings import AlignSettings, Settings


@pytest.fixture
def two(astronaut: Any) -> realdrag.Photo:
    """A smaller face on the left, a larger one on the right."""
    small = astronaut[:300:2, 60:360:2]
    left = np.full((300, 150, 3), 90, np.uint8)
    left[:150] = small
    return realdrag.open(np.concatenate([left, astronaut[:300, 60:360]], 1))


def test_faces_are_numbered_as_align_takes_them_and_looked_for_once(
    two: realdrag.Photo, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks, detect = list[int](), CascadeDetector.detect

    def counted(self: CascadeDetector, rgb: Any) -> Any:
        looks.append(1)
        return detect(self, rgb)

    monkeypatch.setattr(CascadeDetector, "detect", counted)
    editor = realdrag.Editor(settings=Settings(align=AlignSettings(detector="cascade")))
    faces = editor.faces(two)
    assert [face.box[0] > 150 for face in faces] == [True, False], "the largest first"
    assert [editor.align(two, face=k).box for k in (1, 2)] == [face.box for face in faces]
    assert looks == [1]
    bare = realdrag.Editor(settings=editor.settings).align(two, face=2)
    np.testing.assert_array_equal(bare.crop, editor.align(two, face=2).crop)
    assert (bare.detector, bare.confidence) == ("cascade", faces[1].confidence)


def test_a_box_is_still_looked_into(astronaut: Any) -> None:
    editor = realdrag.Editor(settings=Settings(align=AlignSettings(detector="embedded")))
    photo = realdrag.open(astronaut)
    (face,) = editor.faces(photo)
    boxed = editor.align(photo, box=face.box)
    assert boxed.landmarks is not None
    assert editor.align(photo, whole=True).landmarks is None


def test_where_no_face_is_looked_for_there_are_none(astronaut: Any) -> None:
    editor = realdrag.Editor(settings=Settings(align=AlignSettings(aligner="square")))
    assert editor.faces(realdrag.open(astronaut)) == []
