"""The photo moves where the generator's pictures moved, by as much, as sharp as before, and nowhere else."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np
import pytest
from skimage.registration import phase_cross_correlation

from realdrag.composite import composite as stage
from realdrag.composite.composite import TILE, verified
from realdrag.composite.motion import FAINT, MOST, PLAIN, Change, find_change
from realdrag.composite.region import crop_box, opening
from realdrag.errors import WorkError
from realdrag.geometry import resize_matrix, transform
from realdrag.progress import Silent
from realdrag.settings import CompositeSettings
from realdrag.values import Alignment, Mode, Photo, Result

MODULE = importlib.import_module("realdrag.composite.composite")  # the package's name for it is the function
MODES: dict[int, Mode] = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
SETTINGS = CompositeSettings()
R = 64  # the generator's side


def picture(move_x: float = 0.0, move_y: float = 0.0, spot: float = 0.0) -> np.ndarray:
    """What a generator might show, [64, 64, 3], its content moved by so many pixels; `spot` levels added in the middle.

    Smooth waves in several directions: dense flow has something to hold everywhere.
    """
    y, x = np.mgrid[:R, :R].astype(float)
    x, y = x - move_x, y - move_y
    value = np.zeros((R, R))
    for angle, period, phase in ((0.2, 11, 0.3), (1.9, 13, 1.1), (1.1, 17, 2.2), (2.7, 19, 4.0), (0.7, 23, 5.0)):
        value += np.sin(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / period + phase)
    shade = 127.5 + 22 * value
    out = np.stack([shade, shade * 0.9 + 10, shade * 0.8 + 20], -1)
    y, x = np.mgrid[:R, :R]
    out[np.hypot(x - 32, y - 32) < 8] += spot
    return out.clip(0, 255).round().astype(np.uint8)


def texture(height: int, width: int, grain: float = 1.2, seed: int = 0) -> np.ndarray:
    """Noise that is `grain` pixels coarse, [h, w] in 0..1, standard deviation 0.15."""
    noise = np.random.default_rng(seed).standard_normal((height, width))
    noise = cv2.GaussianBlur(noise, (0, 0), grain) if grain else noise
    return (0.5 + 0.15 * noise / noise.std()).clip(0, 1)


def photo_of(grey: np.ndarray, channels: int = 3, dtype: type = np.uint8) -> Photo:
    highest = np.iinfo(dtype).max
    planes = [grey if c % 2 == 0 else 0.7 * grey + 0.1 for c in range(channels)]
    if channels in (2, 4):
        planes[-1] = texture(*grey.shape, seed=9)
    return Photo((np.stack(planes, -1) * highest).round().astype(dtype), MODES[channels], "")


def aligned(to_crop: np.ndarray, size: int) -> Alignment:
    return Alignment(to_crop, np.zeros((size, size, 3), np.uint8), None, None, "box", None)


def crop_at(side: float, x: float, y: float, degrees: float = 0.0, size: int = 192) -> Alignment:
    """A square crop with `side` photo pixels to its edge around (x, y)."""
    turn, s = np.deg2rad(degrees), size / side
    rotation = s * np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    to_crop = np.eye(3)
    to_crop[:2, :2] = rotation
    to_crop[:2, 2] = (size - 1) / 2 - rotation @ [x, y]
    return aligned(to_crop, size)


def carry_into(photo: Photo) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """As for an sRGB photo: levels of its own depth; grey takes the mean."""
    scale = np.iinfo(photo.pixels.dtype).max / 255

    def carry(pixels: np.ndarray, change: np.ndarray) -> np.ndarray:
        if pixels.shape[2] == 1:
            change = change.mean(2, keepdims=True)
        return pixels + change * scale

    return carry


def run(photo: Photo, alignment: Alignment, before: np.ndarray, after: np.ndarray, mask: np.ndarray | None) -> Result:
    return stage(photo, alignment, before, after, mask, SETTINGS, carry=carry_into(photo), progress=Silent())


def disc(height: int, width: int, x: float, y: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return (np.hypot(columns - x, rows - y) < radius).astype(np.float32)


def moved_by(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Sub-pixel shift (x, y) of the content from `before` to `after`, both [h, w]: where they correlate most.

    Not by OpenCV, which is off by half a pixel where it pads to a size that it likes; nor by phase alone, which fails
    in a face of 24 px.
    """
    window = cv2.createHanningWindow(before.shape[::-1], cv2.CV_64F)
    pair = [(p - p.mean()) * window for p in (after, before)]
    return np.array(phase_cross_correlation(*pair, upsample_factor=100, normalization=None)[0][::-1])


