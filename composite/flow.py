"""Dense motion between two pictures of one scene, to a tenth of their pixel.

OpenCV's DIS finds it, then it is refined by least squares over the whole picture. The prior is on second differences:
a turning or growing region costs nothing, a fold little, so motion stays smooth within parts and bends between them.
Inside, fields are planar, [2, s, s] float32 with x first; maps are [s, s].
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt
from scipy.fft import dctn, idctn

from realdrag.geometry import sample_sharp

Field = npt.NDArray[np.float32]

SMOOTHNESS = 6000.0  # weight of the prior; at 3000 end-point errors are a sixth to a third larger
BEND = 0.01  # second differences, in pixels, above which the prior is linear: parts may slide along each other
GRADIENTS = 1.5  # weight of brightness gradients beside colours: they hold where the light changes
NOISE = 1.0  # grey levels, above which a difference counts linearly: what is new does not pull
WARPS, ITERATIONS = 4, 8  # twice as many change end-point errors by less than 7 %
STEP = 1.0  # longest correction of a warp, in pixels: beyond it the linear model of the pictures ends
STILLNESS = 0.05  # weight of no motion at all, for what nothing holds; at 0.2 a turning head lags by 0.4 px of 512
FLOOR = 0.1  # share of the mean data term in the preconditioner


def find_motion(before: Field, after: Field) -> Field:
    """Backward flow [s, s, 2]: pixel p of `after` came from p + motion of `before`; both [s, s, 3], 0..255."""
    size = before.shape[0]
    flow = np.ascontiguousarray(np.moveaxis(sparse_flow(before, after), -1, 0))
    for level in (size // 2, size):
        pair = [cv2.resize(x, (level, level), interpolation=cv2.INTER_AREA) for x in (before, after)]
        flow = refine(pair[0], pair[1], rescaled(flow, level))
    return np.ascontiguousarray(np.moveaxis(flow, 0, -1))


def follow_motion(before: Field, after: Field, flow: Field | float) -> Field:
    """As `find_motion` in a tenth of the time, where `flow` [s, s, 2] was the motion a moment ago (0: there was none).

    At half the size, where DIS's guess follows far moves and the last flow is finer: their mean, refined once, is
    within 0.5 px of 128 on average.
    """
    size = before.shape[0]
    small = [cv2.resize(x, (size // 2, size // 2), interpolation=cv2.INTER_AREA) for x in (before, after)]
    guess = np.moveaxis(sparse_flow(small[0], small[1]), -1, 0)
    if not isinstance(flow, float):
        guess = (guess + rescaled(np.moveaxis(flow, -1, 0), size // 2)) * np.float32(0.5)
    planar = refine(small[0], small[1], np.ascontiguousarray(guess, np.float32), warps=1)
    return np.ascontiguousarray(np.moveaxis(rescaled(planar, size), 0, -1))


def sparse_flow(before: Field, after: Field) -> Field:
    """A first guess of the backward flow [s, s, 2]: DIS optical flow (Kroeger et al. 2016), from patches."""
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    dis.setFinestScale(0)
    dis.setVariationalRefinementIterations(20)
    dis.setVariationalRefinementAlpha(50)
    grey = [cv2.cvtColor(x.clip(0, 255).astype(np.uint8), cv2.COLOR_RGB2GRAY) for x in (after, before)]
    return np.asarray(dis.calc(grey[0], grey[1], None), np.float32)


def rescaled(flow: Field, size: int) -> Field:
    """A planar flow at another size of the picture, its lengths too."""
    old = flow.shape[1]
    if old == size:
        return flow
    way = cv2.INTER_AREA if old > size else cv2.INTER_CUBIC
    return np.stack([cv2.resize(part, (size, size), interpolation=way) for part in flow]) * np.float32(size / old)


def refine(before: Field, after: Field, flow: Field, warps: int = WARPS) -> Field:
    """`flow` [2, s, s] after so many steps of Gauss and Newton, each solved by conjugate gradients."""
    size = before.shape[0]
    y, x = np.mgrid[0:size, 0:size].astype(np.float32)
    sources, targets = described(before), described(after)
    slopes = [gradients(target) for target in targets]
    frequencies = 2 - 2 * np.cos(np.pi * np.arange(size) / size)  # of second differences, mirrored at the edges
    spectrum = np.square(frequencies[:, None] + frequencies).astype(np.float32)
    for _ in range(warps):
        at_x, at_y = x + flow[0], y + flow[1]
        inside = ((at_x >= 0) & (at_y >= 0) & (at_x <= size - 1) & (at_y <= size - 1)).astype(np.float32)
        xx, xy, yy, right = data_term(sources, targets, slopes, at_x, at_y, inside)
        prior, stiffness = smoothness(flow)
        damping = stiffness * spectrum + np.float32(FLOOR * float((xx + yy).mean()) / 2 + 1e-3)

        def normal(
            d: Field, prior: Callable[[Field], Field] = prior, xx: Field = xx, xy: Field = xy, yy: Field = yy
        ) -> Field:
            out = prior(d) + STILLNESS * d
            out[0] += xx * d[0] + xy * d[1]
            out[1] += xy * d[0] + yy * d[1]
            return out

        def precondition(r: Field, damping: Field = damping) -> Field:
            return np.asarray(idctn(dctn(r, axes=(1, 2), norm="ortho") / damping, axes=(1, 2), norm="ortho"))

        step = conjugate_gradients(normal, right - prior(flow) - STILLNESS * flow, precondition)
        length = np.hypot(step[0], step[1])
        flow = flow + step * np.minimum(1, STEP / np.maximum(length, 1e-6))
    return np.asarray(flow, np.float32)


def described(picture: Field) -> list[Field]:
    """What is compared: [s, s, 3] colours and their two gradients."""
    x, y = gradients(picture)
    return [picture, GRADIENTS * x, GRADIENTS * y]


def gradients(picture: Field) -> tuple[Field, Field]:
    """Along x and y, each the shape of `picture`."""
    return cv2.Scharr(picture, cv2.CV_32F, 1, 0) / 32, cv2.Scharr(picture, cv2.CV_32F, 0, 1) / 32


def data_term(
    sources: list[Field],
    targets: list[Field],
    slopes: list[tuple[Field, Field]],
    at_x: Field,
    at_y: Field,
    weight: Field,
) -> tuple[Field, Field, Field, Field]:
    """The normal equations of all descriptions, linear in the flow at (at_x, at_y): xx, xy, yy [s, s], right [2, s, s].

    Robust as Charbonnier's penalty; slopes are means of both pictures', which is exact to second order.
    """
    size = at_x.shape[0]
    xx, xy, yy = (np.zeros((size, size), np.float32) for _ in range(3))
    right = np.zeros((2, size, size), np.float32)
    for source, target, (target_x, target_y) in zip(sources, targets, slopes, strict=True):
        moved = sample_sharp(source, at_x, at_y)
        moved_x, moved_y = gradients(moved)
        slope_x, slope_y, rest = (moved_x + target_x) / 2, (moved_y + target_y) / 2, moved - target
        believed = weight / np.sqrt(np.square(rest).sum(2) + NOISE**2)
        xx += believed * np.square(slope_x).sum(2)
        xy += believed * (slope_x * slope_y).sum(2)
        yy += believed * np.square(slope_y).sum(2)
        right[0] -= believed * (slope_x * rest).sum(2)
        right[1] -= believed * (slope_y * rest).sum(2)
    return xx, xy, yy, right


def smoothness(flow: Field) -> tuple[Callable[[Field], Field], float]:
    """The prior's linear operator at `flow` ([2, s, s] → the same), and its typical stiffness."""
    along_x, along_y, mixed = second_differences(flow)
    bend = np.zeros(flow.shape[1:], np.float32)
    bend[:, 1:-1] += np.square(along_x).sum(0)
    bend[1:-1] += np.square(along_y).sum(0)
    bend[:-1, :-1] += 2 * np.square(mixed).sum(0)
    weight = (SMOOTHNESS * BEND / np.sqrt(bend + BEND**2)).astype(np.float32)

    def operator(u: Field) -> Field:
        out = np.zeros_like(u)
        along_x, along_y, mixed = second_differences(u)
        along_x *= weight[:, 1:-1]
        along_y *= weight[1:-1]
        mixed *= 2 * weight[:-1, :-1]
        out[:, :, 2:] += along_x
        out[:, :, :-2] += along_x
        out[:, :, 1:-1] -= 2 * along_x
        out[:, 2:] += along_y
        out[:, :-2] += along_y
        out[:, 1:-1] -= 2 * along_y
        out[:, 1:, 1:] += mixed
        out[:, :-1, :-1] += mixed
        out[:, 1:, :-1] -= mixed
        out[:, :-1, 1:] -= mixed
        return out

    return operator, float(np.median(weight))


