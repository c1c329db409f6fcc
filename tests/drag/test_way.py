"""Strength: places on the recorded way, told by lengths in W+."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from realdrag.devices import threads
from realdrag.drag import at_strength, check_strength, way_to
from realdrag.drag import drag as stage
from realdrag.errors import InputError
from realdrag.progress import Silent
from realdrag.settings import DragSettings
from realdrag.stylegan import Generator
from realdrag.values import Drag, Handle, Latent, Outcome

NOSE, UP = np.array([[64.0, 76.0]]), np.array([[64.0, 72.0]])


def made(*latents: float, chosen: int, before: tuple[float, ...] = ()) -> Drag:
    """A drag whose latents are single numbers; its one handle is at ten times them."""
    way = np.array(latents, np.float32).reshape(-1, 1, 1)
    return Drag(
        handles=(Handle((0, 0), (30, 0), (0, 0), 30, 30, 1.0),),
        outcome=Outcome.STALLED,
        way=way,
        places=np.concatenate([way.astype(np.float64) * 10, np.zeros((len(way), 1, 1))], axis=2),
        before=np.array(before, np.float32).reshape(-1, 1, 1),
        best=chosen,
        chosen=chosen,
        templates=np.zeros((1, 1), np.float32),
        picture=np.zeros((1, 1, 3), np.uint8),
        block="b64",
        trace=(),
    )


def latent_and_place(drag: Drag, strength: float) -> tuple[float, float]:
    latents, places = way_to(drag, strength)
    assert latents.shape == (len(places), 1, 1)
    assert latents.dtype == np.float32
    return float(latents[-1, 0, 0]), float(places[-1, 0, 0])


@pytest.mark.parametrize(("strength", "latent"), [(0, 0), (0.25, 1), (0.5, 2), (0.6, 2.4), (1, 4), (1.25, 5), (1.5, 6)])
def test_shares_of_the_way_are_of_its_length_not_of_its_steps(strength: float, latent: float) -> None:
    """Steps of 2, 1 and 1; what came after the chosen step is no part of it."""
    drag = made(0, 2, 3, 4, 9, chosen=3)
    assert latent_and_place(drag, strength) == pytest.approx((latent, latent * 10), abs=1e-5)


def test_a_way_with_a_detour_is_as_long_as_it_was() -> None:
    drag = made(0, 2, 1, 3, chosen=3)  # 5 long
    assert latent_and_place(drag, 0.5)[0] == pytest.approx(1.5)
    assert latent_and_place(drag, 0.4)[0] == 2


def test_beyond_1_the_last_quarter_shows_the_direction() -> None:
    """3 of 4 to the left, then back: it goes on to the right, by a quarter of the way."""
    drag = made(0, -3, -2.5, -2, chosen=3)
    assert latent_and_place(drag, 1.25) == pytest.approx((-1, -10))
    steps = way_to(drag, 1.5)[0][4:, 0, 0]
    assert (np.diff(steps) > 0).all()


def test_earlier_drags_belong_to_the_way_and_their_places_are_where_this_began() -> None:
    drag = made(2, 3, 4, chosen=2, before=(0, 1))
    assert latent_and_place(drag, 0) == (0, 20)
    assert latent_and_place(drag, 0.25) == (1, 20)
    assert latent_and_place(drag, 0.75) == (3, 30)


@pytest.mark.parametrize("strength", [0, 0.3, 1, 1.5])
def test_a_drag_that_went_nowhere_stays_there(strength: float) -> None:
    assert latent_and_place(made(7, chosen=0), strength) == (7, 70)


@pytest.mark.parametrize("strength", [-0.1, 1.51, float("nan"), float("inf")])
def test_other_strengths_are_refused(strength: float) -> None:
    with pytest.raises(InputError, match=r"not between 0 and 1\.5"):
        check_strength(strength)


@pytest.fixture(scope="module")
def dragged(latent: Latent, generator: Generator) -> Drag:
    with threads(1):
        return run(latent, generator, NOSE, UP)


def run(
    latent: Latent, generator: Generator, handles: np.ndarray, targets: np.ndarray, previous: Drag | None = None
) -> Drag:
    return stage(
        latent,
        generator,
        handles,
        targets,
        to_model=np.eye(3),
        movable=None,
        settings=DragSettings(),
        progress=Silent(),
        previous=previous,
    )


def test_strength_0_is_the_inversion_and_1_the_drag(latent: Latent, generator: Generator, dragged: Drag) -> None:
    none, whole = (at_strength(dragged, generator, strength) for strength in (0, 1))
    np.testing.assert_array_equal(none.picture, latent.picture)
    assert none.handles[0].distance_end == 4
    np.testing.assert_array_equal(whole.picture, dragged.picture)
    assert whole.handles == dragged.handles
    again = at_strength(at_strength(dragged, generator, 0.3), generator, 1)
    assert (again.handles, again.picture.tobytes()) == (dragged.handles, dragged.picture.tobytes())


def test_more_strength_changes_more(latent: Latent, generator: Generator, dragged: Drag) -> None:
    strengths = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
    shown = [at_strength(dragged, generator, strength) for strength in strengths]
    assert [drag.strength for drag in shown] == list(strengths)
    change = [np.abs(drag.picture.astype(float) - latent.picture).mean() for drag in shown]
    assert (np.diff(change) > 0).all()
    left = [drag.handles[0].distance_end for drag in shown[:5]]
    assert (np.diff(left) < 0).all()


def test_going_on_begins_where_the_strength_ended(latent: Latent, generator: Generator, dragged: Drag) -> None:
    half = at_strength(dragged, generator, 0.5)
    handles = np.array([h.end for h in half.handles])
    more = run(latent, generator, handles, handles + np.array([2.0, 0.0]), previous=half)
    np.testing.assert_array_equal(more.way[0], way_to(half)[0][-1])
    np.testing.assert_array_equal(more.templates, dragged.templates)
    np.testing.assert_array_equal(way_to(more, 0)[0][-1], latent.w_plus)
    whole = np.concatenate([more.before, more.way[: more.chosen + 1]])
    np.testing.assert_array_equal(way_to(more, 1)[0], whole)
    np.testing.assert_array_equal(more.before, way_to(half)[0][:-1])


def test_a_first_drag_has_nothing_before(dragged: Drag) -> None:
    assert dragged.before.shape == (0, *dragged.way.shape[1:])
    assert dragged.places.shape == (len(dragged.way), 1, 2)
    np.testing.assert_allclose(dragged.places[dragged.chosen][0], dragged.handles[0].end, atol=6e-4)
    assert replace(dragged).strength == 1
