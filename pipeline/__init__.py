"""Edit a real photograph by dragging points on it.

`open`, `edit`, `save` do the main job in three calls; an `Editor` runs the stages one by one. Everything is imported
when first used: `import realdrag` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from realdrag.api import Editor, edit, open, save  # noqa: A004
    from realdrag.errors import InputError, NoFaceError, RealdragError, StaleError, WorkError
    from realdrag.settings import Settings
    from realdrag.values import Alignment, Drag, Edit, Handle, Latent, Outcome, Photo, Result

_WHERE = {
    "api": ("Editor", "edit", "open", "save"),
    "errors": ("InputError", "NoFaceError", "RealdragError", "StaleError", "WorkError"),
    "settings": ("Settings",),
    "values": ("Alignment", "Drag", "Edit", "Handle", "Latent", "Outcome", "Photo", "Result"),
}
_HOME = {name: module for module, names in _WHERE.items() for name in names}

__version__ = "0.1.0"
__all__ = [  # noqa: RUF022 — by what they are, not by letter
    "open",
    "edit",
    "save",
    "Editor",
    "Settings",
    "Photo",
    "Alignment",
    "Latent",
    "Drag",
    "Handle",
    "Outcome",
    "Result",
    "Edit",
    "RealdragError",
    "InputError",
    "NoFaceError",
    "StaleError",
    "WorkError",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'realdrag' has no attribute {name!r}")
    return getattr(importlib.import_module(f"realdrag.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
