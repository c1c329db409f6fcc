"""`realdrag models`: the list, a model by its name in the library, and sheets of samples."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from realdrag import conversion, sheets, weights
from realdrag.errors import InputError
from realdrag.library import path_of
from realdrag.sheets import parse_seeds
from realdrag.stylegan import GENERATOR_FORMAT, Generator, GeneratorConfig, to_picture
from realdrag.stylegan.catalogue import CATALOGUE, find
from realdrag.weights import load_generator, resolve_model

Run = Callable[..., Any]
TINY = {"z_dim": 8, "w_dim": 8, "img_resolution": 16, "num_layers": 2, "channel_base": 64, "channel_max": 8}


def tiny(path: Path, c_dim: int = 0, **about: str) -> Path:
    """A generator of random weights."""
    config = TINY | {"c_dim": c_dim}
    torch.manual_seed(0)
    tensors = {name: value.contiguous() for name, value in Generator(GeneratorConfig(**config)).state_dict().items()}  # type: ignore[arg-type]
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, {"format": GENERATOR_FORMAT, "config": json.dumps(config), **about})
    return path


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return tiny(tmp_path / "tiny.safetensors")


@pytest.fixture
def conditional(tmp_path: Path) -> Path:
    return tiny(tmp_path / "labelled.safetensors", c_dim=3)


# The list.


def test_the_list_has_every_model_and_where_it_is(cli: Run, own_home: Path) -> None:
    tiny(path_of("lions-512"), licence="CC-BY-4.0")
    tiny(path_of("mine"), domain="things", aligner="square", licence="CC0")
    tiny(path_of("mine-encoder"))
    path_of("broken").write_bytes(b"text")
    (own_home / "models" / "afhqcat.pkl").write_bytes(b"x")
    (own_home / "models" / ".fetched").mkdir()
    (own_home / "models" / ".fetched" / "ffhq.pkl.part").write_bytes(b"x")
    report = json.loads(cli("models", "list", "--json").out)
    assert report["folder"] == str(own_home / "models")
    rows = {row["name"]: row for row in report["models"]}
    assert list(rows) == ["faces-128", *(entry.name for entry in CATALOGUE), "broken", "mine"]
    states = {name: row["state"] for name, row in rows.items() if row["state"] != "no"}
    assert states == {
        "faces-128": "embedded",
        "ffhq-1024": "part",
        "afhq-cat-512": "given",
        "lions-512": "present",
        "broken": "present",
        "mine": "present",
    }
    assert [rows[name]["present"] for name in ("faces-128", "lions-512", "afhq-cat-512")] == [True, True, False]
    assert (rows["faces-128"]["resolution"], rows["faces-128"]["aligner"]) == (128, "ffhq")
    mine = rows["mine"]
    assert (mine["domain"], mine["resolution"], mine["aligner"]) == ("things", 16, "square")
    assert rows["broken"]["note"] == "not a realdrag generator"
    assert rows["lsun-car-512"]["aligner"] == "letterbox"


def test_the_list_for_people_is_a_table(cli: Run) -> None:
    tiny(path_of("lions-512"))
    ran = cli("models", "list")
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    starts = [lines[0].index(heading) for heading in ("name", "domain", "licence", "aligner", "here")]
    (lions,) = (line for line in lines if line.startswith("lions-512"))
    assert [lions[start - 1] for start in starts[1:]] == [" "] * 4
    assert lions[starts[4] :] == "yes"
    assert "~364" in next(line for line in lines if line.startswith("ffhq-512"))
    assert "StyleGAN-Human" in ran.out


def test_the_list_does_not_wait_for_torch() -> None:
    code = (
        "import sys; from realdrag.cli import run; run(['models', 'list']); print(sorted(sys.modules), file=sys.stderr)"
    )
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stderr
    for heavy in ("torch", "cv2", "PIL", "requests"):
        assert f"'{heavy}'" not in modules


# Names.


def test_a_model_of_the_library_goes_by_its_name(own_home: Path) -> None:
    path = tiny(path_of("lions-512"))
    model = weights.resolve_model("lions-512")
    assert (model.name, model.path, model.encoder_path) == ("lions-512", path, None)
    assert weights.load_generator(model).config.img_resolution == 16
    encoder = tiny(path_of("lions-512-encoder"))
    assert weights.resolve_model("lions-512").encoder_path == encoder


def test_a_model_that_could_be_pulled_says_how() -> None:
    with pytest.raises(InputError, match=r"lions-512 is not here; `realdrag models pull lions-512` fetches it"):
        weights.resolve_model("lions-512")
    with pytest.raises(InputError, match=r"did you mean lions-512\?"):
        weights.resolve_model("lion-512")


def test_pull_by_name(cli: Run, own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a file put there by hand, through the real conversion."""
    entry = find("lions-512")
    assert entry is not None
    file = own_home / "models" / entry.file
    file.parent.mkdir()
    narrow = TINY | {"img_resolution": 512, "channel_base": 512, "channel_max": 4}
    torch.save(Generator(GeneratorConfig(**narrow)).state_dict(), file)  # type: ignore[arg-type]
    ran = cli("models", "pull", "lions-512", "--json")
    assert ran.code == 0, ran.err
    report = json.loads(ran.out)
    assert (report["path"], report["already"]) == (str(path_of("lions-512")), False)
    assert report["sha256"] == conversion.file_sha256(file)
    header = conversion.safetensors_header(path_of("lions-512"))
    assert (header["licence"], header["aligner"], header["url"]) == ("CC-BY-4.0", "square", entry.url)
    ran = cli("models", "pull", "lions-512")
    assert (ran.code, ran.err) == (0, "")
    assert "is here already" in ran.out
    ran = cli("models", "pull", "lion-512")
    assert (ran.code, ran.out) == (2, "")
    assert "did you mean lions-512?" in ran.err


