"""What can go wrong, as one small tree. Imports nothing of this package.

RealdragError      anything we raise on purpose
├─ InputError      the user can mend it: a path, a point, a setting (exit code 2)
│  ├─ StaleError   a stage of a work folder no longer fits the ones before it
│  └─ NoFaceError  the detector found no face
└─ WorkError       the work itself failed (exit code 1)
"""

from __future__ import annotations


class RealdragError(Exception):
    """Says what happened and where (`message`) and what to do next (`hint`).

    `code` is one word for programs (`--json`), `exit_code` what the command line ends with.
    """

    code = "error"
    exit_code = 1

    def __init__(self, message: str, hint: str = "", *, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if code is not None:
            self.code = code

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


class InputError(RealdragError):
    """Wrong input: nothing was done and nothing was written."""

    code = "input"
    exit_code = 2


class StaleError(InputError):
    """A stage was asked for whose predecessor is missing or was made from other inputs."""

    code = "stale"


class NoFaceError(InputError):
    """No face was found in the photo."""

    code = "no-face"


class WorkError(RealdragError):
    """The input was right but the work failed; `hint` says what was kept."""

    code = "failed"


def failure_of(error: BaseException) -> RealdragError:
    """What went wrong, as an error of ours."""
    if isinstance(error, RealdragError):
        return error
    if isinstance(error, MemoryError):
        return WorkError("out of memory", "close other programs, or take a smaller photo or model")
    if isinstance(error, OSError):
        return WorkError(f"{error.filename or 'a file'}: {error.strerror or error}")
    return WorkError(f"{type(error).__name__}: {error}", "a fault of realdrag; run again with --debug to see where")


def error_json(failure: RealdragError) -> dict[str, str]:
    """An error as `--json` and reports have it."""
    return {"code": failure.code, "message": failure.message, "hint": failure.hint}
