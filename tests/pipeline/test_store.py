"""A latent is made once, found again, and never half there."""

from __future__ import annotations

import dataclasses
import errno
import io
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

from realdrag import locks, store
from realdrag.errors import WorkError
from realdrag.progress import Silent
from realdrag.settings import InversionSettings
from realdrag.store import Store, latent_key, read_header, what_matters
from realdrag.stylegan import GeneratorConfig, delta_fault
from realdrag.values import Latent

KEY = "k" * 64


class Told(Silent):
    """Keeps what was said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, message: str) -> None:
        self.lines.append(message)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    monkeypatch.setenv("REALDRAG_HOME", str(folder))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return folder


def latent(seed: int = 0) -> Latent:
    """With what tuning brings: strided arrays and a scalar."""
    rng = np.random.default_rng(seed)
    return Latent(
        w_plus=rng.normal(size=(10, 32)).astype(np.float32),
        delta={
            "b4.conv1.weight": rng.normal(size=(4, 6)).astype(np.float16).T,
            "b4.conv1.noise_strength": np.asarray(0.5, np.float16),
        },
        picture=rng.integers(0, 256, (8, 8, 3), np.uint8)[:, ::-1],
        model_sha256="abc",
        loss="lpips-vgg",
        metrics={"lpips": None, "psnr": 20.1, "ssim": 0.75},
    )


def assert_same(a: Latent | None, b: Latent) -> None:
    assert a is not None
    for name in ("w_plus", "picture"):
        x, y = getattr(a, name), getattr(b, name)
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)
    assert (a.delta is None) == (b.delta is None)
    for name, value in (b.delta or {}).items():
        assert a.delta is not None
        assert a.delta[name].shape == value.shape
        assert a.delta[name].dtype == np.float16
        np.testing.assert_array_equal(a.delta[name], value)
    assert (a.model_sha256, a.loss, a.metrics) == (b.model_sha256, b.loss, b.metrics)


def run(code: str, home: Path) -> subprocess.Popen[str]:
    """A Python of its own, on the same home."""
    setup = """
        import sys, time
        import numpy as np
        from realdrag import store
        from realdrag.store import Store
        from realdrag.values import Latent
        KEY = "k" * 64
        latent = Latent(np.full((2, 4), 7, np.float32), None, np.zeros((4, 4, 3), np.uint8), "m", "l", {})
        """
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(setup) + textwrap.dedent(code)],
        env={**os.environ, "REALDRAG_HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_what_is_put_is_found_exactly() -> None:
    here = Store()
    assert here.get(KEY) is None
    here.put(KEY, latent(), {"photo": "ich.jpg"})
    assert_same(Store().get(KEY), latent())
    without = dataclasses.replace(latent(1), delta=None)
    here.put(KEY, without, {})  # replaces
    assert_same(here.get(KEY), without)


def test_header_says_what_it_is() -> None:
    from safetensors import safe_open

    here = Store()
    here.put(KEY, latent(), {"photo": "ich.jpg"})
    with safe_open(here.path(KEY), "np") as file:
        header = file.metadata()
    assert json.loads(header["about"]) == {"photo": "ich.jpg"}
    assert header["created"].startswith("20")
    assert header["key"] == KEY


def test_a_hit_needs_no_torch(home: Path) -> None:
    Store().put(KEY, latent(), {})
    child = run("print(Store().get(KEY) is not None, 'torch' in sys.modules)", home)
    out, err = child.communicate()
    assert out.split() == ["True", "False"], err


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_faces_are_private_unless_the_users_folder_is_shared(home: Path, tmp_path: Path) -> None:
    here = Store()
    here.put(KEY, latent(), {})
    assert home.stat().st_mode & 0o777 == 0o700
    assert here.path(KEY).stat().st_mode & 0o077 == 0

    own = tmp_path / "own"
    own.mkdir()
    own.chmod(0o755)
    there = Store(own)
    there.put(KEY, latent(), {})
    assert own.stat().st_mode & 0o777 == 0o755
    assert there.path(KEY).parent.stat().st_mode & 0o777 == 0o700

    team = tmp_path / "team"
    team.mkdir()
    team.chmod(0o770)
    shared = Store(team)
    shared.put(KEY, latent(), {})
    assert shared.path(KEY).parent.stat().st_mode & 0o777 == 0o770
    assert shared.path(KEY).stat().st_mode & 0o040


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def flip_last(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def change_loss(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"lpips-vgg", b"lpips-vgh"))


def break_header(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[9:20] = b"\0" * 11
    path.write_bytes(data)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def take_anothers(path: Path) -> None:
    here = Store()
    here.put("other", latent(), {})
    here.path("other").replace(path)


@pytest.mark.parametrize("harm", [truncate, flip_last, change_loss, break_header, empty, take_anothers])
def test_damage_is_set_aside_and_said(harm: Callable[[Path], None]) -> None:
    told = Told()
    here = Store(progress=told)
    for n in (1, 2):
        here.put(KEY, latent(), {})
        harm(here.path(KEY))
        harmed = here.path(KEY).read_bytes()
        assert here.get(KEY) is None
        aside = here.path(KEY).with_name(f"{KEY}.damaged-{n}")
        assert aside.read_bytes() == harmed
        assert not here.path(KEY).exists()
        assert len(told.lines) == n
        assert str(aside) in told.lines[-1]
    here.put(KEY, latent(), {})
    assert_same(here.get(KEY), latent())


def test_no_flipped_byte_goes_unnoticed() -> None:
    here = Store()
    small = Latent(np.ones((1, 2), np.float32), None, np.ones((2, 2, 3), np.uint8), "m", "l", {"psnr": 1.0})
    here.put(KEY, small, {})
    whole = here.path(KEY).read_bytes()
    for at in range(len(whole)):
        here.path(KEY).write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        assert here.get(KEY) is None, at


def key(**changes: object) -> str:
    crop = np.arange(4 * 4 * 3, dtype=np.uint8).reshape(4, 4, 3)
    given = {
        "crop": crop,
        "model_sha256": "m",
        "settings": InversionSettings(),
        "extra": {"a": "1", "b": "2"},
    }
    return latent_key(**{**given, **changes})  # type: ignore[arg-type]


def other_value(value: object) -> object:
    if isinstance(value, str):
        return value + "x"
    assert isinstance(value, int | float)
    return value + 1


# Where each setting has a say: a change there is another latent.
EVERYTHING = InversionSettings(space="w+", tune="lowrank")
FIELDS = [field for field in dataclasses.fields(InversionSettings) if field.name != "perceptual"]


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
def test_key_depends_on_each_setting(field: dataclasses.Field[object]) -> None:
    changed = {field.name: other_value(getattr(EVERYTHING, field.name))}
    assert key(settings=dataclasses.replace(EVERYTHING, **changed)) != key(settings=EVERYTHING)


@pytest.mark.parametrize(
    ("where", "idle"),
    [
        ({}, {"perceptual": "embedded"}),  # the loss that it came to stands in the key by itself
        ({"space": "w"}, {"steps_w_plus": 7}),
        ({"tune": "none"}, {"tune_steps": 7, "tune_lr": 0.7, "tune_rank": 7, "locality": 0.7, "tune_layers": "all"}),
        ({"tune": "full"}, {"tune_rank": 7}),
    ],
    ids=["choice of loss", "w", "not tuned", "tuned in full"],
)
def test_key_ignores_settings_without_a_say(where: dict[str, object], idle: dict[str, object]) -> None:
    settings = dataclasses.replace(InversionSettings(), **where)  # type: ignore[arg-type]
    for name, value in idle.items():
        changed = dataclasses.replace(settings, **{name: value})  # type: ignore[arg-type]
        assert key(settings=changed) == key(settings=settings), name
        assert name not in what_matters(settings)


def test_a_lock_leaves_no_file(home: Path) -> None:
    here = Store()
    with here.lock(KEY), here.lock("another"):
        assert {path.name for path in (home / "locks").glob("*.lock")} == {f"{KEY}.lock", "another.lock"}
    assert [path.name for path in (home / "locks").iterdir()] == ["guard"]
    assert not list(here.folder.glob("*.lock"))


def test_who_does_not_wait_is_told_at_once(home: Path) -> None:
    child = run("with Store().lock(KEY): print('in', flush=True); time.sleep(60)", home)
    assert child.stdout is not None
    child.stdout.readline()
    with Store().lock_if_free(KEY) as ours:
        assert not ours
    child.kill()
    child.communicate()
    with Store().lock_if_free(KEY) as ours:
        assert ours


RACE = """
    from realdrag import locks
    locks.POLL_S = 0.001
    here = Store()
    inside = here.root / "inside"
    for _ in range(60):
        with here.lock(KEY):
            inside.touch(exist_ok=False)  # FileExistsError if another is in
            time.sleep(0.0005)
            inside.unlink()
    print("done")
    """


def test_removing_lock_files_lets_no_two_in(home: Path) -> None:
    """Every holder removes the file while others wait for it: the race that lock files are usually left for."""
    children = [run(RACE, home) for _ in range(4)]
    outs = [child.communicate(timeout=60) for child in children]
    assert [out.strip() for out, _ in outs] == ["done"] * 4, outs
    assert not list(home.rglob("*.lock"))


def test_another_version_s_entry_is_listed_and_left_alone(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is nobody's damage: that version may still be in use beside this one."""
    told = Told()
    here = Store(progress=told)
    monkeypatch.setattr("realdrag.store.FORMAT", 1)
    here.put(KEY, latent(), {"model": "m", "loss": "l"})
    monkeypatch.undo()
    before = here.path(KEY).read_bytes()
    assert here.get(KEY) is None
    assert read_header(here.path(KEY))["format"] == "1"
    assert here.path(KEY).read_bytes() == before
    assert told.lines == []


