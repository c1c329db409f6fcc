"""The user's folder of models."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

from realdrag.errors import InputError
from realdrag.settings import Aligner

if TYPE_CHECKING:
    from pathlib import Path

    from realdrag.weights import ModelFile


def model_aligner(model: ModelFile) -> Aligner:
    """The aligner that the model's header names; "ffhq" where it names none. InputError for one that is not known."""
    named = header(model.path).get("aligner", "ffhq")
    for aligner in get_args(Aligner):
        if named == aligner:
            return aligner
    raise InputError(f"{model.path}: its header names an unknown aligner {named[:40]!r}", "say which with --aligner")


def header(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file; InputError when it cannot be read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a realdrag generator: its header cannot be read") from error