# --- nothing where nothing happened ---


@pytest.mark.parametrize("masked", [False, True])
def test_no_motion_gives_the_photo_itself(masked: bool) -> None:
    photo = photo_of(texture(90, 120))
    mask = disc(90, 120, 60, 45, 30) if masked else None
    result = run(photo, crop_at(80, 60, 45), picture(), picture().copy(), mask)
    assert result.photo is photo
    assert result.changed is None
    assert result.outside_max_difference == 0


def test_a_mask_of_nothing_gives_the_photo_itself() -> None:
    photo = photo_of(texture(90, 120))
    result = run(photo, crop_at(80, 60, 45), picture(), picture(2), np.zeros((90, 120), np.float32))
    assert result.photo is photo
    assert result.changed is None


def test_a_crop_beside_the_photo_changes_nothing() -> None:
    photo = photo_of(texture(90, 120))
    assert run(photo, crop_at(80, 400, 45), picture(), picture(2), None).photo is photo


def test_noise_of_the_generator_is_not_a_change() -> None:
    """Two renderings that differ by a level, as a drag leaves them far from its handles."""
    photo = photo_of(texture(90, 120))
    other = (picture().astype(int) + np.random.default_rng(0).integers(-1, 2, (R, R, 3))).clip(0, 255).astype(np.uint8)
    result = run(photo, crop_at(80, 60, 45), picture(), other, None)
    difference = np.abs(result.photo.pixels.astype(int) - photo.pixels)
    assert difference.mean() < 0.05
    assert (difference > 1).mean() < 0.01


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_outside_the_mask_every_pixel_is_the_photo_s(channels: int, dtype: type) -> None:
    photo = photo_of(texture(150, 200), channels, dtype)
    kept = photo.pixels.copy()
    mask = disc(150, 200, 90, 70, 40)
    result = run(photo, crop_at(130, 100, 75), picture(), picture(2, -1, spot=60), mask)
    after = result.photo.pixels
    assert (after.dtype, after.shape, result.photo.mode) == (kept.dtype, kept.shape, photo.mode)
    np.testing.assert_array_equal(after[mask == 0], kept[mask == 0])
    colours = channels if channels % 2 else channels - 1
    differs = (after[..., :colours] != kept[..., :colours]).any(2)
    assert differs[mask > 0].mean() > 0.8
    if channels in (2, 4):
        np.testing.assert_array_equal(after[..., -1], kept[..., -1])
    np.testing.assert_array_equal(photo.pixels, kept)  # the caller's photo is not written into
    rows, columns = np.flatnonzero(differs.any(1)), np.flatnonzero(differs.any(0))
    assert result.changed == (columns[0], rows[0], columns[-1], rows[-1])
    assert result.outside_max_difference == 0


def test_outside_the_crop_every_pixel_is_the_photo_s() -> None:
    photo = photo_of(texture(150, 200))
    alignment = crop_at(90, 100, 75, degrees=30)
    after = run(photo, alignment, picture(), picture(2), None).photo.pixels
    rows, columns = np.mgrid[:150, :200]
    there = transform(alignment.to_crop, np.stack([columns, rows], -1).reshape(-1, 2)).reshape(150, 200, 2)
    outside = (np.abs(there - 95.5) > 96 + 192 / 90).any(2)  # a photo pixel beyond its edge
    np.testing.assert_array_equal(after[outside], photo.pixels[outside])
    assert (after != photo.pixels)[~outside].mean() > 0.6


# --- by how much ---


@dataclass(frozen=True)
class Place:
    """A crop in a photo, and the point of the photo around which the motion is measured."""

    alignment: Alignment
    size: tuple[int, int]  # height, width
    look: tuple[int, int]  # x, y


PLACES = {
    "as it is": Place(crop_at(192, 110, 104), (210, 220), (110, 104)),
    "crop a third of the photo's size": Place(crop_at(384, 210, 200, size=128), (420, 440), (210, 200)),
    "crop three times as large": Place(crop_at(120, 70, 66, size=360), (140, 150), (70, 66)),
    "turned by 20 degrees": Place(crop_at(200, 150, 150, degrees=20), (300, 300), (150, 150)),
    "a face of 24 pixels": Place(crop_at(60, 40, 42, size=128), (90, 90), (40, 42)),
    "upside down": Place(crop_at(200, 150, 150, degrees=180), (300, 300), (150, 150)),
    "partly outside": Place(crop_at(256, 60, 70), (260, 260), (70, 80)),
}