def test_a_latent_of_ffhq_s_size_takes_less_than_two_megabytes(home: Path) -> None:
    """The default rank's factors at random, which nothing compresses, and a photo enlarged to the model's size."""
    config = GeneratorConfig(512, 512, 1024, num_layers=8, channel_base=32768, channel_max=512)
    rng, rank = np.random.default_rng(0), InversionSettings().tune_rank
    delta: dict[str, np.ndarray] = {}
    for name, shape in config.shapes().items():
        if name.endswith(("conv0.weight", "conv1.weight")):
            delta[f"{name}:left"] = rng.standard_normal((shape[0], 3, rank)).astype(np.float16)
            delta[f"{name}:right"] = rng.standard_normal((rank, shape[1], 3)).astype(np.float16)
            delta[name.replace("weight", "bias")] = rng.standard_normal(shape[0]).astype(np.float16)
    assert delta_fault(config, delta) == ""
    photo = Image.fromarray(skimage.data.astronaut()[:320, 100:420]).resize((1024, 1024), Image.Resampling.BICUBIC)
    curves = {"w+": {"perceptual": [0.5] * 1000}}
    whole = dataclasses.replace(latent(), w_plus=np.zeros((18, 512), np.float32), picture=np.asarray(photo))
    Store().put(KEY, dataclasses.replace(whole, delta=delta, curves=curves), {})
    assert 1_000_000 < Store().path(KEY).stat().st_size < 2_000_000
    again = Store().get(KEY)
    assert again is not None
    assert again.picture.tobytes() == np.asarray(photo).tobytes()
    assert again.curves == curves


