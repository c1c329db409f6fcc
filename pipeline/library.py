"""The user's folder of models, `<home>/models`, and how published models come into it.

NAME.safetensors       a model, converted: what `--model NAME` takes; any other generator put there as well
<published file>       put there by hand, for a machine without network: `pull` converts it in place of a download
hashes.json            URL → sha256, size and time of the first fetch: none are published, so the first is trusted
.fetched/              downloads that are not finished, or not converted yet
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from realdrag.errors import InputError, WorkError
from realdrag.progress import Progress
from realdrag.settings import Aligner
from realdrag.store import Store, home, write_whole
from realdrag.stylegan.catalogue import CATALOGUE, Entry, find

if TYPE_CHECKING:
    from realdrag.weights import ModelFile

# Bytes of the largest converted model, 1024 px at full width, and a little: room that a download must leave.
SPARE = 150 << 20
AGAIN = "and run the same command"


@dataclass(frozen=True)
class Pulled:
    """A model that is there now. sha256: of the file it was converted from, or None; already: nothing was done."""

    entry: Entry
    path: Path
    sha256: str | None
    already: bool


@dataclass(frozen=True)
class Row:
    """A model as `models list` shows it. state: "embedded", "present", "given" (by hand, unconverted), "part", "no".

    megabytes: of the file here, or of the published one, computed. What a header does not say is "" or 0.
    """

    name: str
    domain: str
    resolution: int
    megabytes: int
    licence: str
    aligner: str
    state: str
    path: str | None = None
    url: str = ""
    note: str = ""


def folder() -> Path:
    """Where models lie."""
    return home() / "models"


def path_of(name: str) -> Path:
    """Where the model `name` of the catalogue lies or will lie."""
    return folder() / f"{name}.safetensors"


def present(entry: Entry) -> bool:
    """Whether it is there, ready for use."""
    return path_of(entry.name).is_file()


def own_models() -> dict[str, Path]:
    """Name → file of the generators in the folder."""
    files = (path for path in folder().glob("*.safetensors") if path.is_file())
    paths = sorted(path for path in files if not path.name.startswith("."))
    return {path.stem: path for path in paths if not path.stem.endswith("-encoder")}


def known(name: str) -> Entry:
    """The entry called `name`; InputError with the nearest name if there is none."""
    from realdrag.presets import nearest

    entry = find(name)
    if entry is None:
        raise InputError(f"the catalogue has no model {name!r}", nearest(name, (e.name for e in CATALOGUE)))
    return entry


def pull(entry: Entry, progress: Progress, *, keep: bool = False) -> Pulled:
    """The model in the folder, fetched and converted unless it is there. keep: the published file stays too.

    Raises Offline or WorkError when it does not come, or is not the file that came first; InputError for a file put
    there by hand that cannot be read.
    """
    from realdrag.conversion import convert, file_sha256, safetensors_header

    target, given = path_of(entry.name), folder() / entry.file
    if target.is_file():
        return Pulled(entry, target, safetensors_header(target).get("source_sha256"), already=True)
    fetched = folder() / ".fetched" / entry.file
    store = Store(progress=progress)
    with store.lock(f"pull-{entry.name}", entry.name):
        if target.is_file():  # another process was first
            return pull(entry, progress)
        by_hand = given.is_file()
        source = given if by_hand else _fetch(entry, fetched, progress)
        sha256, size = file_sha256(source), source.stat().st_size
        _check(entry, source, sha256, by_hand=by_hand)
        about = {name: getattr(entry, name) for name in ("name", "domain", "aligner", "licence", "url")}
        try:
            found = convert(source, target, about)
            if found.config.img_resolution != entry.resolution:
                target.unlink()
                made = f"{entry.name} makes {entry.resolution} px"
                raise InputError(f"{source}: a generator of {found.config.img_resolution} px, but {made}")
        except InputError as error:
            if by_hand:
                raise
            aside = source.replace(given.with_name(f"{entry.file}.unreadable"))
            message = f"what {entry.url} gives cannot be read: {error.message}"
            raise WorkError(message, f"it is kept as {aside}; the same command fetches it anew") from error
        with store.lock("model-hashes", "the hashes of models"):
            _record(entry.url, sha256, size)
        if not by_hand and keep:
            source.replace(given)
        elif not by_hand:
            source.unlink()
    for note in found.notes:
        progress.say(f"{entry.name}: {note}")
    return Pulled(entry, target, sha256, already=False)


def _fetch(entry: Entry, fetched: Path, progress: Progress) -> Path:
    """`fetched`, downloaded unless an earlier run left it whole."""
    from realdrag.download import download

    if not fetched.is_file():
        try:
            fetched.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WorkError(f"cannot write {fetched.parent}: {error.strerror or error}", "see REALDRAG_HOME") from error
        hint = f"fetch it elsewhere, put the file into {folder()} as {entry.file} {AGAIN}"
        download(entry.url, fetched, progress, spare=SPARE, hint=hint)
    return fetched


def _hashes() -> dict[str, dict[str, Any]]:
    path = folder() / "hashes.json"
    try:
        hashes = json.loads(path.read_bytes())
        if all(isinstance(entry["sha256"], str) for entry in hashes.values()):
            return dict(hashes)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, TypeError, KeyError, AttributeError):
        pass
    raise InputError(f"{path}: is damaged", "remove it to trust what is fetched next")


def _check(entry: Entry, source: Path, sha256: str, *, by_hand: bool) -> None:
    """Raises when the file is not the one that was fetched first; a download is then set aside."""
    first = _hashes().get(entry.url)
    if first is None or first["sha256"] == sha256:
        return
    message = f"{entry.file} is not the file of {first.get('when', 'before')}: its sha256 is {sha256}, then it was "
    mend = f"remove the entry of {entry.url} from {folder() / 'hashes.json'}"
    if by_hand:
        raise InputError(message + first["sha256"], f"if this is the right file, {mend} {AGAIN}", code="hash")
    aside = source.replace(folder() / f"{entry.file}.differs")
    hint = f"it is kept as {aside}; if it is the right one, {mend}, rename it to {entry.file} {AGAIN}"
    raise WorkError(message + first["sha256"], hint, code="hash")


def _record(url: str, sha256: str, size: int) -> None:
    """The first fetch of `url` is remembered."""
    hashes = _hashes()
    if url not in hashes:
        when = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        hashes[url] = {"sha256": sha256, "size": size, "when": when}
        write_whole(folder() / "hashes.json", json.dumps(hashes, indent=1).encode() + b"\n")


def rows() -> Iterator[Row]:
    """Every model: those that come with realdrag, the catalogue, and what else lies in the folder."""
    from realdrag.download import part_size
    from realdrag.weights import embedded_models

    for name, file in embedded_models().items():
        yield _row(name, file, "embedded")
    own = own_models()
    for entry in CATALOGUE:
        path: Path | None = None
        given, state, megabytes = folder() / entry.file, "no", entry.megabytes
        if entry.name in own:
            state, path = "present", own.pop(entry.name)
            megabytes = round(path.stat().st_size / 1e6)
        elif given.is_file():
            state, path = "given", given
        elif (fetched := folder() / ".fetched" / entry.file).is_file() or part_size(fetched):
            state = "part"
        facts = entry.name, entry.domain, entry.resolution, megabytes, entry.licence, entry.aligner
        yield Row(*facts, state, None if path is None else str(path), entry.url, entry.note)
    for name, file in own.items():
        yield _row(name, file, "present")


def _row(name: str, path: Path, state: str) -> Row:
    """A file that only its own header describes."""
    from realdrag.conversion import safetensors_header

    header: Mapping[str, str]
    try:
        header, note = safetensors_header(path), ""
        resolution = int(json.loads(header["config"])["img_resolution"])
    except (ArithmeticError, AttributeError, InputError, KeyError, RecursionError, TypeError, ValueError):
        header, note, resolution = {}, "not a realdrag generator", 0
    licence, aligner, url = (header.get(key, "") for key in ("licence", "aligner", "url"))
    megabytes = round(path.stat().st_size / 1e6)
    return Row(name, header.get("domain", ""), resolution, megabytes, licence, aligner, state, str(path), url, note)


def model_aligner(model: ModelFile) -> Aligner:
    """The aligner that the model's header names; "ffhq" where it names none. InputError for one that is not known."""
    from realdrag.conversion import safetensors_header

    named = safetensors_header(model.path).get("aligner", "ffhq")
    aligners: tuple[Aligner, ...] = get_args(Aligner)
    for aligner in aligners:
        if named == aligner:
            return aligner
    raise InputError(f"{model.path}: its header names an unknown aligner {named[:40]!r}", "say which with --aligner")
