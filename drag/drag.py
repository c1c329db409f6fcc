"""A whole drag: from handles and targets to the latent that shows them there, and how it ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from realdrag.drag.anchored import Anchored
from realdrag.drag.draggan import DragGan
from realdrag.drag.held import Held
from realdrag.drag.loop import LOST, Loop, Problem, Sight, State, begin
from realdrag.drag.way import Latents, check_strength, way_to
from realdrag.errors import InputError, WorkError
from realdrag.geometry import Matrix, Points, resize, resize_matrix, scale_of, transform
from realdrag.progress import Progress, stretch
from realdrag.settings import DragSettings
from realdrag.stylegan import Generator, to_picture
from realdrag.values import Drag, Handle, Latent, Moment, Outcome, TraceStep

LOOPS: dict[str, type[Anchored | DragGan]] = {"anchored": Anchored, "draggan": DragGan}
LOST_AFTER = 5  # a handle lost for so many steps in a row ends the drag


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
    watch: Callable[[Moment], None] = lambda moment: None,
) -> Drag:
    """Moves what is at `handles` [n, 2] to `targets` [n, 2], photo pixels, by changing the latent alone.

    to_model: 3×3, photo pixels → pixels of the generator's picture. movable: [s, s] float32 0..1 over that picture
    (any size), 1 where it may move, or None for everywhere. generator: the tuned one, if `latent` has a delta.
    previous: go on from there, at its strength; templates of handles that go on, and the picture the mask protects,
    stay the first. cancelled: asked once a step. watch: told of every step. Raises InputError for a latent that is not
    finite.
    """
    if not np.isfinite(latent.w_plus).all():
        raise InputError("the latent is not finite", "invert the photo again")
    loop, state = set_up(latent, generator, handles, targets, to_model, movable, settings, previous)
    to_loop = resize_matrix(generator.config.img_resolution, loop.side) @ to_model
    to_photo, per_photo_px = np.linalg.inv(to_loop), scale_of(to_loop)
    way, ends, trace, lost = [], list[Points](), list[TraceStep](), 0
    ranks = list[tuple[bool, bool, float]]()  # the least is shown: arrived before near, found before lost
    outcome: Outcome | None = None
    with stretch(progress, "drag", settings.max_steps) as report:
        while outcome is None:
            sight = loop.look(state)
            if not np.isfinite(sight.cost):
                outcome = Outcome.LOST_HANDLE
                break
            way.append(loop.problem.w_plus(sight.free.detach())[0].cpu().numpy())
            ends.append(transform(to_photo, sight.points.cpu().double().numpy()))
            left = tuple(round(float(d) / per_photo_px, 3) for d in sight.distances)
            sure = tuple(round(float(c), 3) for c in sight.confidence)
            trace.append(TraceStep(state.step, left, round(float(sight.loss.detach()), 6), sure))
            watch(Moment(way[-1], np.asarray(ends[-1], np.float64), trace[-1]))
            is_lost = min(sure, default=1) < LOST
            ranks.append((not arrived(loop, sight), is_lost, sight.cost))
            lost = lost + 1 if is_lost else 0
            report.step(state.step, f"{max(left):.1f} px left")
            outcome = ended(loop, state, sight, lost, settings.max_steps, cancelled)
            state = loop.advance(state, sight) if outcome is None else state
    if not ranks:
        raise WorkError("the model's features are not finite numbers", "take --precision fp32, or another model")
    best = ranks.index(min(ranks))
    if not ranks[best][0] and outcome is not Outcome.CANCELLED:
        outcome = Outcome.REACHED
    done = Drag(
        handles=summary(handles, targets, ends[best], trace[best].confidences),
        outcome=outcome,
        way=np.stack(way),
        places=np.stack(ends),
        before=np.zeros((0, *way[0].shape), np.float32) if previous is None else way_to(previous)[0][:-1],
        best=best,
        chosen=best,
        templates=loop.templates.cpu().numpy(),
        picture=latent.picture,
        block=loop.problem.block,
        trace=tuple(trace),
        movable=levels(movable, generator) if loop.holds and movable is not None else None,
    )
    return replace(done, picture=pictures(done, generator, done.way[best : best + 1])[0])


def at_strength(drag: Drag, generator: Generator, strength: float) -> Drag:
    """The same drag at another place of its way: its picture and its handles' ends, without dragging again.

    strength: 0 is the inversion, 1 where the drag was nearest, up to 1.5 beyond. generator: as for `drag`. Raises
    InputError for another strength.
    """
    check_strength(strength)
    latents, places = way_to(drag, strength)
    starts, targets = (np.array([getattr(h, name) for h in drag.handles]) for name in ("start", "target"))
    (picture,) = pictures(drag, generator, latents[-1:])
    ends = summary(starts, targets, places[-1], tuple(handle.confidence for handle in drag.handles))
    return replace(drag, handles=ends, picture=picture, strength=strength)


def at_step(drag: Drag, generator: Generator, step: int) -> Drag:
    """The same drag as it was at `step`, 0 … `drag.steps`, at full strength, without dragging again.

    generator: as for `drag`. Raises InputError for another step.
    """
    if not 0 <= step <= drag.steps:
        raise InputError(
            f"step {step}: the drag has steps 0 to {drag.steps}", "see the trace in drag.json", code="step"
        )
    starts, targets = (np.array([getattr(h, name) for h in drag.handles]) for name in ("start", "target"))
    (picture,) = pictures(drag, generator, drag.way[step : step + 1])
    ends = summary(starts, targets, drag.places[step], drag.trace[step].confidences)
    return replace(drag, handles=ends, picture=picture, chosen=step, strength=1.0)


def pictures(drag: Drag, generator: Generator, latents: Latents) -> list[npt.NDArray[np.uint8]]:
    """What `generator` shows for each of `latents` [n, num_ws, w_dim] of the drag, inside its mask: [r, r, 3]."""
    original = drag.before[0] if len(drag.before) else drag.way[0]
    paint = painter(generator, original, drag.movable, drag.block)
    return [paint(w_plus) for w_plus in latents]


def painter(
    generator: Generator, original: npt.NDArray[np.float32], movable: npt.NDArray[np.uint8] | None, block: str
) -> Callable[[npt.NDArray[np.float32]], npt.NDArray[np.uint8]]:
    """From a latent [num_ws, w_dim] to its picture [r, r, 3]: the one of `original` where nothing is `movable`.

    movable, block: as in `Drag`. generator: as for `drag`.
    """
    device = generator.mapping.w_avg.device
    synthesize: Callable[[torch.Tensor], torch.Tensor] = generator.synthesize
    if movable is not None:
        synthesize = Held(generator, torch.from_numpy(original)[None].to(device), movable, block).synthesize

    def paint(w_plus: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
        with torch.no_grad():
            return to_picture(synthesize(torch.from_numpy(w_plus)[None].to(device)))

    return paint


def levels(movable: npt.NDArray[np.float32], generator: Generator) -> npt.NDArray[np.uint8]:
    """`movable` [s, s] 0..1 at the size of the generator's picture, in 255ths."""
    side = generator.config.img_resolution
    share: npt.NDArray[np.float32] = resize(np.ascontiguousarray(movable), side).clip(0, 1)
    return np.rint(share * 255).astype(np.uint8)