# Seeds.


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("0-3", [0, 1, 2, 3]), ("5", [5]), ("9, 2 - 4,9,3", [9, 2, 3, 4]), (f"{2**32 - 1}", [2**32 - 1])],
)
def test_seeds(text: str, seeds: list[int]) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize(
    "text", ["", "a", "3-1", "-1", "1,,2", "1-2-3", "1.5", f"{2**32}", "٣", "0-4096", "0-99999999999"]
)
def test_wrong_seeds(text: str) -> None:
    with pytest.raises(InputError, match="--seeds"):
        parse_seeds(text)


# Sheets.


def cell(sheet: Any, row: int, column: int, side: int = 16) -> Any:
    return np.asarray(sheet)[row * side : (row + 1) * side, column * side : (column + 1) * side]


def test_a_picture_depends_on_its_seed_alone(plain: Path, cli: Run, tmp_path: Path) -> None:
    ran = cli("models", "sample", plain, "-o", tmp_path / "many.png", "--seeds", "0-6", "--quiet")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.splitlines()[0].endswith("many.png  7 pictures of tiny, 3 × 3, psi 0.7")
    assert ran.out.splitlines()[1:] == ["row 1: 0, 1, 2", "row 2: 3, 4, 5", "row 3: 6"]
    cli("models", "sample", plain, "-o", tmp_path / "few.png", "--seeds", "5,1", "--columns", "1")
    many, few = Image.open(tmp_path / "many.png"), Image.open(tmp_path / "few.png")
    assert (many.size, few.size) == ((48, 48), (16, 32))
    np.testing.assert_array_equal(cell(few, 0, 0), cell(many, 1, 2))
    np.testing.assert_array_equal(cell(few, 1, 0), cell(many, 0, 1))
    assert (cell(many, 0, 1) != cell(many, 0, 2)).any()
    assert (cell(many, 2, 1) == 255).all()


def test_a_seed_gives_the_picture_that_the_published_program_gives(plain: Path, cli: Run, tmp_path: Path) -> None:
    """generate.py draws z from numpy's RandomState(seed)."""
    cli("models", "sample", plain, "-o", tmp_path / "sheet.png", "--seeds", "7", "--psi", "0.5")
    generator = load_generator(resolve_model(str(plain)))
    z = torch.from_numpy(np.random.RandomState(7).randn(1, generator.config.z_dim)).float()
    want = to_picture(generator.synthesize(generator.truncated(z, 0.5)))
    np.testing.assert_array_equal(Image.open(tmp_path / "sheet.png"), want)


def test_truncation_leads_to_the_mean(plain: Path, cli: Run, tmp_path: Path) -> None:
    for psi in ("0", "1"):
        assert cli("models", "sample", plain, "-o", tmp_path / f"{psi}.png", "--seeds", "1,2", "--psi", psi).code == 0
    mean, free = Image.open(tmp_path / "0.png"), Image.open(tmp_path / "1.png")
    np.testing.assert_array_equal(cell(mean, 0, 0), cell(mean, 0, 1))
    assert (cell(free, 0, 0) != cell(free, 0, 1)).any()


