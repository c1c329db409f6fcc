"""Preset < config file < flags, and what a mistake in one of them says."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from realdrag import presets
from realdrag.errors import InputError
from realdrag.settings import Settings


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Two presets of the test's own, and no config file of the user's."""
    home = tmp_path / "configs"
    home.mkdir()
    (home / "balanced.toml").write_text("")
    (home / "fast.toml").write_text("[inversion]\nsteps_w = 7\nlr = 0.5\n[drag]\nmax_steps = 9\n")
    monkeypatch.setattr(presets, "_folder", lambda: home)
    monkeypatch.setattr(presets.platformdirs, "user_config_path", lambda *_, **__: tmp_path / "user")
    monkeypatch.delenv("REALDRAG_CONFIG", raising=False)
    return home


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "my.toml"


def test_nothing_given_is_balanced() -> None:
    assert presets.load() == ("balanced", Settings())


def test_flags_beat_config_beats_preset(config: Path) -> None:
    config.write_text("[inversion]\nlr = 0.25\nsteps_w_plus = 3\n")
    name, settings = presets.load("fast", config, {"inversion": {"steps_w_plus": 4, "lr": None}})
    assert name == "fast"
    assert settings.drag.max_steps == 9
    assert settings.inversion.steps_w == 7
    assert settings.inversion.lr == 0.25  # a flag that is None was not given
    assert settings.inversion.steps_w_plus == 4
    assert settings.composite == Settings().composite


def test_config_chooses_the_preset_unless_the_command_line_does(config: Path) -> None:
    config.write_text('preset = "fast"\n')
    assert presets.load(None, config)[0] == "fast"
    assert presets.load(None, config)[1].inversion.steps_w == 7
    assert presets.load("balanced", config) == ("balanced", Settings())


def test_config_is_found_by_environment_then_in_the_users_folder(
    tmp_path: Path, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = tmp_path / "user" / "config.toml"
    users.parent.mkdir()
    users.write_text("[drag]\nrows = 3\n")
    config.write_text("[drag]\nrows = 2\n")
    assert presets.config_path() == users
    assert presets.load()[1].drag.rows == 3
    monkeypatch.setenv("REALDRAG_CONFIG", str(config))
    assert presets.config_path() == config
    assert presets.load()[1].drag.rows == 2
    config.unlink()
    with pytest.raises(InputError, match="no such file"):  # named, so it must be there
        presets.load()


def test_whole_numbers_serve_as_floats() -> None:
    value = presets.load(flags={"drag": {"lr": 1}})[1].drag.lr
    assert value == 1.0
    assert type(value) is float


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[drga]\nlr = 1\n", ["my.toml", "[drga]", "drag"]),
        ("[drag]\nmax_stesp = 1\n", ["my.toml", "max_stesp", "[drag]", "max_steps"]),
        ("prset = 'fast'\n", ["my.toml", "prset", "preset"]),
        ("preset = 'fats'\n", ["my.toml", "fats", "did you mean fast?"]),
        ("preset = 3\n", ["my.toml", "3", "balanced", "fast"]),
        ("drag = 3\n", ["my.toml", "[drag]"]),
        ("[inversion]\nspace = 'z'\n", ["my.toml", "[inversion] space", "'z'", "'w', 'w+'"]),
        ("[inversion]\nspace = [1]\n", ["my.toml", "[inversion] space", "'w', 'w+'"]),
        ("[inversion]\nsteps_w = 1.5\n", ["[inversion] steps_w", "1.5", "a whole number"]),
        ("[inversion]\nsteps_w = true\n", ["[inversion] steps_w", "True", "a whole number"]),
        ("[inversion]\nlr = true\n", ["[inversion] lr", "True", "a number"]),
        ("[inversion]\nlr = '1'\n", ["[inversion] lr", "'1'", "a number"]),
        ("[inversion]\nlr = nan\n", ["[inversion] lr", "nan", "from 0 to 10"]),
        ("[inversion]\nlr = inf\n", ["[inversion] lr", "inf", "from 0 to 10"]),
        ("[inversion]\nlr = -1.0\n", ["[inversion] lr", "-1.0", "from 0 to 10"]),
        ("[inversion]\nlr = 1e38\n", ["[inversion] lr", "1e+38", "from 0 to 10"]),
        ("[inversion]\ntune_rank = 0\n", ["[inversion] tune_rank", "0", "from 1 to 512"]),
        ("[inversion]\nsteps_w = 99999999999999999999\n", ["[inversion] steps_w", "from 0 to 100000"]),
        ("[inversion]\nwarm_up = 2\n", ["[inversion] warm_up", "from 0 to 1"]),
        ("[drag]\nlr = -1.0\n", ["[drag] lr", "-1.0", "from 0 to 10"]),
        ("[drag]\nblock = 32\n", ["[drag] block", "32", "text"]),
        ("[drag]\nlr = 1\nlr = \n", ["my.toml", "line 3"]),
    ],
)
def test_a_mistake_in_the_config_is_named(config: Path, text: str, said: list[str]) -> None:
    config.write_text(text)
    with pytest.raises(InputError) as caught:
        presets.load(None, config)
    for word in said:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_mistake_in_the_flags_is_named() -> None:
    with pytest.raises(InputError, match=r"flags: \[inversion\] tune is 'ful'; allowed: 'none', 'lowrank', 'full'"):
        presets.load(flags={"inversion": {"tune": "ful"}})
    with pytest.raises(InputError, match=r"--preset: there is no preset 'blanced'; did you mean balanced"):
        presets.load("blanced")
    with pytest.raises(InputError, match="known: balanced, fast"):
        presets.load("../../elsewhere")


def test_a_config_that_is_no_text_is_one_line(config: Path, tmp_path: Path) -> None:
    config.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="UTF-8"):
        presets.load(None, config)
    with pytest.raises(InputError, match="cannot be read"):
        presets.load(None, tmp_path)


def test_a_preset_file_is_checked_like_any_other(folder: Path) -> None:
    (folder / "fast.toml").write_text("preset = 'balanced'\n")
    with pytest.raises(InputError, match=r"preset fast\.toml: unknown key preset"):
        presets.load("fast")


def test_every_field_can_be_set_from_a_file(config: Path) -> None:
    """A setting with a type that the check does not know would be unusable: none has one."""
    lines, want = [], {}
    for table in dataclasses.fields(Settings):
        lines.append(f"[{table.name}]")
        values = dataclasses.asdict(getattr(Settings(), table.name))
        want[table.name] = {
            k: v / 2 if isinstance(v, float) else v + 1 if isinstance(v, int) else v for k, v in values.items()
        }
        lines += [f"{k} = {v if isinstance(v, int | float) else repr(v)}" for k, v in want[table.name].items()]
    config.write_text("\n".join(lines))
    got = dataclasses.asdict(presets.load(None, config)[1])
    assert got == want
    assert all(math.isfinite(v) for t in got.values() for v in t.values() if isinstance(v, float))


def test_a_config_that_is_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.toml"
    os.mkfifo(pipe)
    with pytest.raises(InputError, match="is not a file"):
        presets.load(None, pipe)
