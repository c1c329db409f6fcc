"""Whole drags on the embedded model: what is at the handle arrives, the rest of the face is respected."""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from typing import Any, cast

import cv2
import numpy as np
import pytest
import torch

from realdrag.devices import threads
from realdrag.drag import at_step, at_strength, choose_block, levels, painter
from realdrag.drag import drag as stage
from realdrag.drag.anchored import Anchored
from realdrag.drag.drag import LOST_AFTER, ended, kept_templates, set_up
from realdrag.drag.draggan import DragGan
from realdrag.drag.loop import Loop, Problem, Sight, State, begin
from realdrag.errors import InputError, WorkError
from realdrag.presets import load
from realdrag.progress import Silent
from realdrag.settings import DragSettings
from realdrag.stylegan import Generator, GeneratorConfig, to_picture
from realdrag.values import Drag, Latent, Moment, Outcome

SETTINGS, PAPER = DragSettings(), load("paper")[1].drag
NOSE, UP = np.array([[64.0, 76.0]]), np.array([[64.0, 72.0]])  # pixels of the 128 px picture
Prepared = tuple[Loop, State]
STOP = 0.5  # 2 px of 512, in pixels of 128


def run(latent: Latent, generator: Generator, handles: np.ndarray, targets: np.ndarray, **more: object) -> Drag:
    arguments = {"to_model": np.eye(3), "movable": None, "settings": SETTINGS, "progress": Silent()} | more
    return stage(latent, generator, handles, targets, **arguments)  # type: ignore[arg-type]


def prepared(
    latent: Latent, generator: Generator, handles: np.ndarray, targets: np.ndarray, **more: object
) -> Prepared:
    """The loop and its first state."""
    arguments = {"to_model": np.eye(3), "movable": None, "settings": SETTINGS, "previous": None} | more
    return set_up(latent, generator, handles, targets, **arguments)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def reached(latent: Latent, generator: Generator) -> Drag:
    with threads(1):
        return run(latent, generator, NOSE, UP)


def flow_at(before: np.ndarray, after: np.ndarray, x: float, y: float) -> np.ndarray:
    """Where the content at (x, y) went, in pixels of these pictures: dense flow around the point."""
    scale = 256 // before.shape[0]
    grey = [cv2.cvtColor(cv2.resize(p, (256, 256), interpolation=cv2.INTER_CUBIC), cv2.COLOR_RGB2GRAY) for p in
            (before, after)]  # fmt: skip
    flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(grey[0], grey[1], None)
    column, row = round((x + 0.5) * scale - 0.5), round((y + 0.5) * scale - 0.5)
    return np.median(flow[row - 6 : row + 7, column - 6 : column + 7].reshape(-1, 2), axis=0) / scale


# --- arriving ---


def test_a_drag_of_a_few_pixels_arrives(latent: Latent, generator: Generator, reached: Drag) -> None:
    assert reached.outcome is Outcome.REACHED
    (handle,) = reached.handles
    assert (handle.start, handle.target) == ((64.0, 76.0), (64.0, 72.0))
    assert handle.distance_start == 4
    assert handle.distance_end <= STOP
    assert np.hypot(handle.end[0] - 64, handle.end[1] - 72) == pytest.approx(handle.distance_end, abs=0.002)
    assert reached.block == "b64"
    assert reached.trace[0].distances == (4.0,)
    assert reached.trace[reached.chosen].distances == (handle.distance_end,)
    assert [t.step for t in reached.trace] == list(range(reached.steps + 1))


def test_the_picture_moved_the_same_way(latent: Latent, reached: Drag) -> None:
    """Seen by dense flow, which knows nothing of features."""
    x, y = flow_at(latent.picture, reached.picture, 64, 76)
    assert y < -1.2
    assert abs(x) < 0.5 * abs(y)


def test_the_way_begins_at_the_inversion_and_its_choice_is_the_picture(
    latent: Latent, generator: Generator, reached: Drag
) -> None:
    assert reached.way.shape == (len(reached.trace), *latent.w_plus.shape)
    assert reached.way.dtype == np.float32
    np.testing.assert_array_equal(reached.way[0], latent.w_plus)
    shown = to_picture(generator.synthesize(torch.from_numpy(reached.way[reached.chosen])[None]))
    np.testing.assert_array_equal(shown, reached.picture)