@pytest.mark.parametrize("motion", [(2.0, 0.0), (-0.75, 1.5)])
@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES.keys())
def test_the_photo_moves_as_far_as_the_pictures(place: Place, motion: tuple[float, float]) -> None:
    photo = photo_of(texture(*place.size, grain=2))
    result = run(photo, place.alignment, picture(), picture(*motion), None)
    to_photo = place.alignment.to_photo @ resize_matrix(R, place.alignment.size)
    expected = to_photo[:2, :2] @ motion
    (x, y), half = place.look, int(0.22 * np.hypot(*to_photo[:2, 0]) * R)
    box = np.s_[y - half : y + half, x - half : x + half, 1]
    seen = moved_by(photo.pixels[box].astype(float), result.photo.pixels[box].astype(float))
    np.testing.assert_allclose(seen, expected, atol=0.08 * np.hypot(*expected) + 0.1)


def test_only_the_part_that_moves_is_moved() -> None:
    """Half of the picture stays: so does that half of the photo."""
    after = picture()
    after[:, 32:] = picture(1.5)[:, 32:]
    photo = photo_of(texture(200, 200, grain=2))
    moved = run(photo, crop_at(192, 99.5, 99.5), picture(), after, None).photo.pixels[..., 0].astype(float)
    still = photo.pixels[..., 0].astype(float)
    assert np.abs(moved - still)[:, :70].mean() < 0.5
    np.testing.assert_allclose(moved_by(still[60:140, 125:180], moved[60:140, 125:180]), [4.5, 0], atol=0.4)


@pytest.mark.parametrize("grey", [0.25, 0.5])
def test_a_grey_mask_moves_partly(grey: float) -> None:
    photo = photo_of(texture(210, 220, grain=2))
    mask = np.full((210, 220), grey, np.float32)
    result = run(photo, crop_at(192, 110, 104), picture(), picture(2), mask)
    box = np.s_[60:150, 65:155, 0]
    seen = moved_by(photo.pixels[box].astype(float), result.photo.pixels[box].astype(float))
    np.testing.assert_allclose(seen, [6 * grey, 0], atol=0.25)


def test_texture_stays_sharp_after_a_move_between_pixels() -> None:
    """The pictures have no such detail; a cross-fade or a bilinear move would lose it."""
    grey = texture(210, 220, grain=0.7)
    photo = photo_of(grey)
    result = run(photo, crop_at(192, 110, 104), picture(), picture(0.5, 0.5), None)  # 1.5 photo pixels each way
    box = np.s_[50:160, 55:165, 0]
    before, after = (p.pixels[box].astype(float) for p in (photo, result.photo))
    shift = np.array([[1, 0, 1.5], [0, 1, 1.5]])
    soft = cv2.warpAffine(photo.pixels[..., 0].astype(float), shift, (220, 210), flags=cv2.INTER_LINEAR)[box[:2]]
    detail = [np.var(p - cv2.GaussianBlur(p, (0, 0), 3)) for p in (before, after, soft)]
    assert detail[1] > 0.6 * detail[0]
    assert detail[1] > 1.15 * detail[2]
    assert np.abs(after - before).mean() > 3


# --- what motion cannot explain ---


def test_a_change_of_light_arrives_bounded_and_in_its_place() -> None:
    photo = photo_of(np.full((200, 200), 0.4))
    result = run(photo, crop_at(192, 100, 100), picture(), picture(spot=70), None)
    added = result.photo.pixels[..., 0].astype(float) - photo.pixels[..., 0]
    # (32, 32) of the picture is (101, 101) of the photo; a change this large is bent to MOST levels
    assert 0.7 * MOST < added[92:112, 92:112].mean() < MOST
    y, x = np.mgrid[:200, :200]
    centre = (added * x).sum() / added.sum(), (added * y).sum() / added.sum()
    assert centre == pytest.approx((101, 101), abs=1.5)
    assert np.abs(added[np.hypot(x - 101, y - 101) > 48]).max() <= 2


