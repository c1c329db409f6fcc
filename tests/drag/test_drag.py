"""Whole drags on the embedded model: what is at the handle arrives, the rest of the face is respected."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from realdrag.devices import threads
from realdrag.drag import choose_block
from realdrag.drag import drag as stage
from realdrag.drag.drag import LOST_AFTER, PATIENCE, best_step, ended, keep_templates, reach_of, set_up
from realdrag.drag.supervision import Sight, advance, at, look, supervise
from realdrag.errors import InputError
from realdrag.progress import Silent
from realdrag.settings import DragSettings
from realdrag.stylegan import Generator, GeneratorConfig, to_picture
from realdrag.values import Drag, Latent, Outcome, TraceStep

SETTINGS = DragSettings()
NOSE, UP = np.array([[64.0, 76.0]]), np.array([[64.0, 72.0]])  # pixels of the 128 px picture
STOP = 2 / 2  # 2 work pixels of 256, in pixels of 128


def run(latent: Latent, generator: Generator, handles: np.ndarray, targets: np.ndarray, **more: object) -> Drag:
    arguments = {"to_model": np.eye(3), "movable": None, "settings": SETTINGS, "progress": Silent()} | more
    return stage(latent, generator, handles, targets, **arguments)  # type: ignore[arg-type]


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


@pytest.mark.parametrize("rows", [2, 6])
def test_only_the_free_rows_move(latent: Latent, generator: Generator, rows: int) -> None:
    drag = run(latent, generator, NOSE, UP, settings=replace(SETTINGS, rows=rows, max_steps=5))
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
    assert drag.templates.shape == (2, generator.config.channels(64))


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


def test_what_cannot_be_reached_says_so_and_shows_the_nearest(latent: Latent, generator: Generator) -> None:
    handles, targets = np.array([[64.0, 76.0], [50.0, 92.0]]), np.array([[0.0, 0.0], [127.0, 0.0]])
    drag = run(latent, generator, handles, targets, settings=replace(SETTINGS, max_steps=30))
    assert drag.outcome is not Outcome.REACHED
    means = [np.mean(t.distances) for t in drag.trace]
    assert drag.chosen == int(np.argmin(means))
    np.testing.assert_allclose(drag.trace[drag.chosen].distances, [h.distance_end for h in drag.handles], atol=0.002)
    assert np.mean([h.distance_end for h in drag.handles]) <= np.mean([h.distance_start for h in drag.handles])


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


def sight(*distances: float) -> Sight:
    return Sight(torch.zeros(len(distances), 2), torch.tensor(distances), torch.zeros(len(distances)))


def trace_of(*distances: float) -> list[TraceStep]:
    return [TraceStep(k, (d,), 0.0) for k, d in enumerate(distances)]


def test_the_ends_and_their_order(latent: Latent, generator: Generator) -> None:
    problem, _ = set_up(latent, generator, NOSE, UP, to_model=np.eye(3), movable=None, settings=SETTINGS, previous=None)
    no, yes = (lambda: False), (lambda: True)
    far, near = sight(9.0), sight(problem.stop)
    falling = trace_of(*range(60, 0, -1))
    assert ended(far, falling, problem, 0, 150, no) is None
    assert ended(near, falling, problem, 99, 0, yes) is Outcome.REACHED
    assert ended(sight(1.0, 9.0), falling, problem, 0, 150, no) is None  # all handles, not one
    assert ended(far, falling, problem, 99, 0, yes) is Outcome.CANCELLED
    assert ended(far, falling, problem, LOST_AFTER - 1, 150, no) is None
    assert ended(far, falling, problem, LOST_AFTER, 150, no) is Outcome.LOST_HANDLE
    stuck = trace_of(5.0, *[6.0] * PATIENCE)
    assert ended(far, stuck[:-1], problem, 0, 150, no) is None
    assert ended(far, stuck, problem, 0, 150, no) is Outcome.STALLED
    assert ended(far, falling, problem, 0, 59, no) is Outcome.MAX_STEPS
    assert ended(far, falling, problem, 0, 60, no) is None


def test_the_best_step_has_the_least_mean_and_is_the_first_of_equals() -> None:
    trace = [TraceStep(k, d, 0.0) for k, d in enumerate([(5.0, 5.0), (1.0, 6.0), (2.0, 5.0), (0.1, 9.0)])]
    assert best_step(trace) == 1


def test_a_handle_that_looks_like_nothing_is_lost(latent: Latent, generator: Generator) -> None:
    """A template of another world: kept from an earlier drag, far from all there is."""
    first = run(latent, generator, NOSE, UP, settings=replace(SETTINGS, max_steps=0))
    alien = replace(first, templates=np.full_like(first.templates, 1e4))
    problem, state = set_up(
        latent, generator, NOSE, UP, to_model=np.eye(3), movable=None, settings=SETTINGS, previous=alien
    )
    _, seen, _ = look(problem, state)
    assert float(seen.mismatch) == pytest.approx(1, abs=0.01)
    problem = replace(problem, templates=problem.original[0].flatten(1).mean(1)[None] + 3)
    _, own, _ = look(replace(problem, templates=at(problem.original, state.points, problem.work)), state)
    assert float(own.mismatch) == pytest.approx(0, abs=1e-3)


# --- the mask ---


def test_the_fixed_region_is_respected(latent: Latent, generator: Generator) -> None:
    movable = np.zeros((128, 128), np.float32)
    movable[64:, 28:100] = 1
    settings = replace(SETTINGS, max_steps=25)
    masked = run(latent, generator, NOSE, UP, movable=movable, settings=settings)
    free = run(latent, generator, NOSE, UP, settings=settings)
    change = [np.abs(d.picture.astype(float) - latent.picture)[movable == 0].mean() for d in (masked, free)]
    assert change[0] < 0.7 * change[1]
    assert masked.handles[0].distance_end < 4


@pytest.mark.parametrize("size", [16, 128, 200])
def test_a_mask_of_any_size_covers_the_same_place(latent: Latent, generator: Generator, size: int) -> None:
    movable = np.zeros((size, size), np.float32)
    movable[size // 2 :] = 1
    problem, _ = set_up(
        latent, generator, NOSE, UP, to_model=np.eye(3), movable=movable, settings=SETTINGS, previous=None
    )
    assert problem.fixed is not None
    assert problem.fixed.shape == (64, 64)
    assert (problem.fixed[:26] > 0.9).all()
    assert (problem.fixed[38:] < 0.1).all()
    assert problem.fixed.mean() == pytest.approx(0.5, abs=0.02)


def test_everywhere_movable_is_no_mask(latent: Latent, generator: Generator) -> None:
    movable = np.ones((128, 128), np.float32)
    problem, _ = set_up(
        latent, generator, NOSE, UP, to_model=np.eye(3), movable=movable, settings=SETTINGS, previous=None
    )
    assert problem.fixed is None


@pytest.mark.parametrize("area", [1, 16, 32])
def test_a_small_fixed_area_weighs_as_much_as_a_large_one(latent: Latent, generator: Generator, area: int) -> None:
    """The published term is a mean over the whole picture, which holds small regions weakly."""
    problem, state = set_up(
        latent, generator, NOSE, UP, to_model=np.eye(3), movable=None, settings=SETTINGS, previous=None
    )
    _, seen, features = look(problem, state)
    plain = supervise(problem, features, seen)
    fixed = torch.zeros(64, 64)
    fixed[:area, :area] = 1
    changed = features.detach() + 0.25
    with_mask = supervise(replace(problem, fixed=fixed), changed, seen)
    without = supervise(problem, changed, seen)
    assert float(with_mask - without) == pytest.approx(0.25 * SETTINGS.mask_weight, rel=1e-4)
    unmoved = supervise(replace(problem, fixed=fixed), features, seen)
    assert float(unmoved.detach()) == pytest.approx(float(plain.detach()), rel=1e-4)


def test_what_need_not_move_is_held_by_the_keep_term(latent: Latent, generator: Generator) -> None:
    """A mean over the picture of the change of its features, with its own weight."""
    problem, state = set_up(
        latent, generator, NOSE, UP, to_model=np.eye(3), movable=None, settings=SETTINGS, previous=None
    )
    _, seen, features = look(problem, state)
    changed = features.detach() + 0.25
    values = [float(supervise(replace(problem, keep_weight=k), changed, seen)) for k in (0.0, 4.0)]
    assert values[1] - values[0] == pytest.approx(1, rel=1e-4)


# --- one step ---


def test_a_step_is_a_pure_function(latent: Latent, generator: Generator) -> None:
    problem, state = set_up(
        latent, generator, NOSE, UP, to_model=np.eye(3), movable=None, settings=SETTINGS, previous=None
    )
    results = []
    for _ in range(2):
        seen, sighted, features = look(problem, state)
        following, loss = advance(problem, seen, sighted, features)
        results.append((following, loss))
    (a, loss_a), (b, loss_b) = results
    assert loss_a == loss_b
    assert (a.step, b.step) == (1, 1)
    for name in ("free", "moment", "power", "points"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    assert state.step == 0
    assert not state.moment.any()
    assert torch.equal(state.free[0], torch.from_numpy(latent.w_plus[: SETTINGS.rows]))


def test_the_step_is_adam_s(latent: Latent, generator: Generator) -> None:
    problem, state = set_up(
        latent, generator, NOSE, UP, to_model=np.eye(3), movable=None, settings=SETTINGS, previous=None
    )
    free = state.free.clone().requires_grad_()
    adam = torch.optim.Adam([free], lr=SETTINGS.lr)
    for _ in range(3):
        seen, sighted, features = look(problem, state)
        (free.grad,) = torch.autograd.grad(supervise(problem, features, sighted), seen.free, retain_graph=True)
        adam.step()
        state, _ = advance(problem, seen, sighted, features)
        torch.testing.assert_close(state.free, free.detach(), atol=1e-6, rtol=1e-5)


def test_the_loss_pulls_towards_the_target(latent: Latent, generator: Generator) -> None:
    """The gradient flows through the shifted side alone: pulling features the other way would cost."""
    problem, state = set_up(
        latent, generator, NOSE, UP, to_model=np.eye(3), movable=None, settings=SETTINGS, previous=None
    )
    problem = replace(problem, keep_weight=0.0)
    ramp = torch.arange(64.0)[:, None].repeat(1, 1, 1, 64).requires_grad_()  # features that rise downwards
    seen = Sight(state.points, (problem.targets - state.points).norm(dim=1), torch.zeros(1))
    loss = supervise(problem, ramp, seen)
    (gradient,) = torch.autograd.grad(loss, ramp)
    # The place above has less than the handle; lowering the loss raises it: the handle's look comes over.
    assert float(loss.detach()) == pytest.approx(problem.push / 4, abs=1e-4)
    assert float(gradient.sum()) == pytest.approx(-1, abs=1e-4)
    near = replace(seen, distances=torch.tensor([problem.stop / 2]))
    assert float(supervise(problem, ramp, near).detach()) == 0


@pytest.mark.parametrize("corner", [(-0.4, -0.4), (127.4, 127.4), (0.0, 127.0)])
def test_handles_at_the_border_see_the_edge_not_zeros(
    latent: Latent, generator: Generator, corner: tuple[float, float]
) -> None:
    handle = np.array([corner])
    problem, state = set_up(
        latent, generator, handle, NOSE, to_model=np.eye(3), movable=None, settings=SETTINGS, previous=None
    )
    x, y = (min(max(round((c + 0.5) / 2 - 0.5), 0), 63) for c in corner)
    torch.testing.assert_close(problem.templates[0], problem.original[0, :, y, x], rtol=0.3, atol=1.0)
    ones = torch.ones(1, 2, 64, 64)
    torch.testing.assert_close(at(ones, state.points, problem.work), torch.ones(1, 2))
    torch.testing.assert_close(at(ones, state.points + problem.patch, problem.work), torch.ones(len(problem.patch), 2))
    _, seen, _ = look(problem, state)
    assert float((seen.points - state.points).norm(dim=1)) <= 4 * 0.6 * 2**0.5  # it stays where it is


# --- going on ---


def test_going_on_starts_where_the_drag_came_to(latent: Latent, generator: Generator, reached: Drag) -> None:
    end = np.array([reached.handles[0].end])
    settings = replace(SETTINGS, max_steps=3)
    more = run(latent, generator, end, end + np.array([0.0, -2.0]), previous=reached, settings=settings)
    np.testing.assert_array_equal(more.way[0], reached.way[reached.chosen])
    np.testing.assert_array_equal(more.templates, reached.templates)
    np.testing.assert_array_equal(more.way[:, 6:], np.broadcast_to(latent.w_plus[6:], more.way[:, 6:].shape))


def test_a_new_handle_gets_a_template_of_what_is_there_now(latent: Latent, generator: Generator, reached: Drag) -> None:
    end = np.array([reached.handles[0].end])
    handles = np.vstack([[40.0, 40.0], end + 0.3])
    problem, _ = set_up(
        latent, generator, handles, handles + 3, to_model=np.eye(3), movable=None, settings=SETTINGS, previous=reached
    )
    np.testing.assert_array_equal(problem.templates[1], reached.templates[0])
    now = generator.synthesize(torch.from_numpy(reached.way[reached.chosen])[None], "b64")
    torch.testing.assert_close(problem.templates[:1], at(now, torch.tensor([[80.5, 80.5]]), 256))
    # The mask protects the picture of the inversion, not the edited one.
    torch.testing.assert_close(problem.original, generator.synthesize(torch.from_numpy(latent.w_plus)[None], "b64"))


@pytest.mark.parametrize(("away", "kept"), [(0.0, True), (0.9, True), (1.1, False)])
def test_templates_are_kept_within_a_photo_pixel(reached: Drag, away: float, kept: bool) -> None:
    templates = torch.zeros(1, reached.templates.shape[1])
    keep_templates(templates, np.array([reached.handles[0].end]) + np.array([away, 0.0]), reached)
    assert bool(templates.any()) is kept


# --- blocks and radii ---


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


@pytest.mark.parametrize(("resolution", "patch", "window"), [(256, 2, 6), (512, 3, 12), (1024, 6, 24)])
def test_radii_are_the_published_ones(resolution: int, patch: int, window: int) -> None:
    reach = reach_of(resolution, 128)
    assert (reach.patch, reach.window, reach.push) == (patch, window, 1)
    assert (reach.patch_spacing, reach.window_spacing) == (1, 1)


def test_small_models_look_as_far_as_their_features_are_wide() -> None:
    """Every radius in feature pixels, whichever block: the published ones would see less than one."""
    for features in (16, 32, 64):
        px, reach = 256 / features, reach_of(64, features)
        assert reach.patch >= 2 * px
        assert reach.window >= px
        assert 0 < reach.push < px
        assert reach.window_spacing <= 0.5 * px


def test_patch_and_window_have_their_published_counts(latent: Latent) -> None:
    from realdrag.drag.supervision import disc, grid

    assert len(disc(3)) == 25  # strictly nearer than 3, at 512
    assert len(grid(12)) == 25 * 25
    assert disc(3).mean(0).tolist() == [0, 0]
    assert grid(1)[1].tolist() == [0, -1]  # (x, y)
