"""What lies in the store of latents, for people: listing it, naming entries as people do, files out and in.

A latent is bound to a crop, a model and settings by its key. An entry that was exported brings its key along. Another
program's latent has none: it is given the one that `invert` would use for a photo, and is found by the next edit of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from realdrag.conversion import check_file, is_safetensors, mapped
from realdrag.errors import InputError, WorkError
from realdrag.store import DamagedError, Store, read_entry, read_header, what_matters
from realdrag.values import Alignment, Latent

if TYPE_CHECKING:
    from realdrag.api import Editor
    from realdrag.settings import InversionSettings

UNKNOWN = "?"  # what an entry of an earlier version, or another program's, does not say
SHORT = 12  # characters of a key that people see
SHORTEST = 4  # that they may type
KEY = "[0-9a-f]{64}"
FILES = re.compile(rf"({KEY})\.(safetensors|part\.safetensors|damaged-\d+)")
THUMBNAIL = 96  # px
TOLD = ("photo", "photo_sha256", "model", "preset", "origin")
MEASURED = ("lpips", "psnr", "ssim")


@dataclass(frozen=True)
class Row:
    """One file of the store. state: "latent", "damaged" or "unfinished" (an interrupted optimisation's checkpoint).

    Times are seconds since 1970; created: of an unfinished one, its last checkpoint. Metrics are None where not known.
    preset: whose inversion settings these were, "own" if no preset's. origin: the file it was imported from, or "".
    fault: what is wrong with a damaged one, where that is known. thumbnail: path of a small PNG, if it could be made.
    """

    key: str
    state: str
    path: str
    bytes: int
    created: float
    used: float
    photo: str = UNKNOWN
    photo_sha256: str = UNKNOWN
    model: str = UNKNOWN
    model_sha256: str = UNKNOWN
    preset: str = UNKNOWN
    loss: str = UNKNOWN
    lpips: float | None = None
    psnr: float | None = None
    ssim: float | None = None
    origin: str = ""
    fault: str = ""
    thumbnail: str | None = None

    @property
    def short(self) -> str:
        """The key as people see and type it."""
        return self.key[:SHORT]


def files(store: Store) -> Iterator[tuple[str, str, Path]]:
    """Key, kind ("safetensors", "part.safetensors", "damaged-N") and path of everything that is a latent's."""
    with contextlib.suppress(FileNotFoundError), os.scandir(store.folder) as found:
        for item in found:
            if match := FILES.fullmatch(item.name):
                yield match[1], match[2], Path(item.path)


def rows(store: Store, *, check: bool = False) -> list[Row]:
    """Everything in the store, what was used last first. check: read the entries whole and compare checksums."""
    found = []
    for key, kind, path in files(store):
        with contextlib.suppress(FileNotFoundError):  # gone meanwhile
            if kind == "safetensors":
                found.append(_row(store, key, path, check=check))
            else:
                facts = path.stat()
                state = "unfinished" if kind == "part.safetensors" else "damaged"
                found.append(Row(key, state, str(path), facts.st_size, facts.st_mtime, facts.st_mtime))
    return sorted(found, key=lambda row: (-row.used, row.key, row.path))


def _row(store: Store, key: str, path: Path, *, check: bool) -> Row:
    facts = path.stat()
    row = Row(key, "latent", str(path), facts.st_size, facts.st_mtime, facts.st_mtime)
    try:
        if check:
            read_entry(path, key)
        header = read_header(path)
        if header["key"] != key:
            raise DamagedError("it holds another latent")
        about, metrics = json.loads(header.get("about", "{}")), json.loads(header["metrics"])
        told: dict[str, Any] = {k: str(about[k]) for k in TOLD if k in about}
        told |= {k: metrics[k] for k in MEASURED if isinstance(metrics.get(k), float)}
    except (DamagedError, OSError, ValueError, TypeError, AttributeError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        return replace(row, state="damaged", fault=" ".join(str(error).split()))
    told |= {"model_sha256": header["model_sha256"], "loss": header["loss"]}
    created = _seconds(header.get("created", ""), row.created)
    return replace(row, created=created, thumbnail=thumbnail(store, key), **told)


def _seconds(created: str, otherwise: float) -> float:
    import datetime

    try:
        return datetime.datetime.fromisoformat(created).timestamp()
    except ValueError:
        return otherwise


def thumbnail(store: Store, key: str) -> str | None:
    """A small PNG of the entry's picture, made now if there is none; None where that cannot be done."""
    path = store.thumbnail(key)
    with contextlib.suppress(OSError):
        if path.stat().st_size:
            return str(path)
    from PIL import Image
    from safetensors import SafetensorError, safe_open

    from realdrag.store import owned, unpacked, write_whole

    try:
        with safe_open(store.path(key), "np") as file:
            image = Image.fromarray(unpacked(file.get_tensor("picture")))
        image.thumbnail((THUMBNAIL, THUMBNAIL))
        owned(path.parent, store.folder.stat().st_mode & 0o2777)
        write_whole(path, _png(image), sync=False)
    except (
        SafetensorError,
        OSError,
        ValueError,
        TypeError,
        KeyError,
        WorkError,
        DamagedError,
    ):  # a full disk, no entry after all
        return None
    return str(path)


def _png(image: Any) -> bytes:
    import io

    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def resolve(store: Store, given: str) -> str:
    """The key that begins with `given`, of whatever is in the store. InputError for none, and for several."""
    start = given.lower()
    keys = sorted({key for key, _, _ in files(store) if key.startswith(start)}) if len(start) >= SHORTEST else []
    if len(keys) == 1:
        return keys[0]
    if keys:
        several = ", ".join(key[:SHORT] for key in keys[:4]) + (", …" if len(keys) > 4 else "")
        raise InputError(f"{given!r} is the beginning of {len(keys)} keys: {several}", "give more of it", code="key")
    hint = f"give at least {SHORTEST} characters" if len(start) < SHORTEST else "`realdrag latents list` shows them"
    raise InputError(f"no latent's key begins with {given!r}", hint, code="key")


def preset_name(settings: InversionSettings) -> str:
    """The preset whose settings make the same latent; "own" if none does."""
    from realdrag.presets import names, preset_settings

    wanted = what_matters(settings)
    return next((name for name in names() if what_matters(preset_settings(name).inversion) == wanted), "own")


def notes(editor: Editor, latent: Latent) -> dict[str, str]:
    """What the store keeps with a latent of this editor, for people."""
    preset = preset_name(editor.settings.inversion)
    return {"model": editor.model.name, "loss": latent.loss, "preset": preset}


# Out


def export(store: Store, keys: Sequence[str], output: Path) -> list[Path]:
    """The entries themselves, as files: one as `output`, several (or one) in the folder `output`, named by their keys.

    InputError, before anything is written, for a key without a sound entry and an output that cannot be.
    """
    from realdrag.photo import write_bytes

    folder = output.is_dir()
    if len(keys) > 1 and not folder:
        raise InputError(f"{output}: is no folder, and {len(keys)} latents are {len(keys)} files", "make it first")
    if not folder and output.suffix != ".safetensors":
        raise InputError(f"{output}: must end in .safetensors", "that is what is written")
    targets = [output / f"{key[:SHORT]}.safetensors" if folder else output for key in keys]
    if targets and targets[0].parent.resolve() == store.folder.resolve():
        raise InputError(f"{output}: is the store itself", "choose another folder", code="overwrite")
    for key in keys:
        _sound_bytes(store, key)
    for key, target in zip(keys, targets, strict=True):
        write_bytes(_sound_bytes(store, key), target)
    return targets


def _sound_bytes(store: Store, key: str) -> bytes:
    path = store.path(key)
    try:
        read_entry(path, key)
        return path.read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"{key[:SHORT]} is not a finished latent", "`realdrag latents list` shows them") from error
    except DamagedError as error:
        raise WorkError(f"{key[:SHORT]} is damaged: {error}", "invert the photo again") from error


# In


@dataclass(frozen=True)
class Imported:
    """What became of a file. already: the same latent was there. latent: None for an entry that was exported."""

    file: str
    key: str
    already: bool
    latent: Latent | None = None


def is_entry(file: Path) -> bool:
    """Whether a file looks like an exported entry; its content decides, not its name."""
    check_file(file)
    return is_safetensors(file)


def import_entry(store: Store, file: Path) -> Imported:
    """Puts an exported entry under its key, if it is sound. InputError for anything else; none is written over."""
    check_file(file)
    try:
        key = read_header(file)["key"]
        if not re.fullmatch(KEY, key):
            raise DamagedError("its key is none")
        if not np.isfinite(read_entry(file, key).w_plus).all():
            raise DamagedError("it holds numbers that are not finite")
        data = file.read_bytes()
    except DamagedError as error:
        raise InputError(f"{file}: is no sound latent: {error}", "export it again", code="damaged") from error
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror or error}") from error
    with store.lock(key):
        if store.get(key) is not None:
            return Imported(str(file), key, already=True)
        store.put_bytes(key, data)
        if store.get(key) is None:  # the disk gave back something else, or the file changed meanwhile
            raise WorkError(f"{file}: what was stored is not what was read", "try again")
        store.checkpoint(key).clear()
    return Imported(str(file), key, already=False)