def set_up(
    latent: Latent,
    generator: Generator,
    handles: Points,
    targets: Points,
    to_model: Matrix,
    movable: npt.NDArray[np.float32] | None,
    settings: DragSettings,
    previous: Drag | None,
) -> tuple[Loop, State]:
    """The loop on the problem in the generator's terms, and the state it starts from."""
    device = generator.mapping.w_avg.device
    block = choose_block(generator, settings.block)
    original = torch.from_numpy(latent.w_plus)[None].to(device)
    start = original if previous is None else torch.from_numpy(way_to(previous)[0][-1])[None].to(device)
    with torch.no_grad():
        features = generator.synthesize(original, block)
        now = features if previous is None else generator.synthesize(start, block)
    fixed = None
    if movable is not None:
        share = levels(movable, generator).astype(np.float32) / np.float32(255)
        fixed = torch.from_numpy(1 - resize(share, features.shape[-1])).to(device)
        fixed = fixed.clamp(0, 1) if bool((fixed > 0.01).any()) else None
    problem = Problem(
        generator=generator,
        block=block,
        settings=settings,
        start=start,
        handles=torch.from_numpy(transform(to_model, handles)).float().to(device),
        targets=torch.from_numpy(transform(to_model, targets)).float().to(device),
        original=features,
        now=now,
        fixed=fixed,
    )
    kept = {} if previous is None or previous.block != block else kept_templates(handles, previous)
    loop = LOOPS[settings.method](problem, {i: torch.from_numpy(t).to(device) for i, t in kept.items()})
    return loop, begin(problem, loop.side)


def kept_templates(handles: Points, previous: Drag) -> dict[int, npt.NDArray[np.float32]]:
    """Of the handles placed where an earlier one ended (within a photo pixel): that one's template."""
    return {
        i: previous.templates[j]
        for i, handle in enumerate(handles)
        for j, before in enumerate(previous.handles)
        if np.hypot(*(handle - np.array(before.end))) <= 1
    }


def arrived(loop: Loop, sight: Sight) -> bool:
    """Whether every handle is within `loop.stop` of its target."""
    return bool((sight.distances <= loop.stop).all())


def ended(
    loop: Loop, state: State, sight: Sight, lost: int, max_steps: int, cancelled: Callable[[], bool]
) -> Outcome | None:
    """How the drag ends at this step, or None. lost: for how many steps in a row a handle was not found."""
    if arrived(loop, sight) and loop.settled(state, sight):
        return Outcome.REACHED
    if cancelled():
        return Outcome.CANCELLED
    if loop.doubts and lost >= LOST_AFTER:
        return Outcome.LOST_HANDLE
    if loop.stalled(state):
        return Outcome.STALLED
    return Outcome.MAX_STEPS if state.step >= max_steps else None


def summary(handles: Points, targets: Points, ends: Points, confidences: tuple[float, ...]) -> tuple[Handle, ...]:
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
            confidence,
        )
        for h, t, e, confidence in zip(handles, targets, ends, confidences, strict=True)
    )
