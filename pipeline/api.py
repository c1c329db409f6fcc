"""realdrag from Python: `edit` does it all, an `Editor` does it stage by stage with the model loaded once.

import realdrag

realdrag.edit("me.jpg", "smile.jpg", [((230, 180), (226, 174))], mask="mouth.png")
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from realdrag import photo as photos
from realdrag.devices import Device, check_precision, pick, pick_precision
from realdrag.errors import InputError, WorkError
from realdrag.geometry import Points, cut_off, resize_matrix, transform, warp
from realdrag.progress import Progress, Silent
from realdrag.settings import Aligner, Settings
from realdrag.values import Alignment, Drag, Edit, Latent, Moment, Photo, Result

if TYPE_CHECKING:
    from PIL.Image import Image

    from realdrag.align import Detector, Face, Looked
    from realdrag.inversion import Spread
    from realdrag.store import Store
    from realdrag.stylegan import Generator
    from realdrag.weights import ModelFile

Source: TypeAlias = "str | os.PathLike[str] | npt.NDArray[Any] | Image"
Point = tuple[float, float]
Box = tuple[float, float, float, float]

# Up to this size one thread is as fast as two, and many times faster beside other work: the operations are so short
# that threads mostly wait for each other (measured on two cores; VGG and AlexNet are another matter).
SMALL_MODEL = 128


def open(source: Source) -> Photo:
    """A photo from a path, an array [h, w] or [h, w, 1..4] of uint8 or uint16, or a PIL image.

    Raises InputError for what is no photo, is cut short, or is too large.
    """
    if isinstance(source, (str, os.PathLike)):
        return photos.read(source)
    return photos.from_array(source) if isinstance(source, np.ndarray) else photos.from_image(source)


def save(result: Result | Photo, path: str | os.PathLike[str], *, format: str | None = None) -> None:  # noqa: A002
    """Write a photo as `format` ("jpeg", "png", "tiff", "webp"), else as the suffix says.

    Atomic: the file is replaced whole or not at all.
    """
    photos.write(result.photo if isinstance(result, Result) else result, path, kind=format)


def edit(
    photo: Source | Photo,
    output: str | os.PathLike[str] | None,
    drags: Sequence[tuple[Point, Point]] = (),
    *,
    moves: Mapping[str, float] | None = None,
    snap: bool = False,
    strength: float | None = None,
    mask: Source | None = None,
    preset: str | None = None,
    model: str | None = None,
    face: int | None = None,
    box: Box | None = None,
    whole: bool = False,
    work: str | os.PathLike[str] | None = None,
    film: str | os.PathLike[str] | None = None,
    plot: str | os.PathLike[str] | None = None,
    report: str | os.PathLike[str] | None = None,
    recipe: str | os.PathLike[str] | None = None,
    save_recipe: str | os.PathLike[str] | None = None,
    format: str | None = None,  # noqa: A002
    progress: Progress | None = None,
) -> Edit:
    """Drag points of a real photo and put the result back into it, all else the same to the bit.

    photo: path, array, PIL image or Photo. output: where to write the result, or None; format: as for `save`.
    drags: (handle, target) pairs, (x, y) in photo pixels. mask: of the photo's size, white may move.
    moves: named drags, {"smile": 0.5}; see `Editor.moves`. snap: `drags` start at the nearest landmarks.
    strength: 0 (the photo itself) … 1 (the drag as it ended, the default) … 1.5 (beyond).
    face: K-th largest; box: a face box x0, y0, x1, y1; whole: the largest centred square as it is.
    preset: None takes the config file's, else "balanced".
    work: folder to keep every stage's values in. The inverted latent is kept anyway and found again.
    film, plot: files to show the drag in, report: the inversion; see `Editor.film`, `Editor.plot`, `Editor.report`.
    recipe: a file that says what to drag and with which settings, instead of `drags`, `moves`, `snap`, `mask` and
    `preset`. save_recipe: where to write this edit's; on the same photo it gives the same bytes.
    """
    from realdrag.editing import run_edit, step_of
    from realdrag.presets import load
    from realdrag.recipe import read
    from realdrag.replay import box_on, editor_of, steps_on

    opened = photo if isinstance(photo, Photo) else open(photo)
    if recipe is None:
        editor = Editor(model=model, settings=load(preset)[1], progress=progress)
        steps = [step_of(opened, drags, moves, snap, mask, 1.0 if strength is None else strength)]
    else:
        if drags or moves or snap or mask is not None or preset is not None:
            raise InputError("a recipe says what to drag and with which settings", "give either", code="usage")
        made = read(recipe)
        editor, steps = editor_of(made, model=model, progress=progress), steps_on(made, opened, strength=strength)
        if face is None and box is None and not whole:
            face, box, whole = made.face, box_on(made, opened), made.whole
    return run_edit(
        editor,
        opened,
        steps,
        output=output,
        kind=format,
        source=photo,
        others=[mask, recipe],
        film=film,
        plot=plot,
        report=report,
        save_recipe=save_recipe,
        face=face,
        box=box,
        whole=whole,
        work=work,
    )


class _Held:
    """Progress that keeps what is said until it is let go; bars go through."""

    def __init__(self, progress: Progress) -> None:
        self.begin, self.step, self.end = progress.begin, progress.step, progress.end
        self.lines: list[str] = []

    def say(self, message: str) -> None:
        self.lines.append(message)


class Editor:
    """The four stages with one model and one set of settings; networks are loaded when first needed, once.

    model: an embedded model's name, one of `models list`, a checkpoint's path, or None: the default.
    device: "auto", "cpu", "cuda", "mps". threads: None takes what suits the model. precision of the generator's
    convolutions: "auto", "fp32", "bf16", "fp16" (see `resolved_precision`; how far each is from fp32: `Generator`).
    store: where latents are kept; None is the user's own.
    """

    def __init__(
        self,
        *,
        model: str | None = None,
        settings: Settings | None = None,
        device: str = "auto",
        threads: int | None = None,
        precision: str = "auto",
        store: Store | None = None,
        progress: Progress | None = None,
    ) -> None:
        if threads is not None and threads < 1:
            raise InputError(f"{threads} threads are too few", "give at least 1")
        if device not in get_args(Device):
            raise InputError(f"unknown device {device!r}", f"one of {', '.join(get_args(Device))}")
        if device not in ("auto", "cpu"):
            pick(device)
        check_precision(precision, device)
        self.settings = settings or Settings()
        self.progress = progress or Silent()
        self.device, self.threads, self.precision = device, threads, precision
        self._model_name, self._store = model, store
        self._looked: dict[str, Looked] = {}  # sha256 of the photo that was looked at last

    @cached_property
    def model(self) -> ModelFile:
        """The generator's file."""
        from realdrag.weights import resolve_model

        return resolve_model(self._model_name, self.progress)

    @cached_property
    def store(self) -> Store:
        """The store of latents."""
        from realdrag.store import Store

        return self._store or Store(progress=self.progress)

    @cached_property
    def resolution(self) -> int:
        """Side of the generator's picture, from the file's header alone."""
        from realdrag.weights import model_resolution

        return model_resolution(self.model)

    @cached_property
    def model_aligner(self) -> Aligner:
        """The square that the model was trained to see, from the file's header alone."""
        from realdrag.library import model_aligner

        return model_aligner(self.model)

    @property
    def aligner(self) -> Aligner:
        """The aligner in force: the one that the settings name, else the model's own."""
        chosen = self.settings.align.aligner
        return self.model_aligner if chosen == "auto" else chosen

    @cached_property
    def resolved_precision(self) -> str:
        """ "fp32", "bf16" or "fp16": what computes.

        `auto` is fp16 on CUDA, bf16 on a processor with fast bf16 for models above 128 px, fp32 elsewhere.
        """
        return pick_precision(self.precision, pick(self.device), small=self.resolution <= SMALL_MODEL)

    @cached_property
    def generator(self) -> Generator:
        """The base generator, never changed."""
        import torch

        from realdrag.weights import load_generator

        generator = load_generator(self.model, pick(self.device))
        dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
        generator.dtype = dtypes[self.resolved_precision]
        return generator

    @cached_property
    def spread(self) -> Spread:
        """Where the generator's own latents lie."""
        from realdrag.devices import threads
        from realdrag.inversion import Spread

        with threads(self._threads()):
            return Spread(self.generator)

    @cached_property
    def loss(self) -> str:
        """The perceptual loss that is really used: "vgg", "alex", "squeeze" or "embedded"."""
        from realdrag.weights import find_backbone

        return find_backbone(self.settings.inversion.perceptual, self.progress)

    @contextmanager
    def notes_held(self) -> Iterator[None]:
        """What is said inside is told once the block ends well: of a refused input the user reads one line."""
        teller, held = self.progress, _Held(self.progress)
        self.progress = held
        try:
            yield
        finally:
            self.progress = teller
        for line in held.lines:
            teller.say(line)

    def check_block(self) -> None:
        """InputError, before any work, for a damaged model or a feature block that it does not have."""
        from realdrag.drag.drag import choose_block

        choose_block(self.generator, self.settings.drag.block)

    def align(self, photo: Photo, *, face: int | None = None, box: Box | None = None, whole: bool = False) -> Alignment:
        """Find a face (the largest, or number `face` from 1, or in `box`) and its FFHQ crop.

        Under the aligners "square" and "letterbox" no face is looked for, and `box` is what the crop holds.
        Raises NoFaceError when there is none, InputError for a box or number that fits nothing.
        """
        from realdrag.align import FACELESS, align

        rgb, size, aligner = photos.to_srgb(photo), self.resolution, self.aligner
        if whole or aligner in FACELESS:
            return align(rgb, None, model_resolution=size, face=face, box=box, whole=whole, aligner=aligner)
        with self._looking() as detector:
            seen = self._looked.get(photo.sha256) or detector
            return align(rgb, seen, model_resolution=size, face=face, box=box, aligner=aligner)

    def faces(self, photo: Photo) -> list[Face]:
        """The faces of a photo, the largest first, as `align` numbers them; none under an aligner without faces.

        They are remembered until another photo is looked at, so that `align` need not look again.
        """
        from realdrag.align import FACELESS, Looked

        if self.aligner in FACELESS:
            return []
        if photo.sha256 not in self._looked:
            with self._looking() as detector:
                self._looked = {photo.sha256: Looked.at(photos.to_srgb(photo), detector)}
        return list(self._looked[photo.sha256].faces)

    @contextmanager
    def _looking(self) -> Iterator[Detector]:
        """The detector of the settings, with the threads that suit it."""
        from realdrag.devices import threads

        detector = self._detector()
        # A look of the embedded one takes milliseconds: two threads wait for each other.
        with threads(self.threads or 1) if detector.name == "embedded" else nullcontext():
            yield detector

    def _detector(self) -> Detector:
        from realdrag.align import CascadeDetector, EmbeddedDetector, FanDetector
        from realdrag.weights import fan_ready, load_landmarks

        wanted = self.settings.align.detector
        if wanted == "cascade":
            return CascadeDetector()
        if wanted == "embedded" or (wanted == "auto" and not fan_ready(self.progress)):
            return EmbeddedDetector(load_landmarks())
        if wanted == "fan" and not fan_ready(self.progress):
            raise InputError("face-alignment's weights are not there", "take --detector auto, or see `realdrag doctor`")
        from realdrag.devices import quiet_torchvision

        with quiet_torchvision():
            return FanDetector(str(pick(self.device)))

    def latent_key(self, crop: npt.NDArray[np.uint8]) -> str:
        """The store's key of this crop under this model and these settings."""
        from realdrag.devices import kind
        from realdrag.store import latent_key
        from realdrag.weights import loss_identity

        extra = {
            "loss": loss_identity(self.loss),
            "precision": self.resolved_precision,
            "device": kind(self.device),
            "encoder": self.model.encoder_sha256 or "",
        }
        return latent_key(crop, self.model.sha256, self.settings.inversion, extra)

    def invert(
        self,
        alignment: Alignment,
        *,
        about: Mapping[str, str] | None = None,
        watch: Callable[[npt.NDArray[np.float32]], None] = lambda w_plus: None,
    ) -> tuple[Latent, bool]:
        """The crop's latent, and whether it was found in the store (then nothing was optimised).

        Interrupted work goes on where it stopped; a second process on the same crop waits for the first.
        about: notes for `latents list`, kept with a new latent: "photo" (its name), "photo_sha256".
        watch: told w_plus [num_ws, w_dim] after each step of the projection.
        """
        key = self.latent_key(alignment.crop)
        if (found := self.store.get(key, self.latent_fault)) is not None:
            return found, True
        with self.store.lock(key):
            if (found := self.store.get(key, self.latent_fault)) is not None:
                return found, True
            from realdrag.devices import threads
            from realdrag.inversion import invert
            from realdrag.latents import notes
            from realdrag.weights import load_encoder, load_perceptual

            device = pick(self.device)
            checkpoint = self.store.checkpoint(key)
            with threads(self._threads(small_loss=self.loss in ("squeeze", "embedded"))):
                latent = invert(
                    alignment.crop,
                    self.generator,
                    load_encoder(self.model, device),
                    load_perceptual(self.loss, device),
                    self.spread,
                    self.settings.inversion,
                    model_sha256=self.model.sha256,
                    progress=self.progress,
                    checkpoint=checkpoint,
                    watch=watch,
                )
            if fault := self.latent_fault(latent):
                raise WorkError(f"the inversion diverged: {fault}", "take a lower lr or tune_lr")
            self.store.put(key, latent, notes(self, latent) | dict(about or {}))
            checkpoint.clear()
        return latent, False

    def latent_fault(self, latent: Latent) -> str:
        """Why `latent` cannot be one of this model's, in words; "" where it can."""
        from realdrag.stylegan import delta_fault
        from realdrag.weights import model_config

        if latent.model_sha256 != self.model.sha256:
            return "it is another model's"
        config = model_config(self.model)
        side = config.img_resolution
        if latent.w_plus.shape != (config.num_ws, config.w_dim) or not np.isfinite(latent.w_plus).all():
            return "w_plus does not fit the model"
        if latent.picture.shape != (side, side, 3) or latent.picture.dtype != np.uint8:
            return "its picture does not fit the model"
        if not isinstance(latent.metrics, dict):
            return "it has no metrics"
        return delta_fault(config, latent.delta or {})

    def _threads(self, *, small_loss: bool = True) -> int | None:
        return self.threads or (1 if self.resolution <= SMALL_MODEL and small_loss else None)

    def drag(
        self,
        photo: Photo,
        alignment: Alignment,
        latent: Latent,
        drags: Sequence[tuple[Point, Point]],
        *,
        mask: npt.NDArray[np.float32] | None = None,
        previous: Drag | None = None,
        cancelled: Callable[[], bool] = lambda: False,
        watch: Callable[[Moment], None] = lambda moment: None,
    ) -> Drag:
        """Move what is at each handle to its target; both (x, y) in photo pixels.

        mask: [h, w] 0..1 of the photo, 1 may move. previous: go on from there, at its strength.
        cancelled: asked once a step. watch: told of every step.
        Raises InputError for a handle or target outside the photo or the crop, or a handle where nothing may move.
        """
        from realdrag.devices import threads
        from realdrag.drag import drag
        from realdrag.stylegan import with_delta

        handles = np.array([h for h, _ in drags], np.float64).reshape(-1, 2)
        targets = np.array([t for _, t in drags], np.float64).reshape(-1, 2)
        check_points(handles, targets, photo.size, alignment, mask)
        with threads(self._threads()):
            return drag(
                latent,
                with_delta(self.generator, latent.delta),
                handles,
                targets,
                to_model=resize_matrix(alignment.size, self.resolution) @ alignment.to_crop,
                movable=None if mask is None else mask_of_crop(mask, alignment),
                settings=self.settings.drag,
                progress=self.progress,
                previous=previous,
                cancelled=cancelled,
                watch=watch,
            )

    def painter(
        self, alignment: Alignment, latent: Latent, mask: npt.NDArray[np.float32] | None = None
    ) -> Callable[[npt.NDArray[np.float32]], npt.NDArray[np.uint8]]:
        """What a drag's latents show while it is under way: from w_plus [num_ws, w_dim] to [r, r, 3] uint8.

        mask: [h, w] 0..1 of the photo, the drag's.
        """
        from realdrag.devices import threads
        from realdrag.drag import LOOPS, choose_block, levels, painter
        from realdrag.stylegan import with_delta

        generator, settings = with_delta(self.generator, latent.delta), self.settings.drag
        held = mask is not None and LOOPS[settings.method].holds
        movable = levels(mask_of_crop(mask, alignment), generator) if mask is not None and held else None
        with threads(self._threads()):
            return painter(generator, latent.w_plus, movable, choose_block(generator, settings.block))

    def moves(self, alignment: Alignment, moves: Mapping[str, float]) -> list[tuple[Point, Point]]:
        """The drags that named moves come to on this face: (handle, target) pairs, (x, y) in photo pixels.

        moves: name → number, as {"smile": 0.5, "turn": -5}; `realdrag moves` lists names, units and ranges. The pairs
        are for `drag`, as they are or changed. Raises InputError for an unknown name, a number out of its range, and an
        alignment without landmarks.
        """
        from realdrag.placing import move_drags

        return move_drags(moves, alignment)

    def snap(self, alignment: Alignment, drags: Sequence[tuple[Point, Point]]) -> list[tuple[Point, Point]]:
        """The drags with each handle at its nearest landmark and its target moved along; (x, y) in photo pixels.

        A handle farther than a quarter of the distance of the eyes from every landmark stays, and that is told to
        `progress`. Raises InputError for an alignment without landmarks.
        """
        from realdrag.placing import snap_drags

        return snap_drags(drags, alignment, self.progress)

    def at_strength(self, latent: Latent, drag: Drag, strength: float) -> Drag:
        """The same drag at another strength: its picture and where its handles are; nothing is dragged again.

        strength: 0 (the inversion) … 1 (where the drag was nearest) … 1.5 (on in its last direction), in shares of the
        way through W+, that of earlier drags that it goes on from included. Raises InputError for any other.
        """
        from realdrag.devices import threads
        from realdrag.drag import at_strength
        from realdrag.stylegan import with_delta

        with threads(self._threads()):
            return at_strength(drag, with_delta(self.generator, latent.delta), strength)

    def at_step(self, latent: Latent, drag: Drag, step: int) -> Drag:
        """The same drag as it was at `step`, 0 … `drag.steps`: its picture and where its handles were.

        Nothing is dragged again; a drag is a value, so to undo one keep the one before. Raises InputError for a step
        that there was not.
        """
        from realdrag.devices import threads
        from realdrag.drag import at_step
        from realdrag.stylegan import with_delta

        with threads(self._threads()):
            return at_step(drag, with_delta(self.generator, latent.delta), step)

    def moments(self, latent: Latent, drag: Drag, most: int = 60) -> list[tuple[npt.NDArray[np.uint8], Points]]:
        """What the drag went through, from the inversion to its strength: at most `most` of its steps, evenly.

        Of each the model's picture, [r, r, 3] uint8, and where the handles were found, [k, 2] photo pixels.
        """
        from realdrag.devices import threads
        from realdrag.drag import pictures, way_to
        from realdrag.stylegan import with_delta

        latents, places = way_to(drag)
        steps = sorted({round(k) for k in np.linspace(0, len(latents) - 1, min(len(latents), most))})
        with threads(self._threads()):
            shown = pictures(drag, with_delta(self.generator, latent.delta), latents[steps])
        return list(zip(shown, places[steps], strict=True))

    def film(
        self,
        alignment: Alignment,
        latent: Latent,
        drag: Drag,
        path: str | os.PathLike[str],
        *,
        mask: npt.NDArray[np.float32] | None = None,
    ) -> None:
        """The drag as it went, on the photo's aligned crop, its points drawn: .mp4, .gif, or .png (a contact sheet).

        mask: [h, w] 0..1 of the photo, as for `composite`. Raises InputError for another suffix, a place where nothing
        can be written, and .mp4 without PyAV.
        """
        from realdrag.film import make_film

        make_film(self, alignment, latent, drag, path, mask)

    def report(self, alignment: Alignment, latent: Latent, path: str | os.PathLike[str]) -> None:
        """The inversion as a person judges it, .png: photo, picture, difference, the loss at each step, a verdict.

        Raises InputError for another suffix and a place where nothing can be written.
        """
        from realdrag.curves import check_plot
        from realdrag.inversion import draw
        from realdrag.photo_write import write_bytes

        check_plot(Path(path), (".png",))
        write_bytes(draw(alignment.crop, latent), path)

    def plot(self, drag: Drag, path: str | os.PathLike[str]) -> None:
        """Each handle's distance in photo pixels and the loss at each step, as .png, .svg or .pdf.

        Raises InputError for another suffix and a place where nothing can be written.
        """
        from realdrag.curves import make_plot

        make_plot(drag, path)

    def composite(
        self,
        photo: Photo,
        alignment: Alignment,
        inverted: npt.NDArray[np.uint8],
        dragged: npt.NDArray[np.uint8],
        mask: npt.NDArray[np.float32] | None = None,
    ) -> Result:
        """The change from `inverted` to `dragged` (`Latent.picture`, `Drag.picture`) carried back into the photo.

        The result's XMP says that it is edited: IPTC's DigitalSourceType.
        """
        from realdrag.composite import composite
        from realdrag.provenance import marked

        result = composite(
            photo,
            alignment,
            inverted,
            dragged,
            mask,
            self.settings.composite,
            carry=lambda pixels, change: photos.add_srgb_change(photo, pixels, change),
            progress=self.progress,
        )
        if result.changed is None:
            return result
        return replace(result, photo=replace(result.photo, xmp=marked(photo.xmp)))