def test_sixteen_bits_carry_the_same_change() -> None:
    grey = texture(150, 150)
    eight, sixteen = photo_of(grey), photo_of(grey, dtype=np.uint16)
    place, pictures = crop_at(130, 75, 75), (picture(), picture(1, 0.5, spot=50))
    a = run(eight, place, *pictures, None).photo.pixels.astype(float) * 257
    b = run(sixteen, place, *pictures, None).photo.pixels.astype(float)
    assert np.abs(a - b).max() < 3 * 257
    assert len(np.unique(b[40:110, 40:110, 0])) > 1000  # not eight bits in a sixteen-bit file


def changed(before: np.ndarray, after: np.ndarray) -> Change:
    return find_change(before, after, grow=SETTINGS.grow, share=SETTINGS.change)


def test_blotches_below_the_faint_limit_add_nothing() -> None:
    blotchy = picture(spot=int(FAINT) - 2)
    change = changed(picture(), blotchy)
    assert np.abs(change.residue).max() == 0
    assert np.abs(change.motion).max() < 0.01 * change.size
    change = changed(picture(), picture(spot=2 * int(PLAIN)))
    assert PLAIN / 2 < np.abs(change.residue).max() < MOST
    assert change.happened[64, 64] == 1


def test_motion_is_where_each_pixel_came_from() -> None:
    """Backward, in pixels of the change; what moves explains all, so nothing is added."""
    change = changed(picture(), picture(2, -1))
    scale = change.size / R
    edge = round(12 * scale)
    inner = np.s_[edge:-edge, edge:-edge]
    np.testing.assert_allclose(change.motion[inner].mean((0, 1)), [-2 * scale, 1 * scale], atol=0.05)
    assert np.abs(change.residue[inner]).mean() < 0.3


# --- edges ---


def opened(photo: Photo, alignment: Alignment, mask: np.ndarray | None) -> np.ndarray:
    """`opening` on the whole photo, [h, w]."""
    x0, y0, x1, y1 = box = crop_box(photo, alignment)
    out = np.zeros(photo.pixels.shape[:2], np.float32)
    out[y0:y1, x0:x1] = opening(photo, alignment, mask, SETTINGS, box)
    return out


def test_the_feather_lies_inside_the_mask() -> None:
    photo = photo_of(texture(200, 220))
    mask = disc(200, 220, 110, 100, 60) * 0.8
    alpha = opened(photo, crop_at(190, 110, 100), mask)
    assert alpha.shape == (200, 220)
    assert alpha.dtype == np.float32
    assert (alpha[mask == 0] == 0).all()
    assert (alpha <= mask + 1e-6).all()
    assert alpha[100, 110] == pytest.approx(0.8)
    feather = SETTINGS.feather * 190
    row = alpha[100, 110:175]
    assert (np.diff(row) <= 1e-6).all()
    assert 0.05 < row[round(60 - feather / 2)] < 0.75  # half way through the feather
    assert row[59] < 0.1


@pytest.mark.parametrize("width", [1, 2, 3, 6])
def test_a_thin_mask_still_opens(width: int) -> None:
    mask = np.zeros((200, 220), np.float32)
    mask[:, 100 : 100 + width] = 1
    alpha = opened(photo_of(texture(200, 220)), crop_at(190, 110, 100), mask)
    assert alpha.max() == pytest.approx(1)
    assert (alpha[mask == 0] == 0).all()


def test_the_crop_ends_at_its_edge_and_a_letterbox_at_its_box() -> None:
    """An edge at half a pixel, as a square of whole pixels has: the pixel beyond it is wholly outside."""
    photo = photo_of(texture(300, 400))
    alignment = crop_at(101, 200.0, 150.0)  # 149.5 … 250.5, 99.5 … 200.5
    alpha = opened(photo, alignment, None)
    assert (edges(alpha), edges(alpha.T)) == ((150, 250), (100, 200))
    letterbox = replace(alignment, detector="letterbox", box=(150.0, 130.0, 250.0, 169.0))
    alpha = opened(photo, letterbox, None)
    assert (edges(alpha), edges(alpha.T)) == ((150, 250), (130, 169))


def edges(alpha: np.ndarray) -> tuple[int, int]:
    """The first and the last column that may change."""
    columns = np.flatnonzero(alpha.any(0))
    return int(columns[0]), int(columns[-1])


