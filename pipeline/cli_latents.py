"""`realdrag latents …`: the store of inverted faces: what is in it, files out and in, and forgetting."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from realdrag.cli_options import (
    AlignerOpt,
    BoxOpt,
    Common,
    ConfigOpt,
    DebugOpt,
    DetectorOpt,
    DeviceOpt,
    FaceOpt,
    JsonOpt,
    ModelOpt,
    PerceptualOpt,
    PrecisionOpt,
    PresetOpt,
    QuietOpt,
    SpaceOpt,
    ThreadsOpt,
    TuneOpt,
    WholeOpt,
    existing,
    inversion_flags,
    show,
)
from realdrag.errors import InputError

if TYPE_CHECKING:
    from realdrag.api import Editor
    from realdrag.forget import Removed
    from realdrag.latents import Imported, Row
    from realdrag.store import Store
    from realdrag.values import Alignment

latents = typer.Typer(
    name="latents", help="The inverted faces that are kept.", rich_markup_mode=None, add_completion=False
)

KeysArg = Annotated[list[str], typer.Argument(metavar="KEY", help="The beginning of a key that `latents list` shows.")]
SomeKeysArg = Annotated[
    list[str] | None, typer.Argument(metavar="KEY", help="The beginning of a key that `latents list` shows.")
]
CheckOpt = Annotated[bool, typer.Option("--check", help="Read every entry whole and compare its checksum.")]
TargetOpt = Annotated[
    Path, typer.Option("-o", "--output", metavar="FILE|FOLDER", help="X.safetensors; for several a folder.")
]
FilesArg = Annotated[list[Path], typer.Argument(metavar="FILE", help="What `export` wrote, or .npz, .npy, .pt.")]
PhotoOpt = Annotated[
    Path | None, typer.Option("--photo", metavar="PHOTO", help="The photo, or its aligned crop, of a foreign latent.")
]
FolderOpt = Annotated[
    Path | None, typer.Option("-w", "--work", metavar="WORK", help="Or the work folder in which it was aligned.")
]
IndexOpt = Annotated[
    int | None, typer.Option("--index", metavar="I", help="Which latent of a file with several, from 0.")
]
KeepSizeOpt = Annotated[
    str | None, typer.Option("--keep-size", metavar="2GB", help="Remove those used longest ago beyond this size.")
]
OlderOpt = Annotated[
    str | None, typer.Option("--older-than", metavar="90d", help="Remove those not used for so long: h, d or w.")
]
DryOpt = Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")]
AllOpt = Annotated[bool, typer.Option("--all", help="Every latent.")]
YesOpt = Annotated[bool, typer.Option("--yes", help="With --all: yes, every one.")]

HEADINGS = ("key", "photo", "model", "preset", "size", "age", "LPIPS", "thumbnail")


def opened(*, quiet: bool) -> Store:
    """The user's store."""
    from realdrag.store import Store
    from realdrag.terminal import TerminalProgress

    return Store(progress=TerminalProgress(quiet=quiet))


@latents.command("list")
def list_latents(
    check: CheckOpt = False, as_json: JsonOpt = False, quiet: QuietOpt = False, debug: DebugOpt = False
) -> None:
    """What is kept, used last first: of which photo, how large, how old, how like, and a small picture."""
    from realdrag.latents import rows

    store = opened(quiet=quiet)
    found = rows(store, check=check)
    total = sum(row.bytes for row in found)
    report = {"folder": str(store.folder), "bytes": total, "checked": check}
    report |= {"latents": [{"short": row.short} | asdict(row) for row in found]}
    show(report, as_json, *table(found), *([""] if found else []), closing(found, store.folder))


def closing(found: Sequence[Row], folder: Path) -> str:
    """What there is in all, and what to do about what is not sound."""
    states = [row.state for row in found]
    sound = states.count("latent")
    text = f"{plural(sound, 'latent')}, {amount(sum(row.bytes for row in found))} in {folder}"
    if unfinished := states.count("unfinished"):
        text += f"; {unfinished} unfinished: the same command goes on with it"
    if damaged := states.count("damaged"):
        text += f"; {damaged} damaged: made again when wanted, `realdrag latents prune` or `rm` removes it"
    return text