def read_foreign(editor: Editor, file: Path, index: int | None) -> npt.NDArray[np.float32]:
    """Another program's latent as the editor's model takes it, [num_ws, w_dim]. Needs no torch. Raises InputError."""
    from realdrag.stylegan.latents import fitted, read_latents
    from realdrag.weights import model_config

    found, config = read_latents(mapped(file), str(file)), model_config(editor.model)
    return fitted(found, config.num_ws, config.w_dim, index, str(file))


def import_foreign(
    editor: Editor, file: Path, w_plus: npt.NDArray[np.float32], alignment: Alignment, about: Mapping[str, str]
) -> Imported:
    """Stores what `read_foreign` read as the latent of the crop, where `invert` with these settings looks for it.

    InputError if another latent is there already.
    """
    key, store = editor.latent_key(alignment.crop), editor.store
    with store.lock(key):
        if (there := store.get(key)) is not None:
            if np.array_equal(there.w_plus, w_plus):
                return Imported(str(file), key, already=True, latent=there)
            hint = f"forget it first: `realdrag latents rm {key[:SHORT]}`"
            raise InputError(f"{file}: the photo has another latent with these settings", hint, code="exists")
        latent = rendered(editor, alignment.crop, w_plus)
        store.put(key, latent, notes(editor, latent) | dict(about) | {"origin": file.name})
        store.checkpoint(key).clear()
    return Imported(str(file), key, already=False, latent=latent)


