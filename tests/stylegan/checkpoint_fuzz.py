"""Mutated checkpoints: a reader may refuse them in one line, or find a generator; nothing else.

`python tests/stylegan/checkpoint_fuzz.py FOLDER -max_total_time=3600` goes on for an hour under atheris (`pip install
atheris`), guided by what the readers' code does, and keeps in FOLDER what reached something new. What fails is left in
the current folder.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

from realdrag.errors import InputError

SLOW_S = 5.0  # far beyond what any file of this size takes, even on a busy machine


def check(data: bytes) -> bool:
    """Whether `data` holds a generator. Raises whatever a reader lets through, and AssertionError for what it should.

    A generator that comes back is complete and no larger than the file allows.
    """
    from realdrag.stylegan import read_checkpoint  # not before main has had it watched
    from realdrag.stylegan.layouts import SPARE

    start, found, said = time.monotonic(), None, ""
    try:
        found = read_checkpoint(memoryview(data), "fuzz")
    except InputError as error:
        said = str(error)
    assert time.monotonic() - start < SLOW_S
    assert "\n" not in said, said
    assert len(said) < 700, said
    if found is None:
        return False
    assert {name: array.shape for name, array in found.tensors.items()} == found.config.shapes()
    for array in found.tensors.values():
        assert array.dtype == np.float32
        float(array.flat[0]), float(array.flat[array.size - 1])
    assert sum(array.size for array in found.tensors.values()) <= len(data) + SPARE
    return True


def main() -> None:
    """Fuzz for as long as the arguments for libFuzzer say, from the formats' smallest files on."""
    import atheris

    with atheris.instrument_imports(include=["realdrag.stylegan"], enable_loader_override=False):
        from realdrag.stylegan import config, layouts, pickles, reader, stored  # noqa: F401
    from checkpoint_writers import TINY, every_format, random_arrays

    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in every_format(random_arrays(TINY), TINY).items():
        (folder / f"seed-{name}").write_bytes(data)
    atheris.instrument_func(check)
    atheris.Setup([sys.argv[0], str(folder), "-max_len=120000", "-rss_limit_mb=2048", *sys.argv[2:]], check_quietly)
    atheris.Fuzz()


def check_quietly(data: bytes) -> None:
    """`check` for libFuzzer, which wants no answer."""
    check(data)


if __name__ == "__main__":
    main()