def test_the_photo_s_border_is_no_edge() -> None:
    """The crop reaches over two sides of the photo; there the edit goes on to the last pixel."""
    photo = photo_of(texture(160, 180))
    alpha = opened(photo, crop_at(160, 40, 40), None)
    assert (alpha[:60, 0] == 1).all()
    assert (alpha[0, :60] == 1).all()
    assert alpha[40, 119] < 0.15  # the crop's own edge is at 119.5
    assert (alpha[:, 121:] == 0).all()


def test_a_crop_over_the_whole_photo_has_no_edge() -> None:
    alpha = opened(photo_of(texture(60, 80)), crop_at(400, 40, 30), None)
    assert (alpha == 1).all()


def test_content_from_beyond_the_border_repeats_the_edge() -> None:
    photo = photo_of(texture(160, 160, grain=2))
    after = run(photo, crop_at(192, 79.5, 79.5), picture(), picture(3, 0), None).photo.pixels
    assert np.abs(after[30:130, 0:4].astype(int) - photo.pixels[30:130, :1]).mean() < 2


@pytest.mark.parametrize("motion", [(0, -6), (-6, 0), (0, 6), (6, 0)])
def test_a_last_tile_that_comes_all_from_beyond_the_border(
    motion: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tile or a mask of a few pixels at the photo's border, moved by more than its size."""
    photo = photo_of(texture(160, 160, grain=2))
    place = crop_at(320, 79.5, 79.5)  # 6 pixels of the picture are 30 of the photo
    wanted = run(photo, place, picture(), picture(*motion), None).photo.pixels
    monkeypatch.setattr(MODULE, "TILE", 2)
    np.testing.assert_array_equal(run(photo, place, picture(), picture(*motion), None).photo.pixels, wanted)
    mask = np.zeros((160, 160), np.float32)
    edge = {(0, -6): np.s_[-3:, :], (-6, 0): np.s_[:, -3:], (0, 6): np.s_[:3, :], (6, 0): np.s_[:, :3]}[motion]
    mask[edge] = 1
    run(photo, place, picture(), picture(*motion), mask)


@pytest.mark.parametrize("tile", [32, 10_000])
def test_tiles_do_not_show(tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    photo = photo_of(texture(600, 300), 4)
    place, pictures = crop_at(500, 150, 300, degrees=7), (picture(), picture(1, 2, spot=40))
    mask = disc(600, 300, 150, 300, 280)
    assert TILE < 550
    wanted = run(photo, place, *pictures, mask).photo.pixels
    monkeypatch.setattr(MODULE, "TILE", tile)
    np.testing.assert_array_equal(run(photo, place, *pictures, mask).photo.pixels, wanted)


def test_progress_counts_to_its_total() -> None:
    told: list[int] = []

    class Told(Silent):
        def begin(self, name: str, total: int) -> None:
            assert name == "composite"
            told.append(-total)

        def step(self, done: int, note: str = "") -> None:
            told.append(done)

        def end(self) -> None:
            told.append(0)

    photo = photo_of(texture(600, 100))
    stage(photo, crop_at(600, 50, 300), picture(), picture(1), None, SETTINGS, carry=carry_into(photo), progress=Told())
    assert told == [-2, 1, 2, 0]


def test_a_pixel_outside_the_mask_is_refused() -> None:
    photo = photo_of(texture(40, 50), 3, np.uint16)
    after = photo.pixels.copy()
    allowed = disc(40, 50, 25, 20, 10).astype(np.uint8)
    after[20, 25, 1] ^= 1
    assert verified(photo, after, allowed).changed == (25, 20, 25, 20)
    after[2, 3, 1] = photo.pixels[2, 3, 1] - 300  # also where unsigned numbers would wrap
    with pytest.raises(WorkError, match="outside the mask would change by 300"):
        verified(photo, after, allowed)


def test_a_stage_that_errs_writes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """If blending ever left the mask, the edit would be refused rather than shown."""
    monkeypatch.setattr(
        MODULE,
        "blending",
        lambda *given: np.ones((given[-1][3] - given[-1][1], given[-1][2] - given[-1][0]), np.float32),
    )
    photo = photo_of(texture(90, 120))
    with pytest.raises(WorkError, match="outside the mask"):
        run(photo, crop_at(80, 60, 45), picture(), picture(2), disc(90, 120, 60, 45, 20))