@pytest.mark.parametrize("settings", [SETTINGS, PAPER], ids=["balanced", "paper"])
@pytest.mark.parametrize("rows", [2, 6])
def test_only_the_free_rows_move(latent: Latent, generator: Generator, rows: int, settings: DragSettings) -> None:
    drag = run(latent, generator, NOSE, UP, settings=replace(settings, rows=rows, max_steps=5))
    np.testing.assert_array_equal(drag.way[:, rows:], np.broadcast_to(latent.w_plus[rows:], drag.way[:, rows:].shape))
    assert (drag.way[-1, :rows] != latent.w_plus[:rows]).any(1).all()


def test_rows_beyond_the_model_s_are_all_rows(latent: Latent, generator: Generator) -> None:
    drag = run(latent, generator, NOSE, UP, settings=replace(SETTINGS, rows=99, max_steps=2))
    assert drag.way.shape[1:] == latent.w_plus.shape


def test_two_handles_arrive_together(latent: Latent, generator: Generator) -> None:
    handles = np.array([[50.0, 92.0], [78.0, 92.0]])
    drag = run(latent, generator, handles, handles + np.array([[-3.0, -2.0], [3.0, -2.0]]))
    assert drag.outcome is Outcome.REACHED
    assert all(handle.distance_end <= STOP for handle in drag.handles)
    assert drag.templates.shape[:2] == (2, 3)  # the patch and its two slopes


def test_distances_are_in_photo_pixels(latent: Latent, generator: Generator, reached: Drag) -> None:
    """A photo three times as large around the same face, shifted: the same drag in other numbers."""
    to_photo = np.array([[3.0, 0, 101], [0, 3, 57], [0, 0, 1]])
    place = lambda p: p * 3 + [101, 57]  # noqa: E731
    drag = run(latent, generator, place(NOSE), place(UP), to_model=np.linalg.inv(to_photo))
    np.testing.assert_allclose(drag.way[1], reached.way[1], atol=1e-4)
    assert drag.outcome is Outcome.REACHED
    assert drag.trace[0].distances == (12.0,)
    (handle,) = drag.handles
    assert handle.distance_start == 12
    assert handle.distance_end <= 3 * STOP + 0.001
    assert np.hypot(*(np.array(handle.end) - place(UP)[0])) == pytest.approx(handle.distance_end, abs=0.003)


def test_a_drag_is_the_same_each_time(latent: Latent, generator: Generator, reached: Drag) -> None:
    torch.manual_seed(123)
    again = run(latent, generator, NOSE, UP)
    assert again.way.tobytes() == reached.way.tobytes()
    assert again.trace == reached.trace


def test_the_generator_is_left_alone(latent: Latent, generator: Generator) -> None:
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    kept = latent.w_plus.copy()
    run(latent, generator, NOSE, UP, settings=replace(SETTINGS, max_steps=2))
    assert all(torch.equal(value, before[name]) for name, value in generator.state_dict().items())
    assert not any(p.grad is not None or p.requires_grad for p in generator.parameters())
    np.testing.assert_array_equal(latent.w_plus, kept)


# --- ending otherwise ---


@pytest.mark.parametrize("steps", [0, 1])
def test_few_steps_end_with_max_steps(latent: Latent, generator: Generator, steps: int) -> None:
    drag = run(latent, generator, NOSE, UP, settings=replace(SETTINGS, max_steps=steps))
    assert drag.outcome is Outcome.MAX_STEPS
    assert drag.steps == steps
    assert len(drag.way) == steps + 1
    np.testing.assert_array_equal(drag.way[0], latent.w_plus)
    if steps == 0:
        np.testing.assert_array_equal(drag.picture, latent.picture)
        assert drag.handles[0].distance_end == drag.handles[0].distance_start == 4


def test_a_target_that_is_reached_already_changes_nothing(latent: Latent, generator: Generator) -> None:
    drag = run(latent, generator, NOSE, NOSE + 0.2)
    assert (drag.outcome, drag.steps) == (Outcome.REACHED, 0)
    np.testing.assert_array_equal(drag.picture, latent.picture)


@pytest.mark.parametrize("after", [1, 4])
def test_cancelling_ends_within_a_step(latent: Latent, generator: Generator, after: int) -> None:
    asked = 0

    def cancelled() -> bool:
        nonlocal asked
        asked += 1
        return asked >= after

    drag = run(latent, generator, NOSE, UP - 6, cancelled=cancelled)
    assert drag.outcome is Outcome.CANCELLED
    assert asked == after
    assert drag.steps == after - 1
    assert len(drag.way) == after