def test_a_picture_that_is_none_is_damage(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A right checksum is anybody's to write."""
    for data in (b"", b"RIFF", png_bytes()):
        monkeypatch.setattr("realdrag.store.packed", lambda picture, data=data: np.frombuffer(data, np.uint8))
        told = Told()
        Store().put(KEY, latent(), {})
        assert Store(progress=told).get(KEY) is None
        assert "picture" in told.lines[0]


def png_bytes() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_use_is_noted(home: Path) -> None:
    here = Store()
    here.put(KEY, latent(), {})
    os.utime(here.path(KEY), (1000, 1000))
    here.get(KEY)
    assert time.time() - here.path(KEY).stat().st_mtime < 60


def test_a_checkpoint_that_cannot_be_written_stops_no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told()
    checkpoint = Store(progress=told).checkpoint(KEY)
    checkpoint.save({"step": torch.tensor(1)})

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for step in (2, 3):
        checkpoint.save({"step": torch.tensor(step)})
    monkeypatch.undo()
    (line,) = told.lines
    assert "No space left" in line
    assert "the work goes on" in line
    kept = checkpoint.load()
    assert kept is not None
    assert int(kept["step"]) == 1


def test_key_depends_on_crop_model_and_what_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    crop = np.arange(4 * 4 * 3, dtype=np.uint8).reshape(4, 4, 3)
    pixel = crop.copy()
    pixel[2, 3, 1] += 1
    monkeypatch.setattr(store, "KEY_FORMAT", store.KEY_FORMAT + 1)
    newer = key()
    monkeypatch.undo()
    keys = [
        key(),
        key(crop=pixel),
        key(crop=crop.reshape(2, 8, 3)),
        key(model_sha256="n"),
        key(extra={"a": "1", "b": "3"}),
        key(extra={"a": "1"}),
        newer,
    ]
    assert len(set(keys)) == len(keys)


def test_key_ignores_what_does_not_matter() -> None:
    crop = np.arange(4 * 4 * 3, dtype=np.uint8).reshape(4, 4, 3)
    assert key(extra={"b": "2", "a": "1"}) == key()
    assert key(crop=np.asfortranarray(crop)) == key()
    one = dataclasses.replace(InversionSettings(), lr=1.0)
    assert key(settings=dataclasses.replace(one, lr=1)) == key(settings=one)


WORK_ONCE = """
    {before}
    here = Store()
    with here.lock(KEY):
        if here.get(KEY) is None:
            time.sleep(0.3)
            here.put(KEY, latent, {{}})
            print("worked")
    """
NO_FLOCK = """
    import errno, filelock
    def refuse(self, *args, **kwargs):
        raise OSError(errno.ENOLCK, "no locks available")
    filelock.FileLock.acquire = refuse
    """


@pytest.mark.parametrize("before", ["", NO_FLOCK], ids=["flock", "lease"])
def test_two_processes_do_the_work_once(home: Path, before: str) -> None:
    code = textwrap.dedent(WORK_ONCE).format(before=textwrap.dedent(before))
    children = [run(code, home) for _ in range(2)]
    outs = [child.communicate(timeout=15) for child in children]
    assert [child.returncode for child in children] == [0, 0], outs
    assert sum("worked" in out for out, _ in outs) == 1, outs
    assert not list(home.rglob("*.lease"))


def refuse_locks(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    import filelock

    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)


@pytest.mark.parametrize("error", [NotImplementedError(), OSError(errno.ENOSYS, "none")])
def test_without_locks_a_lease_is_held(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    refuse_locks(monkeypatch, error)
    here = Store()
    lease = here.root / "locks" / f"{KEY}.lease"
    with here.lock(KEY):
        assert lease.exists()
    assert not lease.exists()


def test_a_dead_holders_lease_expires_and_a_live_ones_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_locks(monkeypatch, OSError(errno.ENOLCK, "none"))
    monkeypatch.setattr(locks, "LEASE_S", 0.4)
    told = Told()
    here = Store(progress=told)
    order: list[str] = []

    def second() -> None:
        with here.lock(KEY):
            order.append("second")

    with here.lock(KEY):
        waiter = threading.Thread(target=second)
        waiter.start()
        time.sleep(1.0)  # well beyond the lease: refreshed all the time
        order.append("first")
    waiter.join(5)
    assert order == ["first", "second"]
    assert told.lines == ["another process is at work on this photo: waiting for it"]

    lease = here.root / "locks" / f"{KEY}.lease"
    lease.write_text("a process that was killed")
    start = time.monotonic()
    with here.lock(KEY):
        assert 0.4 <= time.monotonic() - start < 3
        assert lease.exists()
    assert not lease.exists()


def test_a_lock_that_fails_otherwise_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_locks(monkeypatch, PermissionError(errno.EACCES, "Permission denied"))
    with pytest.raises(WorkError, match="REALDRAG_HOME"), Store().lock(KEY):
        pass


def test_a_waiting_process_is_told_about(home: Path) -> None:
    told = Told()
    child = run("with Store().lock(KEY): print('in', flush=True); time.sleep(0.5)", home)
    assert child.stdout is not None
    child.stdout.readline()
    with Store(progress=told).lock(KEY):
        assert len(told.lines) == 1
    child.communicate()


def test_a_lock_ends_with_its_process(home: Path) -> None:
    child = run("with Store().lock(KEY): print('in', flush=True); time.sleep(60)", home)
    assert child.stdout is not None
    child.stdout.readline()
    child.kill()
    child.communicate()
    with Store().lock(KEY):
        pass


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_a_kill_while_writing_leaves_the_old_entry(home: Path, moment: str) -> None:
    Store().put(KEY, latent(), {})
    die = "import os, pathlib, signal\ndef die(*a): os.kill(os.getpid(), signal.SIGKILL)\n"
    where = {"fsync": "os.fsync = die", "replace": "pathlib.Path.replace = die"}[moment]
    child = run(f"{die}{where}\nStore().put(KEY, latent, {{}})", home)
    child.communicate()
    assert child.returncode == -signal.SIGKILL
    here = Store()
    assert_same(here.get(KEY), latent())

    (left,) = here.path(KEY).parent.glob(".*.tmp")
    os.utime(left, (0, 0))  # swept once it is old
    here.put(KEY, latent(1), {})
    assert_same(here.get(KEY), latent(1))
    assert not left.exists()


def test_no_space_is_said_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    here = Store()
    here.put(KEY, latent(), {})

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WorkError, match=r"No space left.*REALDRAG_HOME.*room"):
        here.put(KEY, latent(1), {})
    assert_same(here.get(KEY), latent())
    assert not list(here.path(KEY).parent.glob(".*.tmp"))


def test_a_home_that_cannot_be_made_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("REALDRAG_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(WorkError, match="REALDRAG_HOME"):
        Store()


def test_checkpoint_comes_back_or_counts_as_none() -> None:
    checkpoint = Store().checkpoint(KEY)
    assert checkpoint.load() is None
    base = torch.randn(4, 6, requires_grad=True)
    state = {
        "step": torch.tensor(17),
        "w": base,
        "same": base.t(),
        "image": torch.randn(1, 3, 4, 4).contiguous(memory_format=torch.channels_last),
        "half": torch.randn(3).bfloat16(),
        "flag": torch.tensor([True, False]),
    }
    checkpoint.save(state)
    loaded = Store().checkpoint(KEY).load()
    assert loaded is not None
    assert loaded.keys() == state.keys()
    for name, value in state.items():
        assert loaded[name].dtype == value.dtype
        assert torch.equal(loaded[name], value.detach())

    for harm in (flip_last, truncate, empty):
        checkpoint.save(state)
        assert checkpoint.load() is not None
        harm(checkpoint.path)
        assert checkpoint.load() is None
    checkpoint.clear()
    checkpoint.clear()
    assert not checkpoint.path.exists()


def test_a_checkpoint_is_no_latent() -> None:
    here = Store()
    here.checkpoint(KEY).save({"w": torch.zeros(1)})
    assert here.get(KEY) is None
    assert here.checkpoint(KEY).load() is not None
