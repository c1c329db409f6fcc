"""A checkpoint becomes our safetensors once, to the bit, and is found again by its content."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_writers import TINY, every_format, nvidia, random_arrays, rosinality
from safetensors.numpy import load_file, save_file

from realdrag import conversion, weights
from realdrag.conversion import convert, converted, file_sha256, inspect, safetensors_header
from realdrag.errors import InputError, WorkError
from realdrag.progress import Silent

ARRAYS = random_arrays(TINY)
FILES = every_format(ARRAYS, TINY)


class Told(Silent):
    """Progress that remembers what was said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, message: str) -> None:
        self.lines.append(message)


@pytest.fixture
def pickle_file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.pkl"
    path.write_bytes(FILES["nvidia-4"])
    return path


@pytest.mark.parametrize("name", FILES)
def test_what_is_converted_is_equal_to_the_bit(name: str, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target.safetensors"
    source.write_bytes(FILES[name])
    found = convert(source, target, {"domain": "cats", "aligner": "square"})
    arrays = load_file(target)
    assert arrays.keys() == found.tensors.keys()
    for key, array in arrays.items():
        assert array.shape == found.tensors[key].shape
        assert array.tobytes() == found.tensors[key].tobytes(), key
    header = safetensors_header(target)
    assert (header["domain"], header["aligner"], header["source"]) == ("cats", "square", found.format)
    assert header["source_sha256"] == file_sha256(source)
    assert json.loads(header["config"])["img_resolution"] == 16
    generator = weights.load_generator(weights.resolve_model(str(target)))
    assert torch.equal(generator.state_dict()["synthesis.b16.conv1.weight"], torch.from_numpy(arrays[key_of(16)]))


def key_of(resolution: int) -> str:
    return f"synthesis.b{resolution}.conv1.weight"


def test_the_same_file_always_gives_the_same_bytes(pickle_file: Path, tmp_path: Path) -> None:
    """Latents are kept under the model's hash."""
    code = "import sys; from pathlib import Path; from realdrag.conversion import convert\n"
    code += "convert(Path(sys.argv[1]), Path(sys.argv[2]), {'name': 'é', 'domain': 'x', 'licence': 'y', 'url': 'z'})"
    copies = [tmp_path / f"{n}.safetensors" for n in range(3)]
    for copy in copies:
        subprocess.run([sys.executable, "-c", code, str(pickle_file), str(copy)], check=True)
    assert len({copy.read_bytes() for copy in copies}) == 1
    assert safetensors_header(copies[0])["name"] == "é"


def test_a_model_is_converted_once_and_found_by_its_content(
    pickle_file: Path, tmp_path: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Told()
    model = weights.resolve_model(str(pickle_file), told)
    assert model.name == "mine"
    assert model.path == own_home / "models" / "converted" / f"{file_sha256(pickle_file)}-1.safetensors"
    assert told.lines == ["mine.pkl (nvidia, 16 px) was converted, once"]
    monkeypatch.setattr(conversion, "read_file", None)  # a call would be an error
    again = weights.resolve_model(str(pickle_file.rename(tmp_path / "other name")), told)
    assert (again.path, again.sha256) == (model.path, model.sha256)
    assert len(told.lines) == 1
    assert pickle_file.parent.joinpath("other name").read_bytes() == FILES["nvidia-4"]


def test_another_content_under_the_same_name_is_another_model(pickle_file: Path) -> None:
    first = weights.resolve_model(str(pickle_file))
    pickle_file.write_bytes(nvidia(random_arrays(TINY, seed=5), TINY))
    assert weights.resolve_model(str(pickle_file)).sha256 != first.sha256


def test_formats_are_told_apart_by_content(tmp_path: Path) -> None:
    """A pickle called .safetensors and a safetensors file called .pkl."""
    (tmp_path / "a.safetensors").write_bytes(rosinality(ARRAYS))
    convert(tmp_path / "a.safetensors", tmp_path / "b.pkl", {})
    for name in ("a.safetensors", "b.pkl"):
        generator = weights.load_generator(weights.resolve_model(str(tmp_path / name)))
        np.testing.assert_array_equal(generator.mapping.w_avg, ARRAYS["mapping.w_avg"])


def test_what_stands_in_is_said(tmp_path: Path) -> None:
    path = tmp_path / "bare.pt"
    file = {name: torch.from_numpy(array) for name, array in ARRAYS.items() if name != "mapping.w_avg"}
    torch.save(file, path)
    told = Told()
    converted(path, told)
    assert told.lines[1] == "bare.pt: no mean latent: the mean of 10,000 samples stands in"


def test_a_conversion_that_fails_leaves_nothing(pickle_file: Path, own_home: Path) -> None:
    pickle_file.write_bytes(FILES["nvidia-4"][:-1000])
    with pytest.raises(InputError, match=r"mine\.pkl: the file ends too early"):
        weights.resolve_model(str(pickle_file))
    assert not list(own_home.rglob("*.safetensors"))
    pickle_file.write_bytes(FILES["nvidia-4"])
    shutil.rmtree(own_home / "models")
    (own_home / "models").write_bytes(b"in the way")
    with pytest.raises(WorkError, match="cannot write"):
        weights.resolve_model(str(pickle_file))


def test_what_is_no_file_is_said(tmp_path: Path) -> None:
    for path, said in ((tmp_path, "is not a file"), (tmp_path / "gone.pkl", "there is no such file")):
        for use in (inspect, conversion.read_file):
            with pytest.raises(InputError, match=said):
                use(path)


@pytest.mark.parametrize("name", ["nvidia-3", "tensorflow", "rosinality-legacy"])
def test_a_file_is_described(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.write_bytes(FILES[name])
    found = inspect(path)
    assert found["format"] == name.partition("-")[0]
    want: Mapping[str, object] = {
        "resolution": 16,
        "channels": {"4": 8, "8": 8, "16": 4},
        "z_dim": 6,
        "w_dim": 5,
        "num_ws": 6,
        "labels": 0,
        "mapping_layers": 2,
        "sha256": file_sha256(path),
        "bytes": len(FILES[name]),
        "notes": [],
    }
    assert {key: found[key] for key in want} == want
    generator = weights.load_generator(weights.resolve_model(str(path)))
    assert found["parameters"] == sum(p.numel() for p in generator.parameters())
    convert(path, tmp_path / "copy.safetensors", {"domain": "cats"})
    copy = inspect(tmp_path / "copy.safetensors")
    assert copy["format"] == "realdrag"
    assert copy["about"]["domain"] == "cats"
    same = want.keys() - {"sha256", "bytes"} | {"parameters", "config"}
    assert {key: copy[key] for key in same} == {key: found[key] for key in same}


def test_describing_and_converting_need_no_torch(pickle_file: Path, tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from realdrag.conversion import convert, inspect
convert(Path(sys.argv[1]), Path(sys.argv[2]), {})
inspect(Path(sys.argv[1])), inspect(Path(sys.argv[2]))
print("torch" in sys.modules)
"""
    command = [sys.executable, "-c", code, str(pickle_file), str(tmp_path / "x.safetensors")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "False\n"


# From the shell


def test_inspect_and_convert_from_the_shell(pickle_file: Path, tmp_path: Path, cli: Callable[..., Any]) -> None:
    done = cli("models", "inspect", pickle_file)
    assert done.code == 0
    for line in (f"{pickle_file}  nvidia, 16 px", "latents: z 6, w 5, 6 rows", "labels: none", "channels: 8 at 4"):
        assert line in done.out
    assert f"sha256: {file_sha256(pickle_file)}" in done.out
    report = json.loads(cli("models", "inspect", pickle_file, "--json").out)
    assert (report["file"], report["resolution"], report["labels"]) == (str(pickle_file), 16, 0)

    target = tmp_path / "cats.safetensors"
    options = ("--domain", "cats", "--aligner", "square", "--licence", "mine alone")
    done = cli("models", "convert", pickle_file, "-o", target, *options, "--json")
    assert json.loads(done.out)["sha256"] == file_sha256(target)
    header = safetensors_header(target)
    assert [header[key] for key in ("name", "domain", "aligner", "licence")] == ["mine", "cats", "square", "mine alone"]
    shown = cli("models", "inspect", target).out
    assert "domain: cats" in shown
    assert f"source_sha256: {file_sha256(pickle_file)}" in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("mine.pkl", "-o", "x.pkl"), "must end in .safetensors"),
        (("mine.pkl", "-o", "gone/x.safetensors"), "cannot be written there"),
        (("mine.pkl", "-o", "x.safetensors", "--aligner", "sqare"), "no aligner 'sqare'"),
        (("gone.pkl", "-o", "x.safetensors"), "there is no such file"),
        (("odd.safetensors", "-o", "odd.safetensors"), "is the checkpoint itself"),
        (("text.pkl", "-o", "x.safetensors"), "not a checkpoint"),
    ],
)
def test_what_cannot_be_converted_is_one_line_and_writes_nothing(
    pickle_file: Path, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(pickle_file.parent)
    Path("odd.safetensors").write_bytes(FILES["pti"])
    Path("text.pkl").write_text("hello")
    before = sorted(Path().iterdir())
    done = cli("models", "convert", *arguments)
    assert (done.code, done.out) == (2, "")
    assert said in done.err
    assert done.err.count("\n") == 1
    assert sorted(Path().iterdir()) == before


def test_a_converted_generator_is_not_converted_again(
    pickle_file: Path, tmp_path: Path, cli: Callable[..., Any]
) -> None:
    target = tmp_path / "a.safetensors"
    convert(pickle_file, target, {})
    done = cli("models", "convert", target, "-o", tmp_path / "b.safetensors")
    assert done.code == 2
    assert "is a safetensors file already" in done.err


def test_a_copy_that_is_not_the_file_s_is_made_again(pickle_file: Path, tmp_path: Path) -> None:
    copy = converted(pickle_file, Silent())
    sound = copy.read_bytes()
    other = tmp_path / "other.pkl"
    other.write_bytes(nvidia(random_arrays(TINY, seed=3), TINY))
    for wrong in (b"garbage", converted(other, Silent()).read_bytes()):
        copy.write_bytes(wrong)
        assert converted(pickle_file, Silent()) == copy
        assert copy.read_bytes() == sound


def test_a_header_that_boasts_is_refused(pickle_file: Path, tmp_path: Path, cli: Callable[..., Any]) -> None:
    path = tmp_path / "boast.safetensors"
    for config in ({"num_layers": 2_000_000_000}, {"img_resolution": 1 << 40}, {"z_dim": "six"}, {"channel_base": 32}):
        convert(pickle_file, path, {})
        header = safetensors_header(path)
        header["config"] = json.dumps(json.loads(header["config"]) | config)
        save_file(load_file(path), path, header)
        assert cli("models", "inspect", path).code == 2, config


def test_a_name_that_is_no_text_is_written_as_far_as_it_is(tmp_path: Path) -> None:
    source = tmp_path / "b\udcffd.pkl"
    source.write_bytes(FILES["pti"])
    convert(source, tmp_path / "x.safetensors", {"name": source.stem})
    assert safetensors_header(tmp_path / "x.safetensors")["name"] == "b?d"