def table(found: Sequence[Row]) -> list[str]:
    """The entries one a line, in columns."""
    if not found:
        return []
    from realdrag.terminal import plain

    lines: list[tuple[str, ...]] = [HEADINGS]
    for row in found:
        sound = row.state == "latent"
        likeness = "" if not sound else "–" if row.lpips is None else f"{row.lpips:.3f}"
        preset = f"{row.preset} ({row.origin})" if row.origin else row.preset
        facts = (row.photo, row.model, preset) if sound else (f"({row.state})", "", "")
        place = row.thumbnail or ("" if sound else row.path)
        size, since = amount(row.bytes), age(time.time() - row.created)
        lines.append((row.short, *map(plain, facts), size, since, likeness, place))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    right = {HEADINGS.index(name) for name in ("size", "age", "LPIPS")}
    return [
        "  ".join(
            cell.rjust(width) if n in right else cell.ljust(width)
            for n, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]


def plural(count: int, what: str) -> str:
    """ "1 file", "2 files"."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def amount(size: float) -> str:
    """Bytes for people: "412 kB", "2.1 GB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 99.5 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def age(seconds: float) -> str:
    """A time for people: "5 s", "3 min", "2 h", "40 d"."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


@latents.command("export")
def export_latents(
    keys: KeysArg,
    output: TargetOpt,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
    debug: DebugOpt = False,
) -> None:
    """Write latents as files that `import` takes on another machine. A latent is a likeness of a face."""
    from realdrag.latents import export, resolve

    store = opened(quiet=quiet)
    chosen = list(dict.fromkeys(resolve(store, key) for key in keys))
    written = export(store, chosen, output)
    report = {"exported": [{"key": k, "file": str(file)} for k, file in zip(chosen, written, strict=True)]}
    show(report, as_json, *(f"{file}  {amount(file.stat().st_size)}" for file in written))


@latents.command("import")
def import_latents(
    files: FilesArg,
    photo: PhotoOpt = None,
    work: FolderOpt = None,
    index: IndexOpt = None,
    model: ModelOpt = None,
    aligner: AlignerOpt = None,
    detector: DetectorOpt = None,
    face: FaceOpt = None,
    box: BoxOpt = None,
    whole: WholeOpt = False,
    preset: PresetOpt = None,
    space: SpaceOpt = None,
    perceptual: PerceptualOpt = None,
    tune: TuneOpt = None,
    config: ConfigOpt = None,
    device: DeviceOpt = "auto",
    threads: ThreadsOpt = None,
    precision: PrecisionOpt = "auto",
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
    debug: DebugOpt = False,
) -> None:
    """Take in what `export` wrote; or another program's latent (.npz, .npy, .pt), given its --photo or -w WORK.

    The other flags are those that the edit will have: another preset or crop would have another latent.
    """
    from realdrag.latents import import_entry, is_entry

    ours = [is_entry(file) for file in files]
    if photo is None and work is None:
        if not all(ours):
            hint = "say of which photo: --photo PHOTO, or -w WORK where it was aligned"
            raise InputError(f"{files[ours.index(False)]}: another program's latent says nothing of its photo", hint)
        store = opened(quiet=quiet)
        done = [import_entry(store, file) for file in files]
        show(imported(done), as_json, *map(line, done))
        return
    if any(ours):
        raise InputError(f"{files[ours.index(True)]}: brings its own crop along", "leave --photo and -w out")
    if len(files) > 1 or (photo is not None and work is not None):
        raise InputError("one latent goes with one photo", "give one file, and --photo or -w")
    flags: dict[str, dict[str, object]] = {
        "align": {"aligner": aligner, "detector": detector},
        "inversion": inversion_flags(space, perceptual, tune),
    }
    editor = Common(config, device, threads, precision, quiet).editor(model, preset, flags)
    one = foreign(editor, files[0], index, photo, work, (face, box, whole))
    shown = one.latent.metrics if one.latent else {}
    figures = ", ".join(f"{name} {value}" for name, value in shown.items() if value is not None)
    place = str(photo or work)
    show(imported([one]), as_json, f"{line(one)}; of {place}: {figures}")


def foreign(
    editor: Editor,
    file: Path,
    index: int | None,
    photo: Path | None,
    work: Path | None,
    choice: tuple[int | None, str | None, bool],
) -> Imported:
    """Another program's latent, stored for the crop of a photo or work folder. choice: --face, --box, --whole."""
    from realdrag.latents import import_foreign, read_foreign

    w_plus = read_foreign(editor, file, index)  # first: it is quick and often wrong
    alignment, about = crop_of(editor, photo, work, choice)
    done = import_foreign(editor, file, w_plus, alignment, about)
    editor.progress.say(
        "NVIDIA's and PTI's projectors drop the noise maps that they optimised: the picture can differ from theirs"
    )
    return done


def crop_of(
    editor: Editor, photo: Path | None, work: Path | None, choice: tuple[int | None, str | None, bool]
) -> tuple[Alignment, dict[str, str]]:
    """The crop that a latent is of, and what the store notes of its photo."""
    from realdrag import photo as photos
    from realdrag.points import parse_box
    from realdrag.stages import aligned

    face, box, whole = choice
    if photo is None:
        if face is not None or box is not None or whole:
            raise InputError("the work folder is aligned already", "leave --face, --box and --whole out")
        folder = existing(work or Path())
        return aligned(editor, folder), folder.about_photo()
    face_box = parse_box(box)
    read = photos.read(photo)
    alignment = editor.align(read, face=face, box=face_box, whole=whole)
    return alignment, {"photo": read.name, "photo_sha256": read.sha256}


def imported(done: Sequence[Imported]) -> dict[str, object]:
    """As `--json` prints it."""
    return {
        "imported": [
            {"file": one.file, "key": one.key, "already": one.already}
            | ({} if one.latent is None else {"loss": one.latent.loss, "inversion": dict(one.latent.metrics)})
            for one in done
        ]
    }


def line(one: Imported) -> str:
    """A file that came in, for people."""
    return f"{one.key[:12]}  {one.file}: {'already there' if one.already else 'imported'}"


@latents.command()
def prune(
    keep_size: KeepSizeOpt = None,
    older_than: OlderOpt = None,
    dry: DryOpt = False,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
    debug: DebugOpt = False,
) -> None:
    """Remove the latents used longest ago, and what dead processes left. They are made again when wanted."""
    from realdrag.forget import parse_age, parse_size
    from realdrag.forget import prune as pruned

    if keep_size is None and older_than is None:
        raise InputError("nothing says which latents may go", "give --keep-size 2GB, --older-than 90d, or both")
    keep_bytes = None if keep_size is None else parse_size(keep_size)
    unused_s = None if older_than is None else parse_age(older_than)
    gone = pruned(opened(quiet=quiet), keep_bytes=keep_bytes, unused_s=unused_s, dry=dry)
    freed = sum(one.bytes for one in gone)
    verb = ("would remove", "would be") if dry else ("removed", "were")
    lines = [f"{verb[0]} {one.what} {one.key[:12] or one.path}, {amount(one.bytes)}" for one in gone]
    report = {"dry_run": dry, "freed": freed, "removed": [asdict(one) for one in gone]}
    show(report, as_json, *lines, f"{plural(len(gone), 'file')}, {amount(freed)} {verb[1]} freed")


@latents.command("rm")
def rm_latents(
    keys: SomeKeysArg = None,
    every: AllOpt = False,
    yes: YesOpt = False,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
    debug: DebugOpt = False,
) -> None:
    """Forget latents: unlink the entry, its thumbnail and its unfinished work. Bytes are not overwritten."""
    from realdrag.forget import forget
    from realdrag.latents import files, resolve

    if bool(keys) == every:
        raise InputError("say which latents to forget", "give keys, or --all --yes")
    store = opened(quiet=quiet)
    chosen = {key for key, _, _ in files(store)} if every else {resolve(store, key) for key in keys or []}
    if every and chosen and not yes:
        raise InputError(f"--all would forget {len(chosen)} latents for good", "add --yes if you mean it")
    gone: dict[str, list[Removed]] = {key: forget(store, key) for key in sorted(chosen)}
    lines = [
        f"forgot {key[:12]}: {plural(len(of), 'file')} unlinked, {amount(freed_by(of))}" for key, of in gone.items()
    ]
    freed = sum(map(freed_by, gone.values()))
    report = {"forgotten": list(gone), "freed": freed, "removed": [asdict(one) for of in gone.values() for one in of]}
    show(report, as_json, *(lines or ["there is nothing to forget"]))


def freed_by(gone: Sequence[Removed]) -> int:
    """Bytes in all."""
    return sum(one.bytes for one in gone)