def test_what_cannot_be_reached_says_so_and_shows_the_best_step(latent: Latent, generator: Generator) -> None:
    handles, targets = np.array([[64.0, 76.0], [50.0, 92.0]]), np.array([[0.0, 0.0], [127.0, 0.0]])
    drag = run(latent, generator, handles, targets)
    assert drag.outcome in (Outcome.STALLED, Outcome.LOST_HANDLE)
    assert drag.steps < SETTINGS.max_steps
    np.testing.assert_allclose(drag.trace[drag.chosen].distances, [h.distance_end for h in drag.handles], atol=0.002)
    assert np.mean([h.distance_end for h in drag.handles]) <= np.mean([h.distance_start for h in drag.handles])
    assert min(h.confidence for h in drag.handles) > 0.1


def test_progress_says_what_is_left(latent: Latent, generator: Generator) -> None:
    told: list[object] = []

    class Told(Silent):
        def begin(self, name: str, total: int) -> None:
            told.append((name, total))

        def step(self, done: int, note: str = "") -> None:
            told.append((done, note))

        def end(self) -> None:
            told.append("end")

    run(latent, generator, NOSE, UP, settings=replace(SETTINGS, max_steps=1), progress=Told())
    assert told[0] == ("drag", 1)
    assert told[1] == (0, "4.0 px left")
    assert [t[0] for t in told[1:-1] if isinstance(t, tuple)] == [0, 1]
    assert told[-1] == "end"


class Still:
    """A loop as `ended` sees it."""

    def __init__(self, *, doubts: bool = True, settled: bool = True, stalled: bool = False) -> None:
        self.stop, self.doubts = 1.0, doubts
        self.settled, self.stalled = (lambda *_: settled), (lambda _: stalled)


def end_of(*distances: float, step: int = 5, lost: int = 0, cancelled: bool = False, **loop: bool) -> Outcome | None:
    far, state = torch.tensor(distances), State(step, *[torch.zeros(1)] * 4, rate=1.0)
    sight = Sight(torch.zeros(1), torch.zeros(len(distances), 2), far, torch.ones(len(distances)), far.sum(), 0.0)
    return ended(Still(**loop), state, sight, lost, 60, lambda: cancelled)  # type: ignore[arg-type]


def test_the_ends_and_their_order() -> None:
    assert end_of(9.0) is None
    assert end_of(1.0, lost=99, cancelled=True, stalled=True, step=60) is Outcome.REACHED
    assert end_of(0.5, 9.0) is None  # all handles, not one
    assert end_of(0.5, settled=False) is None  # it goes on, to change less of the rest
    assert end_of(0.5, settled=False, cancelled=True) is Outcome.CANCELLED
    assert end_of(9.0, lost=99, cancelled=True, step=60) is Outcome.CANCELLED
    assert end_of(9.0, lost=LOST_AFTER - 1) is None
    assert end_of(9.0, lost=LOST_AFTER, stalled=True, step=60) is Outcome.LOST_HANDLE
    assert end_of(9.0, lost=LOST_AFTER, doubts=False) is None
    assert end_of(9.0, stalled=True, step=60) is Outcome.STALLED
    assert end_of(9.0, step=59) is None
    assert end_of(9.0, step=60) is Outcome.MAX_STEPS


def test_arriving_counts_even_if_the_steps_run_out_while_the_rest_gets_nearer(
    latent: Latent, generator: Generator, reached: Drag
) -> None:
    first = next(t.step for t in reached.trace if max(t.distances) <= STOP)
    assert first < reached.steps
    drag = run(latent, generator, NOSE, UP, settings=replace(SETTINGS, max_steps=first))
    assert (drag.outcome, drag.chosen) == (Outcome.REACHED, first)
    short = run(latent, generator, NOSE, UP, settings=replace(SETTINGS, max_steps=first - 1))
    assert short.outcome is Outcome.MAX_STEPS


def test_a_handle_that_looks_like_nothing_is_lost_and_the_best_step_is_shown(
    latent: Latent, generator: Generator, reached: Drag
) -> None:
    """A template of another world: kept from an earlier drag, far from all there is."""
    alien = replace(reached, templates=np.roll(reached.templates * -3 + 5, 7, axis=-1))
    handles = np.array([reached.handles[0].end])
    drag = run(latent, generator, handles, handles + np.array([0.0, -4.0]), previous=alien)
    assert drag.outcome is Outcome.LOST_HANDLE
    assert drag.steps <= LOST_AFTER
    assert drag.handles[0].confidence < 0.1
    assert reached.handles[0].confidence > 0.3


