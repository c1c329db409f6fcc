"""Settings from three places, the later ones winning: preset < config file < flags.

A preset is a file `<name>.toml` of the package `realdrag.configs` with the tables of `Settings`. A config
file has the same tables and may begin with `preset = "<name>"`. Tables, keys, types and choices derive from
`settings`.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib.resources
import math
import os
import tomllib
import typing
from collections.abc import Iterable, Mapping
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import platformdirs

from realdrag.errors import InputError
from realdrag.settings import Settings

DEFAULT = "balanced"
TYPES = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}

Tables = Mapping[str, Mapping[str, object]]


def config_path() -> Path:
    """The config file when none is named: REALDRAG_CONFIG, else config.toml in the user's config folder."""
    if chosen := os.environ.get("REALDRAG_CONFIG"):
        return Path(chosen).expanduser()
    return platformdirs.user_config_path("realdrag", appauthor=False) / "config.toml"


def names() -> list[str]:
    """The presets there are."""
    return sorted(f.name.removesuffix(".toml") for f in _folder().iterdir() if f.name.endswith(".toml"))


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint: the known word most like `word`, and where none is, all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"


def load(preset: str | None = None, config: Path | None = None, flags: Tables | None = None) -> tuple[str, Settings]:
    """The name of the preset used, and the settings.

    preset: from the command line; wins over the one a config file names. config: a file that must exist; None
    takes `config_path()`, which may be missing unless REALDRAG_CONFIG names it. flags: table → key → value;
    None as a value means not given. Raises InputError naming file, table and key of the first fault.
    """
    path = config or config_path()
    chosen: dict[str, object] = {}
    if config is not None or os.environ.get("REALDRAG_CONFIG") or path.exists():
        chosen = read_toml(path, str(path))
    named = chosen.pop("preset", None)
    name = preset or named or DEFAULT
    if name not in names():
        where = "--preset" if preset else str(path) if named else "realdrag.configs"
        raise InputError(f"{where}: there is no preset {name!r}", nearest(str(name), names()))
    settings = with_tables(preset_settings(str(name)), chosen, str(path), ("preset",))
    return str(name), with_flags(settings, flags or {})


def with_flags(settings: Settings, flags: Tables) -> Settings:
    """`settings` with the flags given: table → key → value, None where a flag was not given."""
    given = {t: {k: v for k, v in keys.items() if v is not None} for t, keys in flags.items()}
    return with_tables(settings, given, "flags")


def preset_settings(name: str) -> Settings:
    """Those of one of `names()`, whatever the user's own file says."""
    return with_tables(Settings(), read_toml(_folder() / f"{name}.toml", f"preset {name}.toml"), f"preset {name}.toml")


def _folder() -> Traversable:
    return importlib.resources.files("realdrag.configs")


def read_toml(file: Traversable, where: str) -> dict[str, object]:
    """What the file says; InputError, with `where` it lies, if it cannot be read or is not TOML."""
    if isinstance(file, Path) and file.exists() and not (file.is_file() or file.is_dir()):
        raise InputError(f"{where}: is not a file")  # a pipe would wait for ever
    try:
        return tomllib.loads(file.read_text(encoding="utf-8-sig"))  # Windows begins files with a mark
    except FileNotFoundError as error:
        raise InputError(f"{where}: there is no such file") from error
    except OSError as error:
        raise InputError(f"{where}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: is not UTF-8 text") from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{where}: is not TOML: {error}", "text needs quotes, a table is [drag]") from error
    except RecursionError as error:
        raise InputError(f"{where}: is nested too deeply") from error


def with_tables(base: Settings, given: Mapping[str, object], where: str, also: tuple[str, ...] = ()) -> Settings:
    """`base` with what is `given`; `where` it comes from and the other words allowed there are for errors."""
    tables: dict[str, Any] = {field.name: getattr(base, field.name) for field in dataclasses.fields(base)}
    for name, keys in given.items():
        if name not in tables:
            kind = f"table [{name}]" if isinstance(keys, Mapping) else f"key {name}"
            raise InputError(f"{where}: unknown {kind}", nearest(name, [*tables, *also]))
        if not isinstance(keys, Mapping):
            raise InputError(f"{where}: {name} is a table", f"write [{name}] on its own line, its keys below")
        hints = typing.get_type_hints(type(tables[name]))
        for key in keys:
            if key not in hints:
                raise InputError(f"{where}: unknown key {key} in [{name}]", nearest(key, hints))
        limits = {field.name: field.metadata for field in dataclasses.fields(tables[name])}
        values = {k: checked(v, hints[k], limits[k], f"{where}: [{name}] {k}") for k, v in keys.items()}
        tables[name] = dataclasses.replace(tables[name], **values)
    return Settings(**tables)


def checked(value: Any, hint: Any, limits: Mapping[str, float], where: str) -> object:
    """`value` as a field of type `hint` holds it; InputError when it cannot, or is beyond `limits`."""
    if typing.get_origin(hint) is typing.Literal:
        if value not in (allowed := typing.get_args(hint)):
            raise InputError(f"{where} is {value!r}", f"allowed: {', '.join(map(repr, allowed))}")
        return value
    # By type, not isinstance: to Python a bool is a kind of int.
    if type(value) is not hint and not (hint is float and type(value) is int):
        raise InputError(f"{where} is {value!r}", f"it takes {TYPES[hint]}")
    if hint in (int, float):
        least, most = limits.get("least", 0), limits.get("most", math.inf)
        if not (least <= value <= most and value < math.inf):
            upwards = "up" if most == math.inf else f"to {most:g}"
            raise InputError(f"{where} is {value!r}", f"it takes {TYPES[hint]} from {least:g} {upwards}")
    return hint(value)
