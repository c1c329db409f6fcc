"""What `realdrag latents` shows, takes out, takes in and forgets."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from realdrag.errors import InputError
from realdrag.forget import parse_age, parse_size, prune
from realdrag.latents import preset_name, resolve, rows
from realdrag.settings import InversionSettings
from realdrag.store import Store
from realdrag.values import Latent

Run = Callable[..., Any]
DAY = 86400.0
A, B, C = "aaaa" + "1" * 60, "aaaa" + "2" * 60, "c0de" + "3" * 60


def entry(seed: int, finite: bool = True) -> Latent:
    rng = np.random.default_rng(seed)
    w_plus = rng.normal(size=(8, 64)).astype(np.float32)
    if not finite:
        w_plus[0, 0] = np.nan
    picture = rng.integers(0, 256, (128, 128, 3), np.uint8)
    delta = {"b4.conv1.weight": np.ones((4, 4), np.float16)}
    return Latent(w_plus, delta, picture, "abc", "lpips-vgg", {"lpips": 0.123, "psnr": 20.1, "ssim": 0.7})


@pytest.fixture
def store(own_home: Path) -> Store:
    """Two latents whose keys begin alike, one of another key used long ago, and an unfinished one."""
    here = Store()
    about = {"photo": "ich.jpg", "photo_sha256": "f" * 64, "model": "faces-128", "preset": "fast"}
    here.put(A, entry(0), about)
    here.put(B, entry(1), {"model": "faces-128", "loss": "l"})  # as versions before noted it
    here.put(C, entry(2), about | {"photo": "böse\n\x1b[31m.png"})
    for key, days in ((A, 1), (B, 2), (C, 100)):
        used = time.time() - days * DAY
        os.utime(here.path(key), (used, used))
    return here


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def left(store: Store) -> list[str]:
    return sorted(path.name for path in store.root.rglob("*") if path.is_file() and path.name != "network.json")


# Listing


def test_the_list_says_what_is_known(store: Store, cli: Run) -> None:
    store.checkpoint("d" * 64).path.write_bytes(b"x" * 1000)
    (store.folder / f"{'e' * 64}.damaged-1").write_bytes(b"")
    (store.folder / "notes.txt").write_text("not ours")
    ran = cli("latents", "list")
    assert ran.code == 0
    lines = ran.out.splitlines()
    assert lines[0].split() == ["key", "photo", "model", "preset", "size", "age", "LPIPS", "thumbnail"]
    found = {line.split()[0]: line for line in lines[1:6]}
    assert found[A[:12]].split()[1:4] == ["ich.jpg", "faces-128", "fast"]
    assert "kB" in found[A[:12]]
    assert "0.123" in found[A[:12]]
    assert found[A[:12]].endswith(f"{A}.png")
    assert found[B[:12]].split()[1:4] == ["?", "faces-128", "?"]
    assert "(unfinished)" in found["d" * 12]
    assert "1.0 kB" in found["d" * 12]
    assert "(damaged)" in found["e" * 12]
    assert "\x1b" not in ran.out, "a photo's name cannot colour the terminal"
    assert lines[-1].startswith("3 latents, ")
    assert "1 unfinished" in lines[-1]
    assert "1 damaged" in lines[-1]


def test_the_list_as_json(store: Store, cli: Run) -> None:
    report = json.loads(cli("latents", "list", "--json").out)
    assert report["folder"] == str(store.folder)
    first, second, third = report["latents"]
    assert [first["key"], second["key"], third["key"]] == [A, B, C], "used last, first"
    assert first["state"] == "latent"
    assert (first["short"], first["photo"], first["photo_sha256"]) == (A[:12], "ich.jpg", "f" * 64)
    assert (first["lpips"], first["psnr"], first["loss"]) == (0.123, 20.1, "lpips-vgg")
    assert first["bytes"] == store.path(A).stat().st_size
    assert abs(first["created"] - time.time()) < 60
    assert abs(time.time() - first["used"] - DAY) < 60
    assert (second["photo"], second["preset"]) == ("?", "?")


def test_an_empty_store_is_said(cli: Run) -> None:
    ran = cli("latents", "list")
    assert (ran.code, len(ran.out.splitlines())) == (0, 1)
    assert ran.out.startswith("0 latents, 0 B in ")


def test_a_damaged_entry_is_listed_not_raised(store: Store, cli: Run) -> None:
    flip(store.path(A), 12)  # the header is no JSON now
    shutil.copy(store.path(C), store.path(B))  # whole, but another's
    states = {row["key"]: row for row in json.loads(cli("latents", "list", "--json").out)["latents"]}
    assert [states[key]["state"] for key in (A, B, C)] == ["damaged", "damaged", "latent"]
    assert states[B]["fault"] == "it holds another latent"


def test_a_flipped_bit_is_found_by_check_and_only_looked_at(store: Store, cli: Run) -> None:
    size = store.path(A).stat().st_size
    for at in (*range(0, size, size // 40), size - 1):
        before = store.path(A).read_bytes()
        flip(store.path(A), at)
        (row,) = (row for row in rows(store, check=True) if row.key == A)
        assert row.state == "damaged", at
        store.path(A).write_bytes(before)
    flip(store.path(A), size - 1)
    plain = json.loads(cli("latents", "list", "--json").out)
    checked = json.loads(cli("latents", "list", "--check", "--json").out)
    assert [row["state"] for row in plain["latents"]].count("damaged") == 0
    assert [row["fault"] for row in checked["latents"] if row["state"] == "damaged"] == ["its checksum is wrong"]
    assert store.path(A).exists()


def test_thumbnails_come_and_go_with_their_entry(store: Store, cli: Run) -> None:
    cli("latents", "list")
    small = store.thumbnail(A)
    with Image.open(small) as image:
        assert (image.format, image.size) == ("PNG", (96, 96))
    first = small.read_bytes()
    assert small.parent.stat().st_mode & 0o777 == store.folder.stat().st_mode & 0o777 == 0o700
    small.unlink()
    cli("latents", "list")
    assert small.read_bytes() == first
    store.put(A, entry(7), {})
    assert not small.exists(), "it showed the entry before"
    cli("latents", "list")
    assert small.read_bytes() != first
    assert cli("latents", "rm", A[:5]).code == 0
    assert not small.exists()


def test_nothing_here_needs_torch(store: Store, tmp_path: Path, process: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    for command in (
        ["list", "--check"],
        ["export", C[:12], "-o", tmp_path / "x.safetensors"],
        ["rm", C[:12]],
        ["import", tmp_path / "x.safetensors"],
        ["prune", "--keep-size", "1kB"],
    ):
        ran = process("latents", *command)
        assert ran.code == 0, ran.err[-500:]
        loaded = {line.rpartition("|")[2].strip() for line in ran.err.splitlines() if line.startswith("import time:")}
        assert "realdrag.latents" in loaded
        assert not loaded & {"torch", "lpips", "skimage"}, command


# Keys


def test_a_key_is_given_by_its_beginning(store: Store) -> None:
    assert resolve(store, "aaaa1") == A
    assert resolve(store, "AAAA2") == B
    assert resolve(store, "c0de") == C
    assert resolve(store, C) == C
    for given, words in (
        ("aaaa", f"is the beginning of 2 keys: {A[:12]}, {B[:12]}; give more of it"),
        ("c0d", "at least 4 characters"),
        ("beef", "`realdrag latents list` shows them"),
        (C + "3", "no latent's key"),
        ("../x", "no latent's key"),
    ):
        with pytest.raises(InputError, match=words.replace("?", r"\?")):
            resolve(store, given)


def test_unknown_and_ambiguous_keys_change_nothing(store: Store, cli: Run, contents: Any, tmp_path: Path) -> None:
    before = contents(store.folder)
    for command in (["rm", C[:8], "aaaa"], ["rm", "beef"], ["export", "aaaa", "-o", tmp_path]):
        ran = cli("latents", *command)
        assert (ran.code, len(ran.err.splitlines())) == (2, 1)
    assert contents(store.folder) == before
    assert not list(tmp_path.iterdir())


# Out and in


def test_an_exported_latent_comes_back_whole(store: Store, tmp_path: Path, cli: Run) -> None:
    file, data = tmp_path / "face.safetensors", store.path(A).read_bytes()
    assert cli("latents", "export", A[:8], "-o", file).code == 0
    assert file.read_bytes() == data
    again = cli("latents", "import", file)
    assert (again.code, again.out.split(maxsplit=1)) == (0, [A[:12], f"{file}: already there\n"])
    shutil.rmtree(store.folder)
    there = cli("latents", "import", file, "--json")
    assert json.loads(there.out) == {"imported": [{"file": str(file), "key": A, "already": False}]}
    assert store.path(A).read_bytes() == data


def test_several_latents_go_into_a_folder(store: Store, tmp_path: Path, cli: Run) -> None:
    refused = cli("latents", "export", "aaaa1", "c0de", "-o", tmp_path / "both.safetensors")
    assert (refused.code, "is no folder" in refused.err) == (2, True)
    assert cli("latents", "export", "aaaa1", "c0de", "aaaa1", "-o", tmp_path).code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{A[:12]}.safetensors", f"{C[:12]}.safetensors"]
    for place in (store.folder, store.path(B)):
        assert cli("latents", "export", "c0de", "-o", place).code == 2


def test_a_damaged_latent_is_not_exported(store: Store, tmp_path: Path, cli: Run) -> None:
    flip(store.path(C), -1)
    ran = cli("latents", "export", "aaaa1", "c0de", "-o", tmp_path)
    assert (ran.code, "is damaged" in ran.err) == (1, True)
    assert not list(tmp_path.iterdir())
    store.checkpoint("d" * 64).path.write_bytes(b"")
    assert cli("latents", "export", "dddd", "-o", tmp_path / "x.safetensors").code == 2


def test_import_believes_nothing(store: Store, tmp_path: Path, cli: Run, contents: Any) -> None:
    file = tmp_path / "face.safetensors"
    cli("latents", "export", "c0de", "-o", file)
    cli("latents", "rm", "c0de")
    sound, before = file.read_bytes(), contents(store.folder)
    for at in (*range(0, len(sound), len(sound) // 60), len(sound) - 1):
        flip(file, at)
        ran = cli("latents", "import", file)
        assert (ran.code, len(ran.err.splitlines())) == (2, 1), (at, ran.err)
        file.write_bytes(sound)
    for data in (sound[:-9], sound[:100], sound + b"more", b""):
        file.write_bytes(data)
        assert cli("latents", "import", file).code == 2
    assert contents(store.folder) == before


@pytest.mark.parametrize("key", ["../../evil", "c" * 63, "C" * 64, ""])
def test_a_key_is_no_path(store: Store, tmp_path: Path, cli: Run, key: str) -> None:
    """A file made with a right checksum for a wrong key."""
    maker = Store(tmp_path / "other")
    (tmp_path / "other" / "latents" / "..").mkdir(parents=True, exist_ok=True)
    maker.path = lambda _: tmp_path / "made.safetensors"  # type: ignore[method-assign]
    maker.put(key, entry(3), {})
    before = left(store)
    ran = cli("latents", "import", tmp_path / "made.safetensors")
    assert (ran.code, "its key is none" in ran.err) == (2, True)
    assert left(store) == before


def test_what_is_not_finite_stays_out(store: Store, tmp_path: Path, cli: Run) -> None:
    store.put("d" * 64, entry(4, finite=False), {})
    shutil.move(store.path("d" * 64), tmp_path / "made.safetensors")
    ran = cli("latents", "import", tmp_path / "made.safetensors")
    assert (ran.code, "not finite" in ran.err) == (2, True)


def test_a_damaged_entry_gives_way_to_an_import(store: Store, tmp_path: Path, cli: Run) -> None:
    cli("latents", "export", "c0de", "-o", tmp_path / "face.safetensors")
    flip(store.path(C), -1)
    ran = cli("latents", "import", tmp_path / "face.safetensors")
    assert (ran.code, "imported" in ran.out) == (0, True)
    assert store.get(C) is not None


# Another program's latent


@pytest.fixture
def photo(tmp_path: Path, small_model: Path, quick: Path) -> Path:
    """What the small model makes of a latent, in w.npz, as a photo; and the start of a command line about it."""
    import torch

    from realdrag.stylegan import to_picture
    from realdrag.weights import load_generator, resolve_model

    generator = load_generator(resolve_model(str(small_model)))
    with torch.no_grad():
        z = torch.randn(2, 64, generator=torch.Generator().manual_seed(5))
        both = generator.truncated(z, 0.7).clone()
        Image.fromarray(to_picture(generator.synthesize(both[:1]))).save(tmp_path / "face.png")
    np.savez(tmp_path / "w.npz", w=both[:1].numpy())
    torch.save(both, tmp_path / "latents.pt")
    return tmp_path / "face.png"


def test_anothers_latent_is_found_by_the_next_edit(photo: Path, small_model: Path, cli: Run) -> None:
    at = ["--model", small_model]
    ran = cli("latents", "import", photo.with_name("w.npz"), "--photo", photo, "--whole", *at, "--json")
    assert ran.code == 0, ran.err
    assert "drop the noise maps" in ran.err
    (one,) = json.loads(ran.out)["imported"]
    assert not one["already"]
    assert one["inversion"]["psnr"] > 50, "the photo is what the model makes of it"
    (row,) = rows(Store())
    assert (row.key, row.photo, row.preset, row.origin, row.model) == (
        one["key"],
        "face.png",
        "own",
        "w.npz",
        "small",
    )
    edit = ["edit", photo, "-o", photo.with_name("out.png"), "--drag", "16,16:15,16", "--whole", *at, "--json"]
    done = json.loads(cli(*edit).out)
    assert (done["cache"], done["inversion"]) == ("hit", one["inversion"])

    again = cli("latents", "import", photo.with_name("w.npz"), "--photo", photo, "--whole", *at)
    assert (again.code, "already there" in again.out) == (0, True)
    other = [photo.with_name("latents.pt"), "--index", "1", "--photo", photo, "--whole", *at]
    refused = cli("latents", "import", *other)
    assert (refused.code, f"latents rm {row.short}" in refused.err) == (2, True)
    assert cli("latents", "rm", row.short).code == 0
    wrong = cli("latents", "import", *other)
    assert wrong.code == 0
    assert "the model's mean picture is nearer to the photo" in wrong.err
    assert float(wrong.out.split("psnr ")[1].split(",")[0]) < 20


def test_anothers_latent_of_a_work_folder(photo: Path, small_model: Path, cli: Run, monkeypatch: Any) -> None:
    monkeypatch.chdir(photo.parent)
    at = ["--model", small_model]
    cli("align", photo, "-w", "work", "--whole", *at)
    ran = cli("latents", "import", "latents.pt", "--index", "0", "-w", "work", *at)
    assert ran.code == 0, ran.err
    (row,) = rows(Store())
    assert (row.photo, row.photo_sha256, row.origin) == ("face.png", row.photo_sha256, "latents.pt")
    assert len(row.photo_sha256) == 64
    found = json.loads(cli("invert", "-w", "work", *at, "--json").out)
    assert (found["cache"], found["key"]) == ("hit", row.key)


def test_a_foreign_import_that_cannot_be(photo: Path, small_model: Path, cli: Run, monkeypatch: Any) -> None:
    monkeypatch.chdir(photo.parent)
    np.save("wide.npy", np.zeros((8, 65), np.float32))
    (photo.parent / "empty.npz").write_bytes(b"")
    at = ["--model", small_model]
    of = ["--photo", "face.png", "--whole", *at]
    for arguments, words in (
        (["w.npz"], "says nothing of its photo"),
        (["w.npz", "-w", "nowhere", *at], "there is no such work folder"),
        (["w.npz", "-w", ".", *of], "one latent goes with one photo"),
        (["w.npz", "latents.pt", *of], "one latent goes with one photo"),
        (["w.npz", "-w", ".", "--whole", *at], "is aligned already"),
        (["latents.pt", *of], "say which one: --index 0 to --index 1"),
        (["wide.npy", *of], "of 8 × 65, and the model takes 8 × 64"),
        (["wide.npy", "--photo", "face.png", "--whole"], "and the model takes 12 × 256"),
        (["empty.npz", *of], "the file is empty"),
        (["nothing.npz", *of], "there is no such file"),
        (["face.png", *of], "not a latent"),
        ([small_model, *of], "brings its own crop along"),
        ([small_model], "its header has no"),
    ):
        ran = cli("latents", "import", *arguments)
        assert (ran.code, ran.out, len(ran.err.splitlines())) == (2, "", 1), ran.err
        assert words in ran.err
    assert not rows(Store())


def test_whose_settings_these_are(quick: Path) -> None:
    assert preset_name(InversionSettings()) == "balanced"
    assert preset_name(dataclasses.replace(InversionSettings(), perceptual="embedded")) == "balanced"
    assert preset_name(dataclasses.replace(InversionSettings(), lr=0.5)) == "own"


# Forgetting


def test_rm_leaves_nothing_of_a_latent(store: Store, cli: Run) -> None:
    cli("latents", "list")
    store.checkpoint(A).path.write_bytes(b"x")
    flip(store.path(A), -1)
    store.get(A)  # set aside
    store.put(A, entry(0), {})
    (store.folder / f".{A}.safetensors.0.tmp").write_bytes(b"x")
    (store.folder / f"{A}.lock").write_bytes(b"")  # an earlier version's
    ran = cli("latents", "rm", A[:12], "c0de")
    assert ran.code == 0
    assert [line.split(":")[0] for line in ran.out.splitlines()] == [f"forgot {A[:12]}", f"forgot {C[:12]}"]
    assert "unlinked" in ran.out
    assert left(store) == [f"{B}.png", f"{B}.safetensors", "guard"]


def test_rm_of_all_must_be_meant(store: Store, cli: Run) -> None:
    for arguments, words in (
        ([], "give keys, or --all --yes"),
        (["--all"], "would forget 3 latents for good"),
        (["c0de", "--all", "--yes"], "give keys, or --all"),
    ):
        ran = cli("latents", "rm", *arguments)
        assert (ran.code, words in ran.err) == (2, True), ran.err
    assert len(rows(store)) == 3
    ran = cli("latents", "rm", "--all", "--yes", "--json")
    assert sorted(json.loads(ran.out)["forgotten"]) == [A, B, C]
    assert not list(store.folder.glob("*.*"))
    assert cli("latents", "rm", "--all").code == 0


def test_a_latent_at_work_on_is_not_removed(store: Store, cli: Run) -> None:
    with store.lock(C):
        ran = cli("latents", "rm", "c0de")
        assert (ran.code, "another process is at work" in ran.err) == (1, True)
        assert C not in {one.key for one in prune(store, keep_bytes=0)}
    assert [row.key for row in rows(store)] == [C]


def test_what_was_used_longest_ago_goes_first(store: Store, cli: Run) -> None:
    size = store.path(A).stat().st_size
    store.get(C)  # makes it the one used last
    report = json.loads(cli("latents", "prune", "--keep-size", str(int(2.5 * size)), "--json").out)
    assert [one["key"] for one in report["removed"]] == [B]
    assert report["freed"] == report["removed"][0]["bytes"]
    assert [row.key for row in rows(store)] == [C, A]


def test_prune_by_age_and_the_dry_run(store: Store, cli: Run, contents: Any) -> None:
    before = contents(store.root)
    dry = cli("latents", "prune", "--older-than", "90d", "--dry-run")
    assert dry.out.splitlines()[0].startswith(f"would remove latent {C[:12]}, ")
    assert contents(store.root) == before
    assert cli("latents", "prune", "--older-than", "101d").out == "0 files, 0 B were freed\n"
    assert cli("latents", "prune", "--older-than", "90d").code == 0
    assert [row.key for row in rows(store)] == [A, B]
    refused = cli("latents", "prune")
    assert (refused.code, "--keep-size 2GB" in refused.err) == (2, True)


def test_prune_sweeps_what_dead_processes_left(store: Store) -> None:
    old = time.time() - 8 * DAY

    def leave(path: Path, *, fresh: bool = False) -> str:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
        if not fresh:
            os.utime(path, (old, old))
        return path.name

    locks, small = store.root / "locks", store.thumbnail("").parent
    gone = {
        leave(store.checkpoint("d" * 64).path),
        leave(store.checkpoint(A).path, fresh=True),  # its latent is finished
        leave(store.folder / f"{'e' * 64}.damaged-1", fresh=True),
        leave(store.folder / f".{A}.safetensors.0.tmp"),
        leave(small / f"{'d' * 64}.png", fresh=True),
        leave(locks / f"{'f' * 64}.lock", fresh=True),
        leave(locks / "work-1.lock"),
        leave(locks / "x.lease"),
        leave(store.folder / "work-2.lock"),
    }
    kept = {
        leave(store.checkpoint("b" * 64).path, fresh=True),
        leave(store.folder / f".{B}.safetensors.0.tmp", fresh=True),
        leave(locks / "y.lease", fresh=True),
        leave(store.folder / "work-3.lock"),
        leave(store.folder / "notes.txt"),
    }
    with store.lock("work-4"):
        import filelock

        with filelock.FileLock(store.folder / "work-3.lock"):
            removed = {Path(one.path).name for one in prune(store, unused_s=1000 * DAY)}
            there = set(left(store))
    assert removed == gone
    assert not gone & there
    assert kept <= there
    assert "work-4.lock" in there
    assert len([row for row in rows(store) if row.state == "latent"]) == 3


@pytest.mark.parametrize(
    ("text", "value"), [("2GB", 2e9), ("500 mb", 5e8), ("1.5KiB", 1536), ("0", 0), ("12", 12), ("3 B", 3)]
)
def test_sizes(text: str, value: float) -> None:
    assert parse_size(text) == value


@pytest.mark.parametrize(("text", "value"), [("90d", 90 * DAY), ("12h", DAY / 2), ("1.5w", 10.5 * DAY)])
def test_ages(text: str, value: float) -> None:
    assert parse_age(text) == value


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "2 parsecs", "1e3MB", "nan", "90d"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(InputError, match="is no size; write it like 2GB"):
        parse_size(text)


@pytest.mark.parametrize("text", ["", "90", "90 days", "1m", "-1d", "2GB"])
def test_what_is_no_age(text: str) -> None:
    with pytest.raises(InputError, match="is no age; write it like 90d"):
        parse_age(text)
