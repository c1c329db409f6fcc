"""A whole drag: from handles and targets to the latent that shows them there, and how it ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from realdrag.drag.supervision import (
    SMALLEST_WORK,
    Problem,
    Sight,
    State,
    advance,
    at,
    disc,
    grid,
    look,
    w_plus,
)
from realdrag.drag.way import Latents, check_strength, way_to
from realdrag.errors import InputError
from realdrag.geometry import Matrix, Points, resize, resize_matrix, scale_of, transform
from realdrag.progress import Progress, stretch
from realdrag.settings import DragSettings
from realdrag.stylegan import Generator, to_picture
from realdrag.values import Drag, Handle, Latent, Outcome, TraceStep

PATIENCE = 25  # steps without coming nearer before a drag counts as stalled
LOST_AFTER = 5  # steps in a row that a handle looks like nothing it started from


def choose_block(generator: Generator, wanted: str) -> str:
    """`wanted`, or for "auto" b128 as published, on smaller generators the last block but one.

    Raises InputError naming the blocks there are.
    """
    if wanted == "auto":
        return f"b{min(128, generator.config.img_resolution // 2)}"
    if wanted not in generator.blocks:
        raise InputError(f"no feature block {wanted!r}", f"this model has {', '.join(generator.blocks)}")
    return wanted


def drag(
    latent: Latent,
    generator: Generator,
    handles: Points,
    targets: Points,
    *,
    to_model: Matrix,
    movable: npt.NDArray[np.float32] | None,
    settings: DragSettings,
    progress: Progress,
    previous: Drag | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Drag:
    """Moves what is at `handles` [n, 2] to `targets` [n, 2], photo pixels, by changing the latent alone.

    to_model: 3×3, photo pixels → pixels of the generator's picture. movable: [s, s] float32 0..1 over that picture
    (any size), 1 where it may move, or None for everywhere. generator: the tuned one, if `latent` has a delta.
    previous: go on from there, at its strength; templates of handles that go on, and the picture the mask protects,
    stay the first. cancelled: asked once a step.
    """
    problem, state = set_up(latent, generator, handles, targets, to_model, movable, settings, previous)
    to_work = resize_matrix(generator.config.img_resolution, problem.work) @ to_model
    per_photo_px = scale_of(to_work)
    way, trace, lost = [], list[TraceStep](), 0
    ends: list[Points] = []
    with stretch(progress, "drag", settings.max_steps) as report:
        while True:
            state, sight, features = look(problem, state)
            way.append(w_plus(problem, state.free.detach())[0].cpu().numpy())
            ends.append(transform(np.linalg.inv(to_work), sight.points.cpu().double().numpy()))
            left = tuple(round(float(d) / per_photo_px, 3) for d in sight.distances)
            lost = lost + 1 if bool((sight.mismatch > 1).any()) else 0
            trace.append(TraceStep(state.step, left, 0.0))
            report.step(state.step, f"{max(left):.1f} px left")
            outcome = ended(sight, trace, problem, lost, settings.max_steps, cancelled)
            if outcome is not None:
                break
            state, loss = advance(problem, state, sight, features)
            trace[-1] = TraceStep(trace[-1].step, left, round(loss, 6))
    best = best_step(trace)
    (picture,) = pictures(generator, np.stack(way[best : best + 1]))
    return Drag(
        handles=summary(handles, targets, ends[best]),
        outcome=outcome,
        way=np.stack(way),
        places=np.stack(ends),
        before=np.zeros((0, *way[0].shape), np.float32) if previous is None else way_to(previous)[0][:-1],
        chosen=best,
        templates=problem.templates.cpu().numpy(),
        picture=picture,
        block=problem.block,
        trace=tuple(trace),
    )


def at_strength(drag: Drag, generator: Generator, strength: float) -> Drag:
    """The same drag at another place of its way: its picture and its handles' ends, without dragging again.

    strength: 0 is the inversion, 1 where the drag was nearest, up to 1.5 beyond. generator: as for `drag`. Raises
    InputError for another strength.
    """
    check_strength(strength)
    latents, places = way_to(drag, strength)
    starts, targets = (np.array([getattr(h, name) for h in drag.handles]) for name in ("start", "target"))
    (picture,) = pictures(generator, latents[-1:])
    return replace(drag, handles=summary(starts, targets, places[-1]), picture=picture, strength=strength)


def pictures(generator: Generator, latents: Latents) -> list[npt.NDArray[np.uint8]]:
    """What `generator` shows for each of `latents` [n, num_ws, w_dim]: [r, r, 3]."""
    device = generator.mapping.w_avg.device
    with torch.no_grad():
        return [to_picture(generator.synthesize(torch.from_numpy(w)[None].to(device))) for w in latents]


def set_up(
    latent: Latent,
    generator: Generator,
    handles: Points,
    targets: Points,
    to_model: Matrix,
    movable: npt.NDArray[np.float32] | None,
    settings: DragSettings,
    previous: Drag | None,
) -> tuple[Problem, State]:
    """The problem in the generator's terms, and the state it starts from."""
    device = generator.mapping.w_avg.device
    block = choose_block(generator, settings.block)
    resolution = generator.config.img_resolution
    work = max(resolution, SMALLEST_WORK)
    to_work = resize_matrix(resolution, work) @ to_model
    points = torch.from_numpy(transform(to_work, handles)).float().to(device)
    original = torch.from_numpy(latent.w_plus)[None].to(device)
    start = original if previous is None else torch.from_numpy(way_to(previous)[0][-1])[None].to(device)
    with torch.no_grad():
        features = generator.synthesize(original, block)
        now = features if previous is None else generator.synthesize(start, block)
        templates = at(now, points, work)
    if previous is not None:
        keep_templates(templates, handles, previous)
    fixed = None
    if movable is not None:
        fixed = torch.from_numpy(1 - resize(np.ascontiguousarray(movable), features.shape[-1])).to(device)
        fixed = fixed.clamp(0, 1) if bool((fixed > 0.01).any()) else None
    reach = reach_of(resolution, features.shape[-1])
    problem = Problem(
        generator=generator,
        block=block,
        start=start,
        rows=min(settings.rows, generator.config.num_ws),
        lr=settings.lr,
        targets=torch.from_numpy(transform(to_work, targets)).float().to(device),
        templates=templates,
        original=features,
        fixed=fixed,
        mask_weight=settings.mask_weight,
        keep_weight=settings.keep_weight,
        work=work,
        patch=disc(reach.patch, reach.patch_spacing).to(device),
        window=grid(reach.window, reach.window_spacing).to(device),
        push=reach.push,
        stop=max(2 * work / 512, 2.0),
    )
    free = start[:, : problem.rows].clone()
    return problem, State(0, free, torch.zeros_like(free), torch.zeros_like(free), points)