def test_the_sheet_says_what_it_is(plain: Path, cli: Run, tmp_path: Path) -> None:
    for suffix in ("png", "jpg", "tif", "webp"):
        path = tmp_path / f"sheet.{suffix}"
        ran = cli("models", "sample", plain, "-o", path, "--seeds", "3,8", "--json", "--quiet")
        assert (ran.code, ran.err) == (0, "")
        report = json.loads(ran.out)
        assert report["pictures"] == [
            {"seed": 3, "class": None, "row": 0, "column": 0},
            {"seed": 8, "class": None, "row": 0, "column": 1},
        ]
        assert (report["output"], report["columns"], report["model"]["name"]) == (str(path), 2, "tiny")
        with Image.open(path) as sheet:
            assert sheet.size == (32, 16)
            xmp = sheet.tag_v2[700] if suffix == "tif" else sheet.info["xmp"]  # type: ignore[attr-defined]
            assert b">http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia<" in xmp
            assert b"row 1: 3, 8" in xmp
            if suffix == "png":
                assert sheet.info["seeds"] == "row 1: 3, 8"
                assert sheet.info["model-sha256"] == report["model"]["sha256"]
                ElementTree.fromstring(sheet.info["XML:com.adobe.xmp"])


def test_names_of_every_kind_on_a_sheet(tmp_path: Path, cli: Run) -> None:
    path = tiny(tmp_path / "<写真> &\n\x1b.safetensors")
    assert cli("models", "sample", path, "-o", tmp_path / "sheet.png", "--seeds", "1").code == 0
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert "写真" in sheet.info["model"]
        assert "<写真> &" in "".join(ElementTree.fromstring(sheet.info["XML:com.adobe.xmp"]).itertext())


def test_classes(conditional: Path, cli: Run, tmp_path: Path) -> None:
    def draw(name: str, *more: str) -> Any:
        ran = cli("models", "sample", conditional, "-o", tmp_path / name, "--columns", "8", "--json", *more)
        assert ran.code == 0, ran.err
        return json.loads(ran.out)["pictures"], Image.open(tmp_path / name)

    drawn, free = draw("free.png", "--seeds", "0-7", "--psi", "1")
    assert {each["class"] for each in drawn} == {0, 1, 2}
    chosen, fixed = draw("fixed.png", "--seeds", "7,0", "--class", str(drawn[0]["class"]), "--psi", "1")
    assert {each["class"] for each in chosen} == {drawn[0]["class"]}
    np.testing.assert_array_equal(cell(fixed, 0, 1), cell(free, 0, 0))
    _, other = draw("other.png", "--seeds", "0", "--class", str((drawn[0]["class"] + 1) % 3), "--psi", "1")
    assert (cell(other, 0, 0) != cell(free, 0, 0)).any()
    assert "(class " in cli("models", "sample", conditional, "-o", tmp_path / "x.png", "--seeds", "1").out


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--class", "3"], "it has 0 to 2"),
        (["--class", "-1"], "it has 0 to 2"),
        (["--psi", "nan"], "--psi nan"),
        (["--columns", "0"], "--columns 0"),
        (["--seeds", "x"], "--seeds 'x'"),
        (["-o", "sheet.gif"], "names no kind of picture"),
        (["-o", "gone/sheet.png"], "does not exist"),
        (["--seeds", "0-4095", "--columns", "4096", "-o", "sheet.jpg"], "65536 × 16 pixels is too large"),
    ],
)
def test_wrong_samples(
    conditional: Path, cli: Run, more: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = cli("models", "sample", conditional, "-o", "sheet.png", *more)
    assert (ran.code, ran.out) == (2, "")
    assert says in ran.err.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == [conditional.name]


def test_a_class_for_a_model_without(plain: Path, cli: Run, tmp_path: Path) -> None:
    ran = cli("models", "sample", plain, "-o", tmp_path / "sheet.png", "--class", "0", "--quiet")
    assert (ran.code, ran.out) == (2, "")
    assert "has no classes" in ran.err


def test_a_sheet_has_a_limit() -> None:
    assert sheets.check(Path("x.png"), 1024, 121, None) == 11
    with pytest.raises(InputError, match="too large"):
        sheets.check(Path("x.png"), 1024, 122, None)


def test_help(cli: Run) -> None:
    for command in ("list", "pull", "sample"):
        ran = cli("models", command, "--help")
        assert (ran.code, ran.err) == (0, "")
        assert "--json" in ran.out


def test_what_lies_in_the_folder_breaks_no_list(own_home: Path, cli: Run) -> None:
    folder = path_of("x").parent
    folder.mkdir(parents=True)
    (folder / "gone.safetensors").symlink_to(folder / "nowhere")
    (folder / "folder.safetensors").mkdir()
    tiny(folder / "endless.safetensors")
    text = (folder / "endless.safetensors").read_bytes()
    (folder / "endless.safetensors").write_bytes(text.replace(b'\\"img_resolution\\": 16', b'\\"img_resolution\\":1e9'))
    ran = cli("models", "list")
    assert ran.code == 0
    assert "gone" not in ran.out
    assert "folder.safetensors" not in ran.out