def second_differences(u: Field) -> tuple[Field, Field, Field]:
    """Of planes [2, s, s]: along x [2, s, s-2], along y [2, s-2, s], mixed [2, s-1, s-1]."""
    along_x = u[:, :, 2:] - 2 * u[:, :, 1:-1] + u[:, :, :-2]
    along_y = u[:, 2:] - 2 * u[:, 1:-1] + u[:, :-2]
    mixed = u[:, 1:, 1:] - u[:, 1:, :-1] - u[:, :-1, 1:] + u[:, :-1, :-1]
    return along_x, along_y, mixed


def conjugate_gradients(
    operator: Callable[[Field], Field], right: Field, precondition: Callable[[Field], Field]
) -> Field:
    """ITERATIONS steps towards operator(d) = right, from 0."""
    d = np.zeros_like(right)
    left = right
    scaled = precondition(left)
    direction, size = scaled, float(np.vdot(left, scaled))
    for _ in range(ITERATIONS):
        if size <= 0:  # solved, as where the pictures are plain
            break
        image = operator(direction)
        share = size / float(np.vdot(direction, image))
        d = d + share * direction
        left = left - share * image
        scaled = precondition(left)
        before, size = size, float(np.vdot(left, scaled))
        direction = scaled + size / before * direction
    return np.asarray(d, np.float32)