def rendered(editor: Editor, crop: npt.NDArray[np.uint8], w_plus: npt.NDArray[np.float32]) -> Latent:
    """A latent with the picture that the editor's model makes of it, measured against the crop.

    Says so where the model's mean picture is nearer to the crop: then it is hardly this photo's.
    """
    import torch

    from realdrag.devices import pick, threads
    from realdrag.geometry import resize
    from realdrag.inversion.projection import measure
    from realdrag.stylegan import to_picture
    from realdrag.weights import load_perceptual

    device, generator = pick(editor.device), editor.generator
    perceptual = load_perceptual(editor.loss, device)
    target = np.ascontiguousarray(resize(crop, editor.resolution))
    mean = generator.mapping.w_avg.expand(1, len(w_plus), -1)
    with torch.no_grad(), threads(editor.threads):
        levels = generator.synthesize(torch.from_numpy(w_plus)[None].to(device))
        if not levels.isfinite().all():
            raise InputError("the model makes no picture of this latent", "was it made with another model?")
        picture = to_picture(levels)
        metrics = measure(picture, target, perceptual)
        of_mean = measure(to_picture(generator.synthesize(mean)), target, perceptual)
    name = "lpips" if metrics["lpips"] is not None else "psnr"
    ours, means = metrics[name], of_mean[name]
    if ours is not None and means is not None and (ours > means if name == "lpips" else ours < means):
        editor.progress.say(
            f"the model's mean picture is nearer to the photo than this latent's ({name} {means} against {ours}): "
            "is it another photo's, or another crop's?"
        )
    return Latent(w_plus, None, picture, editor.model.sha256, perceptual.name, metrics)