def mask_of_crop(mask: npt.NDArray[np.float32], alignment: Alignment) -> npt.NDArray[np.float32]:
    """`mask` [h, w] 0..1 of the photo as the crop shows it, [size, size]; 0 in the bars of a letterbox."""
    levels = warp(np.rint(mask * 255).astype(np.uint8), alignment.to_crop, alignment.size)
    if alignment.shown is not None:
        levels = cut_off(levels, alignment.to_crop, alignment.shown)
    return levels.astype(np.float32) / np.float32(255)


def check_points(
    handles: Points,
    targets: Points,
    size: tuple[int, int],
    alignment: Alignment,
    mask: npt.NDArray[np.float32] | None,
) -> None:
    """InputError for the first point [n, 2] that cannot be used."""
    if not len(handles):
        raise InputError("there is nothing to drag", "give at least one --drag X,Y:X2,Y2 or --move NAME=NUMBER")
    if len(np.unique(handles, axis=0)) < len(handles):
        raise InputError("one point is to be dragged to two places", "give each handle once", code="point")
    width, height = size
    for what, points in (("handle", handles), ("target", targets)):
        for x, y in points:
            if not (-0.5 <= x < width - 0.5 and -0.5 <= y < height - 0.5):
                raise InputError(
                    f"{what} {x:g},{y:g} lies outside the photo",
                    f"the photo is {width} × {height}",
                    code="point",
                )
            crop_x, crop_y = transform(alignment.to_crop, np.array([[x, y]]))[0]
            left, top, right, bottom = alignment.shown or (x, y, x, y)
            seen = left - 0.5 <= x <= right + 0.5 and top - 0.5 <= y <= bottom + 0.5
            if not (seen and 0 <= crop_x <= alignment.size - 1 and 0 <= crop_y <= alignment.size - 1):
                raise InputError(
                    f"{what} {x:g},{y:g} lies outside the crop that the model sees",
                    "choose another --face or --box, or a point nearer to its middle",
                    code="point",
                )
    if mask is not None:
        for x, y in handles:
            if mask[round(y), round(x)] == 0:
                raise InputError(
                    f"handle {x:g},{y:g} lies where the mask lets nothing move",
                    "paint the mask white there, or give another --mask",
                    code="point",
                )