@dataclass(frozen=True)
class Reach:
    """How far supervision and tracking look, in work pixels."""

    patch: float
    patch_spacing: float
    window: float
    window_spacing: float
    push: float


def reach_of(resolution: int, features: int) -> Reach:
    """The published radii, 3 and 12 px of a 512 px picture and a push of 1 px, from 256 px on.

    Smaller pictures have too few feature pixels for them; these were measured instead (`benchmarks/blocks.py`).
    """
    if resolution >= SMALLEST_WORK:
        return Reach(round(3 * resolution / 512), 1.0, round(12 * resolution / 512), 1.0, 1.0)
    px = SMALLEST_WORK / features
    return Reach(3 * px, px / 2, 2 * px, px / 4, px / 4)


def keep_templates(templates: torch.Tensor, handles: Points, previous: Drag) -> None:
    """A handle placed where an earlier one ended (within a photo pixel) keeps that one's template."""
    for i, handle in enumerate(handles):
        for j, before in enumerate(previous.handles):
            if np.hypot(*(handle - np.array(before.end))) <= 1:
                templates[i] = torch.from_numpy(previous.templates[j]).to(templates)


def ended(
    sight: Sight,
    trace: list[TraceStep],
    problem: Problem,
    lost: int,
    max_steps: int,
    cancelled: Callable[[], bool],
) -> Outcome | None:
    """How the drag ends at this step, or None."""
    if bool((sight.distances <= problem.stop).all()):
        return Outcome.REACHED
    if cancelled():
        return Outcome.CANCELLED
    if lost >= LOST_AFTER:
        return Outcome.LOST_HANDLE
    if trace[-1].step - best_step(trace) >= PATIENCE:
        return Outcome.STALLED
    return Outcome.MAX_STEPS if trace[-1].step >= max_steps else None


def best_step(trace: list[TraceStep]) -> int:
    """The first step with the least mean distance."""
    return int(np.argmin([np.mean(t.distances) for t in trace]))


def summary(handles: Points, targets: Points, ends: Points) -> tuple[Handle, ...]:
    """Start, target, end and the two distances of each handle, rounded to a thousandth of a photo pixel."""

    def pair(p: Points) -> tuple[float, float]:
        return round(float(p[0]), 3), round(float(p[1]), 3)

    return tuple(
        Handle(
            pair(h),
            pair(t),
            pair(e),
            round(float(np.hypot(*(t - h))), 3),
            round(float(np.hypot(*(t - e))), 3),
        )
        for h, t, e in zip(handles, targets, ends, strict=True)
    )
