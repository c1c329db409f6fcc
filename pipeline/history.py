"""The drags of a work folder one after another, so that they can be undone and done again.

    drags.json    `current`: which of them lies in the folder itself, 0 for none; `count`: how many there are
    drags/K       the files of each of the others

`drags.json` is written last: what an interruption leaves half done is done again by the same command.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from realdrag.errors import InputError, StaleError
from realdrag.photo import write_bytes
from realdrag.workfolder import WorkFolder

FILES = ("mask.png", "drag.safetensors", "dragged.png", "drag.json")  # the record last: with it a drag is whole


class History:
    """What can be undone and done again in `work`."""

    def __init__(self, work: WorkFolder) -> None:
        self.work = work
        self.current = self.count = int(work.whole_drag())
        try:
            found = json.loads((work.path / "drags.json").read_bytes())
            current, count = int(found["current"]), int(found["count"])
        except (OSError, ValueError, KeyError, TypeError):
            return
        # The folder's own may be damaged, and is then made again in its place; of another inversion it is no history.
        own = work.record("drag").get("inputs", {}).get("inverted.png")
        stale = current > 0 and own not in (None, work.sha256("inverted.png"))
        if not stale and all(self._kept(k) for k in range(1, count + 1) if k != current):
            self.current, self.count = current, count

    def about(self) -> dict[str, int]:
        """As drags.json and `--json` have it."""
        return {"current": self.current, "count": self.count}

    def chain(self) -> list[tuple[dict[str, Any], Path]]:
        """The drags that follow on each other up to the folder's own, the first first: the record and folder of each.

        StaleError where one of them is no longer there.
        """
        drags = [(self.work.record("drag"), self.work.path)]
        for k in range(self.current - 1, -1, -1):
            before = drags[0][0]["inputs"]["before"]
            if before is None:
                return drags
            earlier = WorkFolder(self._aside(k))
            if earlier.sha256("drag.safetensors") != before:
                break
            drags.insert(0, (earlier.record("drag"), earlier.path))
        if drags[0][0]["inputs"]["before"] is None:
            return drags
        raise StaleError(f"{self.work.path}: an earlier drag is missing or damaged", "drag anew, without --continue")

    def find(self, inputs: Mapping[str, Any]) -> int | None:
        """The number of a drag that lies aside and was made from just these inputs, but for its strength; or None."""
        wanted = json.loads(json.dumps(dict(inputs)))
        for k in range(1, self.count + 1):
            found = WorkFolder(self._aside(k)).record("drag").get("inputs", {}) if self._kept(k) else {}
            if {key: value for key, value in found.items() if key != "strength"} == wanted:
                return k
        return None

    def keep(self) -> None:
        """Put the folder's drag aside; call it before another is written. Nothing where it is not whole."""
        aside = self._aside(self.current)
        if (aside / FILES[-1]).exists() or not (self.current and self.work.whole_drag()):
            return
        aside.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            if (source := self.work.path / name).is_file():
                write_bytes(source.read_bytes(), aside / name)

    def add(self) -> None:
        """The folder holds a new drag after the one put aside, or instead of a damaged one. Those undone are gone."""
        put_aside = (self._aside(self.current) / FILES[-1]).exists()
        new = self.current if self.current and not put_aside else self.current + 1
        self._point(new, new)
        for folder in (self.work.path / "drags").glob("*"):
            if folder.name.isdecimal() and int(folder.name) >= new:
                shutil.rmtree(folder)

    def go(self, by: int) -> None:
        """Undo (−1) or do again (+1) a drag, or go to one farther away. InputError where there is none."""
        wanted = self.current + by
        if not 0 <= wanted <= self.count:
            what = "undo" if by < 0 else "redo"
            hint = "it shows the inversion" if by < 0 else "a new drag forgets those that were undone"
            raise InputError(f"{self.work.path}: there is nothing to {what}", hint, code="history")
        self.keep()
        for name in FILES:
            source, target = self._aside(wanted) / name, self.work.path / name
            if wanted and source.is_file():
                write_bytes(source.read_bytes(), target)
            else:
                target.unlink(missing_ok=True)
        self._point(wanted, self.count)
        shutil.rmtree(self._aside(wanted), ignore_errors=True)

    def _aside(self, k: int) -> Path:
        """Where drag `k` lies while another is in the folder."""
        return self.work.path / "drags" / str(k)

    def _kept(self, k: int) -> bool:
        """Whether drag `k` lies aside, and was made of the inversion that the folder has now."""
        try:
            inputs = json.loads((self._aside(k) / "drag.json").read_bytes())["inputs"]
        except (OSError, ValueError, KeyError, TypeError):
            return False
        return bool(inputs.get("inverted.png") == self.work.sha256("inverted.png"))

    def _point(self, current: int, count: int) -> None:
        self.current, self.count = current, count
        write_bytes(json.dumps(self.about()).encode() + b"\n", self.work.path / "drags.json")