def test_a_lost_handle_is_looked_for_around(latent: Latent, generator: Generator) -> None:
    loop, state = prepared(latent, generator, NOSE, UP)
    away = replace(state, points=state.points + torch.tensor([6.0, -5.0]))  # feature pixels
    found = loop.look(away)
    torch.testing.assert_close(found.points, state.points, atol=0.05, rtol=0)
    assert float(found.confidence) > 0.95


def test_numbers_that_are_none_end_a_drag_at_its_last_good_step(
    latent: Latent, generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoilt = replace(latent, w_plus=np.full_like(latent.w_plus, np.nan))
    with pytest.raises(InputError, match="not finite"):
        run(spoilt, generator, NOSE, UP)
    drag = run(latent, generator, NOSE, UP - 6, settings=replace(SETTINGS, lr=10.0))  # thrown far out of all there is
    assert np.isfinite(drag.way[drag.chosen]).all()
    assert all(np.isfinite(t.distances).all() for t in drag.trace)
    synthesize = Generator.synthesize
    monkeypatch.setattr(Generator, "synthesize", lambda *arguments: synthesize(*arguments) * float("nan"))
    with pytest.raises(WorkError, match="the model's features"):
        run(latent, generator, NOSE, UP)


# --- what a drag must be like ---


@pytest.mark.parametrize("settings", [SETTINGS, PAPER], ids=["balanced", "paper"])
def test_moving_the_features_moves_what_is_tracked(
    latent: Latent, generator: Generator, settings: DragSettings
) -> None:
    handles = np.array([[64.0, 76.0], [48.0, 60.0], [80.0, 92.0]])
    loop, state = prepared(latent, generator, handles, handles + 9, settings=settings)
    moved = torch.roll(loop.problem.original, (-1, 1), (2, 3))  # one to the right, one up
    still = seeing(loop, loop.problem.original).look(state)
    after = seeing(loop, moved).look(replace(state, points=still.points))
    per_px = loop.side / moved.shape[-1]
    wanted = per_px * torch.tensor([[1.0, -1.0]]).expand(3, 2)
    torch.testing.assert_close(after.points - still.points, wanted, atol=0.02 * per_px + (per_px > 1), rtol=0)
    assert float(after.confidence.min()) > 0.9


def seeing(loop: Loop, features: torch.Tensor) -> Loop:
    """The loop, to which every latent shows `features`."""

    class Given:
        config = loop.problem.generator.config

        def synthesize(self, *_: object) -> torch.Tensor:
            return features

    other = copy(loop)
    other.problem = replace(loop.problem, generator=cast(Any, Given()))
    return other


@pytest.mark.parametrize("settings", [SETTINGS, PAPER], ids=["balanced", "paper"])
def test_a_drag_to_where_it_is_is_the_identity(latent: Latent, generator: Generator, settings: DragSettings) -> None:
    drag = run(latent, generator, NOSE, NOSE, settings=settings)
    assert (drag.outcome, drag.steps) == (Outcome.REACHED, 0)
    np.testing.assert_array_equal(drag.picture, latent.picture)


@pytest.mark.parametrize("settings", [SETTINGS, PAPER], ids=["balanced", "paper"])
def test_the_order_of_points_does_not_matter(latent: Latent, generator: Generator, settings: DragSettings) -> None:
    handles = np.array([[64.0, 76.0], [50.0, 92.0], [78.0, 92.0]])
    targets = handles + np.array([[0.0, -3.0], [-3.0, -2.0], [3.0, -2.0]])
    few, order = replace(settings, max_steps=4), [2, 0, 1]
    one, other = (run(latent, generator, handles[o], targets[o], settings=few) for o in ([0, 1, 2], order))
    np.testing.assert_allclose(other.way, one.way, atol=2e-3)
    np.testing.assert_allclose(other.places, one.places[:, order], atol=0.02)


def test_a_mirrored_drag_on_mirrored_features_mirrors(latent: Latent, generator: Generator) -> None:
    """The loss, its gradient for the features, and the handles found, of a setup and of its mirror image."""
    handles, targets = np.array([[50.0, 92.0], [64.0, 76.0]]), np.array([[44.0, 88.0], [66.0, 70.0]])
    loop, state = prepared(latent, generator, handles, targets)
    moved = loop.problem.original.roll(1, 2)
    mirror = lambda p: p * np.array([-1.0, 1.0]) + np.array([127.0, 0.0])  # noqa: E731
    other, other_state = prepared(latent, generator, mirror(handles), mirror(targets))
    flipped = loop.problem.original.flip(-1)
    other = type(other)(replace(other.problem, original=flipped, now=flipped), {})
    (one, gradient), (two, its_gradient) = (
        pull_on(one_loop, features, one_state)
        for one_loop, features, one_state in ((loop, moved, state), (other, moved.flip(-1), other_state))
    )
    torch.testing.assert_close(two.loss, one.loss, rtol=1e-4, atol=0)
    torch.testing.assert_close(its_gradient.flip(-1), gradient, atol=1e-4, rtol=1e-2)
    torch.testing.assert_close(
        two.points * torch.tensor([-1.0, 1]) + torch.tensor([63.0, 0]), one.points, atol=1e-3, rtol=0
    )


def pull_on(loop: Loop, features: torch.Tensor, state: State) -> tuple[Sight, torch.Tensor]:
    """What the loop sees in `features`, and its loss's gradient for them."""
    features = features.clone().requires_grad_()
    sight = seeing(loop, features).look(state)
    return sight, torch.autograd.grad(sight.loss, features, retain_graph=True)[0]


def test_the_loss_has_the_gradient_it_says(latent: Latent, generator: Generator) -> None:
    """gradcheck in double precision, for small features; the handles stay where they are found."""
    loop, _ = prepared(latent, generator, np.array([[40.0, 70.0], [88.0, 60.0]]), np.array([[48.0, 66.0], [88, 70]]))
    assert isinstance(loop, Anchored)
    draw = torch.Generator().manual_seed(1)
    original = torch.randn(1, 2, 8, 8, generator=draw, dtype=torch.double)
    double = replace(
        loop.problem, start=loop.problem.start.double(), original=original, now=original,
        handles=loop.problem.handles.double(), targets=loop.problem.targets.double(),
    )  # fmt: skip
    small = Anchored(double, {})
    features = (original + 0.3 * torch.randn(original.shape, generator=draw, dtype=torch.double)).requires_grad_()
    with torch.no_grad():
        points = small.find(features, begin(double, small.side).points)
    assert torch.autograd.gradcheck(lambda f: small.loss(f, f, points)[0], features)


# --- the mask ---


def test_the_fixed_region_is_respected(latent: Latent, generator: Generator) -> None:
    movable = np.zeros((128, 128), np.float32)
    movable[64:, 28:100] = 1
    masked = run(latent, generator, NOSE, UP, movable=movable)
    free = run(latent, generator, NOSE, UP)
    change = [np.abs(d.picture.astype(float) - latent.picture)[movable == 0].max() for d in (masked, free)]
    assert change[0] == 0 < change[1]
    assert masked.outcome == Outcome.REACHED
    inside = np.abs(masked.picture.astype(float) - latent.picture)[movable == 1].mean()
    assert inside > 2
    for drag in (at_strength(masked, generator, 1.5), at_step(masked, generator, 1)):
        np.testing.assert_array_equal(drag.picture[movable == 0], latent.picture[movable == 0])
    np.testing.assert_array_equal(at_strength(masked, generator, 0).picture, latent.picture)


def test_a_grey_mask_lets_half_of_the_change_through(latent: Latent, generator: Generator) -> None:
    free = run(latent, generator, NOSE, UP)
    half = replace(free, movable=np.full((128, 128), 128, np.uint8))
    share = [np.abs(at_strength(d, generator, 1).picture.astype(float) - latent.picture).mean() for d in (half, free)]
    assert 0.35 < share[0] / share[1] < 0.75


def test_the_published_loop_asks_and_does_not_hold(latent: Latent, generator: Generator) -> None:
    movable = np.zeros((128, 128), np.float32)
    movable[64:, 28:100] = 1
    asked = run(latent, generator, NOSE, UP, movable=movable, settings=replace(PAPER, max_steps=5, mask_weight=0.0))
    assert asked.movable is None
    assert (asked.picture != latent.picture)[movable == 0].any()


def test_a_drag_within_a_mask_goes_on_within_it(latent: Latent, generator: Generator) -> None:
    movable = np.zeros((128, 128), np.float32)
    movable[64:, 28:100] = 1
    first = run(latent, generator, NOSE, UP, movable=movable)
    second = run(latent, generator, UP, UP + 3, movable=movable, previous=first)
    np.testing.assert_array_equal(second.picture[movable == 0], latent.picture[movable == 0])
    np.testing.assert_array_equal(at_step(second, generator, 0).picture, first.picture)


def test_a_handle_near_the_edge_of_the_mask_still_arrives(latent: Latent, generator: Generator) -> None:
    """Most of its patch is held fast; what is not is what it is found by."""
    movable = np.zeros((128, 128), np.float32)
    movable[66:86, 54:74] = 1
    assert run(latent, generator, NOSE, NOSE - [[0, 3]], movable=movable).outcome == Outcome.REACHED


@pytest.mark.parametrize("size", [16, 128, 200])
def test_a_mask_of_any_size_covers_the_same_place(latent: Latent, generator: Generator, size: int) -> None:
    movable = np.zeros((size, size), np.float32)
    movable[size // 2 :] = 1
    loop, _ = prepared(latent, generator, NOSE, UP, movable=movable)
    fixed = loop.problem.fixed
    assert fixed is not None
    assert fixed.shape == (64, 64)
    assert (fixed[:26] > 0.9).all()
    assert (fixed[38:] < 0.1).all()
    assert fixed.mean() == pytest.approx(0.5, abs=0.02)


def test_everywhere_movable_is_no_mask(latent: Latent, generator: Generator) -> None:
    loop, _ = prepared(latent, generator, NOSE, UP, movable=np.ones((128, 128), np.float32))
    assert loop.problem.fixed is None


@pytest.mark.parametrize("area", [1, 16, 32])
def test_a_small_fixed_area_weighs_as_much_as_a_large_one(latent: Latent, generator: Generator, area: int) -> None:
    """The published term is a mean over the whole picture, which holds small regions weakly."""
    loop, state = prepared(latent, generator, NOSE, UP)
    movable = np.ones((64, 64), np.float32)
    movable[:area, :area] = 0
    fixed, _ = prepared(latent, generator, NOSE, UP, movable=movable)
    changed = loop.problem.original + loop.problem.original.abs().mean()
    costs = [seeing(each, changed).look(state).cost for each in (fixed, loop)]
    assert costs[0] - costs[1] == pytest.approx(SETTINGS.mask_weight * ((1 + 0.3**2) ** 0.5 - 0.3), rel=1e-3)


def test_what_need_not_move_is_kept_and_what_lies_about_a_handle_s_way_is_not(
    latent: Latent, generator: Generator
) -> None:
    loop, _ = prepared(latent, generator, NOSE, UP)
    assert isinstance(loop, Anchored)
    ((before, weights),) = loop.held
    assert before is loop.problem.original
    whole = SETTINGS.keep_weight / 64**2
    assert float(weights[5, 5]) == pytest.approx(whole, rel=1e-3)
    for y in (36, 37, 38):  # feature pixels: the handle is at 31.75, 37.75, its target 2 above
        assert float(weights[y, 32]) < 0.05 * whole


# --- one step ---


@pytest.mark.parametrize("settings", [SETTINGS, PAPER], ids=["balanced", "paper"])
def test_a_step_is_a_pure_function(latent: Latent, generator: Generator, settings: DragSettings) -> None:
    loop, state = prepared(latent, generator, NOSE, UP, settings=settings)
    a, b = (loop.advance(state, loop.look(state)) for _ in range(2))
    assert (a.step, b.step) == (1, 1)
    for name in ("free", "moment", "power", "points"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    assert state.step == 0
    assert not state.moment.any()
    assert torch.equal(state.free[0], torch.from_numpy(latent.w_plus[: settings.rows]))


def test_the_step_is_adam_s(latent: Latent, generator: Generator) -> None:
    loop, state = prepared(latent, generator, NOSE, UP, settings=PAPER)
    free = state.free.clone().requires_grad_()
    adam = torch.optim.Adam([free], lr=PAPER.lr)
    for _ in range(3):
        sight = loop.look(state)
        (free.grad,) = torch.autograd.grad(sight.loss, sight.free, retain_graph=True)
        adam.step()
        state = loop.advance(state, sight)
        torch.testing.assert_close(state.free, free.detach(), atol=1e-6, rtol=1e-5)


def test_the_rate_falls_when_nothing_is_won_and_then_the_drag_has_stalled(latent: Latent, generator: Generator) -> None:
    loop, state = prepared(latent, generator, NOSE, UP)
    sight = loop.look(state)
    rates = []
    while not loop.stalled(state):
        state = loop.advance(state, loop.look(replace(state, free=sight.free.detach())))
        rates.append(state.rate / SETTINGS.lr)
    assert rates == [1] * 4 + [0.5] * 4 + [0.25] * 4 + [0.125] * 4 + [0.0625]


@pytest.mark.parametrize("corner", [(-0.4, -0.4), (127.4, 127.4), (0.0, 127.0)])
@pytest.mark.parametrize("settings", [SETTINGS, PAPER], ids=["balanced", "paper"])
def test_handles_at_the_border_stay_where_they_are(
    latent: Latent, generator: Generator, corner: tuple[float, float], settings: DragSettings
) -> None:
    """Beyond the edge features read as its own: zeros there, as published, pull on the patch."""
    loop, state = prepared(latent, generator, np.array([corner]), NOSE, settings=settings)
    sight = loop.look(state)
    assert float((sight.points - state.points).norm(dim=1)) <= 3 * loop.side / 256
    assert float(sight.confidence) > 0.8


def test_two_hundred_points_are_dragged(latent: Latent, generator: Generator) -> None:
    y, x = np.mgrid[24:104:10j, 20:108:20j]
    handles = np.stack([x, y], -1).reshape(-1, 2)
    drag = run(latent, generator, handles, handles + np.array([3.0, 0.0]), settings=replace(SETTINGS, max_steps=6))
    assert len(drag.handles) == 200
    assert np.mean([h.distance_end for h in drag.handles]) < 2.5


# --- the published loop ---


@pytest.mark.parametrize(
    ("resolution", "patch", "window", "stop"), [(256, 9, 13**2, 2), (512, 25, 25**2, 2), (1024, 109, 49**2, 4)]
)
def test_paper_has_the_published_radii(resolution: int, patch: int, window: int, stop: float) -> None:
    """Pixels strictly nearer than round(3R/512), all within round(12R/512), and where it ends."""
    with torch.device("meta"):
        net = Generator(GeneratorConfig(4, 4, resolution, num_layers=1, channel_base=4096, channel_max=1))
    features, points = torch.zeros(1, 2, 128, 128), torch.zeros(1, 2)
    zeros = torch.zeros(1, net.config.num_ws, 4)
    loop = DragGan(Problem(net, "b128", PAPER, zeros, points, points, features, features, None), {})
    assert (len(loop.patch), len(loop.window), loop.stop) == (patch, window, stop)


def test_paper_enlarges_small_pictures_to_256(latent: Latent, generator: Generator) -> None:
    loop, _ = prepared(latent, generator, NOSE, UP, settings=PAPER)
    assert isinstance(loop, DragGan)
    assert (loop.side, loop.stop, len(loop.patch), len(loop.window)) == (256, 2, 9, 13**2)
    whole = torch.nn.functional.interpolate(loop.problem.original, (256, 256), mode="bilinear")
    pixels = torch.tensor([[10.0, 20.0], [0.0, 255.0], [128.0, 151.0]])
    wanted = whole[0, :, pixels[:, 1].long(), pixels[:, 0].long()].t()
    torch.testing.assert_close(loop.at_pixels(loop.problem.original, pixels), wanted, atol=1e-4, rtol=1e-4)


def test_the_published_pull_goes_one_pixel_towards_the_target(latent: Latent, generator: Generator) -> None:
    """The gradient flows through the shifted side alone: pulling features the other way would cost."""
    loop, _ = prepared(latent, generator, NOSE, UP, settings=PAPER)
    assert isinstance(loop, DragGan)
    ramp = torch.arange(64.0)[:, None].repeat(1, 1, 1, 64).requires_grad_()  # features that rise downwards
    point = torch.tensor([[128.0, 152.0]])
    pulled = loop.pull(ramp, point, (loop.targets - point).norm(dim=1))
    (gradient,) = torch.autograd.grad(pulled, ramp)
    # The place above has less than the handle; lowering the loss raises it: the handle's look comes over.
    assert float(pulled.detach()) == pytest.approx(1 / 4, abs=1e-3)
    assert float(gradient.sum()) == pytest.approx(-1, abs=1e-4)
    assert float(loop.pull(ramp, point, torch.tensor([1.0])).detach()) == 0


# --- going on ---


def test_going_on_starts_where_the_drag_came_to(latent: Latent, generator: Generator, reached: Drag) -> None:
    end = np.array([reached.handles[0].end])
    settings = replace(SETTINGS, max_steps=3)
    more = run(latent, generator, end, end + np.array([0.0, -2.0]), previous=reached, settings=settings)
    np.testing.assert_array_equal(more.way[0], reached.way[reached.chosen])
    np.testing.assert_array_equal(more.templates, reached.templates)
    np.testing.assert_array_equal(more.way[:, 7:], np.broadcast_to(latent.w_plus[7:], more.way[:, 7:].shape))


def test_a_new_handle_gets_a_template_of_what_is_there_now(latent: Latent, generator: Generator, reached: Drag) -> None:
    end = np.array([reached.handles[0].end])
    handles = np.vstack([[40.0, 40.0], end + 0.3])
    loop, state = prepared(latent, generator, handles, handles + 3, previous=reached)
    np.testing.assert_array_equal(loop.templates[1].numpy(), reached.templates[0])
    now = generator.synthesize(torch.from_numpy(reached.way[reached.chosen])[None], "b64")
    assert isinstance(loop, Anchored)
    torch.testing.assert_close(loop.templates[:1], loop.look_at(now, state.points[:1]))
    # The mask protects the picture of the inversion, not the edited one; the rest is kept as the first drag left it.
    masked, _ = prepared(
        latent, generator, handles, handles + 3, previous=reached, movable=np.tri(128, dtype=np.float32)
    )
    assert isinstance(masked, Anchored)
    assert [
        before is features
        for (before, _), features in zip(masked.held, (masked.problem.now, masked.problem.original), strict=True)
    ] == [True, True]
    torch.testing.assert_close(
        loop.problem.original, generator.synthesize(torch.from_numpy(latent.w_plus)[None], "b64")
    )


@pytest.mark.parametrize("settings", [SETTINGS, PAPER], ids=["balanced", "paper"])
def test_a_drag_of_one_loop_goes_on_with_the_other(
    latent: Latent, generator: Generator, reached: Drag, settings: DragSettings
) -> None:
    """Their templates differ in form: those of another loop are taken anew."""
    first = run(latent, generator, NOSE, UP, settings=replace(PAPER, max_steps=2))
    ends = {id(drag): np.array([drag.handles[0].end]) for drag in (first, reached)}
    for drag in (first, reached):
        end = ends[id(drag)]
        more = run(latent, generator, end, end - 2, previous=drag, settings=replace(settings, max_steps=1))
        assert more.steps == 1


@pytest.mark.parametrize(("away", "kept"), [(0.0, True), (0.9, True), (1.1, False)])
def test_templates_are_kept_within_a_photo_pixel(reached: Drag, away: float, kept: bool) -> None:
    found = kept_templates(np.array([reached.handles[0].end]) + np.array([away, 0.0]), reached)
    assert (0 in found) is kept


# --- blocks ---


@pytest.mark.parametrize(("resolution", "block"), [(8, "b4"), (64, "b32"), (128, "b64"), (256, "b128")])
def test_the_block_is_chosen_by_the_size(resolution: int, block: str) -> None:
    with torch.device("meta"):
        net = Generator(GeneratorConfig(4, 4, resolution, num_layers=1, channel_base=4096, channel_max=1))
    assert choose_block(net, "auto") == block


def test_large_models_use_the_published_block() -> None:
    with torch.device("meta"):
        net = Generator(GeneratorConfig(4, 4, 1024, num_layers=1, channel_base=4096, channel_max=1))
    assert choose_block(net, "auto") == "b128"
    assert choose_block(net, "b1024") == "b1024"


@pytest.mark.parametrize("wanted", ["b256", "32", "", "B32"])
def test_an_unknown_block_names_those_there_are(latent: Latent, generator: Generator, wanted: str) -> None:
    with pytest.raises(InputError, match="b4, b8, b16, b32, b64, b128") as caught:
        run(latent, generator, NOSE, UP, settings=replace(SETTINGS, block=wanted))
    assert repr(wanted) in caught.value.message


# --- watching ---


def test_whoever_watches_is_told_of_every_step_and_changes_nothing(
    latent: Latent, generator: Generator, reached: Drag
) -> None:
    seen = list[Moment]()
    with threads(1):
        watched = run(latent, generator, NOSE, UP, watch=seen.append)
    np.testing.assert_array_equal(np.stack([moment.w_plus for moment in seen]), reached.way)
    np.testing.assert_array_equal(np.stack([moment.places for moment in seen]), reached.places)
    assert tuple(moment.trace for moment in seen) == reached.trace
    np.testing.assert_array_equal(watched.picture, reached.picture)


def test_a_painter_shows_what_the_drag_will(latent: Latent, generator: Generator) -> None:
    """Also within a mask, before there is a drag to ask."""
    movable = np.zeros((128, 128), np.float32)
    movable[60:90, 45:85] = 1
    with threads(1):
        done = run(latent, generator, NOSE, UP, movable=movable)
        paint = painter(generator, latent.w_plus, levels(movable, generator), done.block)
        np.testing.assert_array_equal(paint(done.way[done.best]), done.picture)
