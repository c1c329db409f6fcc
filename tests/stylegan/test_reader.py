"""Checkpoints of every published format give the published numbers; hostile ones give one line, and nothing runs."""

from __future__ import annotations

import io
import json
import pickle
import pickletools
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_fuzz import check
from checkpoint_writers import (
    TINY,
    Persistent,
    every_format,
    module,
    nvidia,
    random_arrays,
    rosinality_state,
    stand_ins,
    tensorflow,
    torch_file,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from realdrag.errors import InputError
from realdrag.stylegan import Checkpoint, Generator, build_generator, read_checkpoint
from realdrag.stylegan.stored import strided

Golden = dict[str, np.ndarray]
Find = Callable[[str], Path]

ARRAYS = random_arrays(TINY)
FILES = every_format(ARRAYS, TINY)


@pytest.fixture(autouse=True)
def nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Whatever a test reads, no code of it may have run: the canary would leave a file here."""
    monkeypatch.chdir(tmp_path)
    yield
    assert not (tmp_path / "CANARY_FIRED").exists()


def read(data: bytes) -> Checkpoint:
    return read_checkpoint(memoryview(data), "file")


def refused(data: bytes) -> str:
    """The line that a file is refused with."""
    with pytest.raises(InputError) as caught:
        read(data)
    message = str(caught.value)
    assert message.startswith("file: ")
    assert "\n" not in message
    return message


def network(found: Checkpoint) -> Generator:
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in found.tensors.items()}
    return build_generator(tensors, {"config": json.dumps(asdict(found.config))}, "file")


# The published numbers

A_FILES = {
    "nvidia.pkl": "nvidia",
    "tf.pkl": "tensorflow",
    "tf-v4.pkl": "tensorflow",
    "rosinality.pt": "rosinality",
    "rosinality-bare.pt": "rosinality",
    "rosinality-legacy.pt": "rosinality",
}


@pytest.mark.parametrize("name", A_FILES)
def test_network_a_is_the_same_in_every_format(name: str, golden: Golden, golden_file: Find) -> None:
    """Parameters to the bit, then w, pictures and features to 1e-4."""
    found = read(golden_file(name).read_bytes())
    assert found.format == A_FILES[name]
    want = {key.removeprefix("param/"): value for key, value in golden.items() if key.startswith("param/")}
    has_mean = name != "rosinality-bare.pt"
    assert found.notes == (() if has_mean else ("no mean latent: the mean of 10,000 samples stands in",))
    assert found.tensors.keys() == want.keys()
    for key, value in want.items():
        if has_mean or key != "mapping.w_avg":
            np.testing.assert_array_equal(found.tensors[key], value, key)

    generator, z = network(found), torch.from_numpy(golden["z"])
    w = generator.truncated(z)
    pairs = [(w[:, 0], "w"), (generator.synthesize(torch.from_numpy(golden["w_plus"])), "image_wplus")]
    pairs += [(generator.synthesize(w), "image")]
    pairs += [(generator.synthesize(w, block), f"feat/{block}") for block in generator.blocks]
    if has_mean:
        pairs.append((generator.synthesize(generator.truncated(z, 0.7)), "image_psi07"))
    for ours, key in pairs:
        np.testing.assert_allclose(ours, golden[key], rtol=0, atol=1e-4, err_msg=key)


def test_network_b_is_the_published_one(golden_file: Find) -> None:
    """Labels, the clamp of half precision, kernels stored channels-last."""
    found = read(golden_file("nvidia-cond-fp16.pkl").read_bytes())
    assert (found.config.c_dim, found.config.conv_clamp) == (3, 256)
    with np.load(golden_file("cond-64.npz")) as want:
        generator = network(found)
        w = generator.truncated(torch.from_numpy(want["z"]), 1.0, torch.from_numpy(want["c"]))
        np.testing.assert_allclose(w[:, 0], want["w"], rtol=0, atol=1e-5)
        np.testing.assert_allclose(generator.synthesize(w), want["image"], rtol=0, atol=1e-4)
        with pytest.raises(ValueError, match="label of 3"):
            generator.truncated(torch.from_numpy(want["z"]))


@pytest.mark.parametrize("name", FILES)
def test_every_format_gives_the_numbers_back(name: str) -> None:
    found = read(FILES[name])
    assert found.config == TINY
    assert found.notes == ()
    for key, value in ARRAYS.items():
        if name == "tensorflow" and key.endswith("affine.bias"):
            np.testing.assert_allclose(found.tensors[key], value, atol=1e-6)  # stored less 1, and that rounds
        else:
            np.testing.assert_array_equal(found.tensors[key], value, key)


@pytest.mark.parametrize("write", [nvidia, tensorflow])
def test_labels_and_the_clamp_are_read(write: Callable[..., bytes]) -> None:
    config = replace(TINY, c_dim=3, conv_clamp=256.0)
    arrays = random_arrays(config)
    found = read(write(arrays, config))
    assert found.config == config
    np.testing.assert_array_equal(found.tensors["mapping.embed.weight"], arrays["mapping.embed.weight"])


def test_the_averaged_generator_is_taken_and_else_it_is_said() -> None:
    arrays, other = ARRAYS, random_arrays(TINY, seed=1)
    state, training = rosinality_state(arrays), rosinality_state(other)
    mean = torch.from_numpy(arrays["mapping.w_avg"])
    both = read(torch_file({"g": training, "g_ema": state, "latent_avg": mean}))
    np.testing.assert_array_equal(both.tensors["synthesis.b4.const"], arrays["synthesis.b4.const"])
    assert both.notes == ()
    one = read(torch_file({"g": training, "latent_avg": mean}))
    np.testing.assert_array_equal(one.tensors["synthesis.b4.const"], other["synthesis.b4.const"])
    assert "averaged generator is missing" in one.notes[0]
    with stand_ins():
        data = pickle.dumps({"G": module(arrays, TINY)})
    assert "averaged generator is missing" in read(data).notes[0]


def test_a_training_file_with_options_and_optimiser_is_read() -> None:
    import argparse

    optimiser = {"state": {0: {"step": 3, "exp_avg": torch.zeros(4)}}, "param_groups": [{"lr": 0.002}]}
    content = {
        "g_ema": rosinality_state(ARRAYS),
        "g_optim": optimiser,
        "args": argparse.Namespace(size=16),
        "latent_avg": torch.from_numpy(ARRAYS["mapping.w_avg"]),
    }
    assert read(torch_file(content)).config == TINY


def test_half_and_double_precision_are_widened_and_narrowed_exactly() -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        state = {name: torch.from_numpy(array).to(dtype) for name, array in ARRAYS.items()}
        found = read(torch_file(state))
        for name, value in state.items():
            np.testing.assert_array_equal(found.tensors[name], value.float().numpy(), name)


def test_an_expanded_tensor_is_read_and_an_endless_one_is_not() -> None:
    state = {name: torch.from_numpy(array) for name, array in ARRAYS.items()}
    flat = state["synthesis.b8.conv0.bias"].mean()
    found = read(torch_file(state | {"synthesis.b8.conv0.bias": flat.expand(8)}))
    np.testing.assert_array_equal(found.tensors["synthesis.b8.conv0.bias"], np.full(8, flat))
    assert "declares 4,000,000,000 bytes" in refused(
        torch_file(state | {"synthesis.b8.conv0.bias": flat.expand(10**9)})
    )


def test_a_mean_that_is_missing_is_the_samples_own() -> None:
    state = {name: torch.from_numpy(array) for name, array in ARRAYS.items() if name != "mapping.w_avg"}
    found = read(torch_file(state))
    assert found.notes == ("no mean latent: the mean of 10,000 samples stands in",)
    mapping = network(found).mapping
    mean = mapping(torch.randn(20_000, 6, generator=torch.Generator().manual_seed(1))).mean(0)
    spread = mapping(torch.randn(1000, 6)).std()
    assert (mean - torch.from_numpy(found.tensors["mapping.w_avg"])).abs().max() < 0.05 * spread


def test_without_noise_maps_there_is_none() -> None:
    with stand_ins():
        bare = {name: array for name, array in ARRAYS.items() if "noise" not in name}
        found = read(pickle.dumps(module(bare, TINY)))
    assert found.notes == ("no noise maps: pictures are made without noise",)
    assert not any(array.any() for name, array in found.tensors.items() if "noise" in name)


# What is no StyleGAN2 generator


def test_other_architectures_are_named() -> None:
    tree = module(ARRAYS, TINY)
    tree.state["_modules"]["synthesis"].state["_modules"]["b4"].state["architecture"] = "resnet"
    with stand_ins():
        assert "'resnet', not skip" in refused(pickle.dumps({"G_ema": tree}))
    tree = module(ARRAYS, TINY)
    tree.state["_modules"]["mapping"].state["_modules"]["fc0"].state["activation"] = "swish"
    with stand_ins():
        assert "'swish', not lrelu" in refused(pickle.dumps({"G_ema": tree}))


def test_layers_that_do_not_fit_together_are_named() -> None:
    state = {name: torch.from_numpy(array) for name, array in ARRAYS.items()}
    assert "synthesis.b8.conv0.bias is [9], not [8]" in refused(
        torch_file(state | {"synthesis.b8.conv0.bias": torch.zeros(9)})
    )
    del state["synthesis.b8.conv0.weight"]
    assert "synthesis.b8.conv0.weight is missing" in refused(torch_file(state))
    assert "'extra' is unknown" in refused(torch_file(rosinality_state(ARRAYS) | {"extra": torch.zeros(1)}))
    grey = replace(TINY, img_channels=1)
    assert "1 channels" in refused(nvidia(random_arrays(grey), grey))


def test_latents_and_other_files_are_said_to_be_what_they_are() -> None:
    assert "a tensor alone, a latent perhaps" in refused(torch_file(torch.zeros(1, 18, 512)))
    for data, word in (
        (b"<!DOCTYPE html><html>quota exceeded", "web page"),
        (b"\n  <html>", "web page"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF", "picture"),
        (b"\x89PNG\r\n\x1a\n", "picture"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "git-lfs pointer"),
        (b"\x1f\x8b\x08", "archive"),
        (b"", "empty"),
        (b"\x80", "not a checkpoint"),
        (b"\x80\x04", "ends too early"),
        (b"PK\x03\x04", "damaged or cut short"),
    ):
        assert word in refused(data), data
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("photo.jpg", b"")
    assert "not one that torch.save wrote" in refused(file.getvalue())


# Hostile files

HOSTILE = {
    "os-system.pkl": "asks for `os.system`",
    "posix-system.pkl": "asks for `posix.system`",
    "builtins-eval.pkl": "asks for `builtins.eval`",
    "dotted-global.pkl": "asks for `torch.serialization.os.system`",
    "nested-load-from-bytes.pkl": "bytes of a tensor are not a stored tensor",
    "nested-legacy-storage.pkl": "asks for `os.system`",
    "zip-os-system.pt": "asks for `os.system`",
    "huge-tensor.pkl": "declares 107,374,182,400 bytes and the file does not hold them",
    "stride-outside.pkl": "reaches outside its stored values",
    "zip-huge-tensor.pt": "declares 107,374,182,400 bytes and the file does not hold them",
    "zip-bomb.pt": "is compressed, as torch.save never does, and would expand to 536,870,912 bytes",
    "deep-recursion.pkl": "no generator",
    "truncated-nvidia.pkl": "ends too early",
    "stylegan3-generator.pkl": "StyleGAN3 generator: only StyleGAN2",
    "discriminator-alone.pkl": "holds a discriminator and no generator",
    "discriminator-dict.pkl": "no generator",
    "text.pkl": "not a checkpoint",
    "empty.pkl": "the file is empty",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_in_one_line(name: str, golden_file: Find) -> None:
    assert HOSTILE[name] in refused(golden_file(f"hostile/{name}").read_bytes())


def test_a_deep_list_a_cut_file_and_a_bomb_are_refused_wherever_the_tests_run(golden_file: Find) -> None:
    """The three whose files are large, made anew."""
    deep = b"\x80\x04}\x8c\x05G_ema" + b"]" * 100_000 + b"a" * 99_999 + b"s."
    assert "no generator" in refused(deep)
    assert "ends too early" in refused(golden_file("nvidia.pkl").read_bytes()[:1_000_000])
    data = torch_file({"g_ema": {"input.input": torch.zeros(1 << 20)}})
    bomb = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as new:
        for info in old.infolist():
            new.writestr(info.filename, old.read(info))
    assert "would expand to" in refused(bomb.getvalue())


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak of memory from Linux")
def test_hostile_files_take_no_memory(golden_file: Find, tmp_path: Path) -> None:
    """All of them, one after the other in one process: 50 MB beyond what importing takes."""
    paths = [str(golden_file(f"hostile/{name}")) for name in HOSTILE if golden_is_here(golden_file, name)]
    code = """
import sys
from pathlib import Path
from realdrag.conversion import read_file
from realdrag.errors import InputError
from realdrag.stylegan import read_checkpoint
# (resource's figure would begin with the parent's.)
peak = lambda: int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
before = peak()
for path in sys.argv[1:]:
    try:
        read_file(Path(path))
        print("read", path)
    except InputError:
        pass
print((peak() - before) // 1024)
"""
    done = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True, timeout=60, check=True)
    assert int(done.stdout) < 50


def golden_is_here(golden_file: Find, name: str) -> bool:
    try:
        return golden_file(f"hostile/{name}").is_file()
    except pytest.skip.Exception:
        return False


@pytest.mark.parametrize(
    "name", ["os.system", "builtins.eval", "builtins.getattr", "torch.load", "numpy.load", "torch.hub.load"]
)
@pytest.mark.parametrize("form", ["text", "stack", "new", "object", "reduce in a set"])
def test_no_name_outside_the_list_gets_past(name: str, form: str) -> None:
    package, _, last = name.rpartition(".")
    by_text = f"c{package}\n{last}\n".encode()
    by_stack = b"".join(b"\x8c" + bytes([len(part)]) + part.encode() for part in (package, last)) + b"\x93"
    data = {
        "text": b"\x80\x02" + by_text + b")R.",
        "stack": b"\x80\x04" + by_stack + b")R.",
        "new": b"\x80\x04" + by_stack + b")\x81.",
        "object": b"\x80\x02(" + by_text + b"o.",
        "reduce in a set": b"\x80\x04\x8f(" + by_stack + b")R\x90.",
    }[form]
    assert f"asks for `{name}`" in refused(data)


def test_a_name_of_several_lines_is_shown_in_one() -> None:
    """Found by the fuzzer."""
    assert "asks for `os?realdrag: all is well.system`" in refused(
        b"\x80\x04\x8c\x18os\nrealdrag: all is well\x8c\x06system\x93)R."
    )


@pytest.mark.parametrize(
    "program",
    [
        b"\x80\x04\x82\x01.",  # an extension code
        b"\x80\x02(i__main__\nx\n.",  # INST
        b"\x80\x05\x97.",  # a buffer from outside
        b"\x80\x04h\x00.",  # something never stored
        b"\x80\x04a.",  # nothing to append to
        b"\x80\x04N)R.",  # a call of nothing
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",  # 9 exabytes
        b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"\x80\x04\x8b\xff\xff\xff\x7f.",  # a number of 2 GB
        b"\x80\x04r\xff\xff\xff\xff.",
        b"\x80\x04" + b"I" + b"9" * 5000 + b"\n.",
        b"\x80\x04" + b"0" * 10,
        b"\x80\x04" + b"(" * 100 + b"t.",
        b"\x80\x04" + b"N0" * 600_000 + b"N.",  # more instructions than any checkpoint
    ],
)
def test_programs_that_make_no_sense_are_refused(program: bytes) -> None:
    assert refused(program)


def state_with(**changes: Any) -> dict[str, torch.Tensor]:
    """A state dict under published names, with dots for double underscores."""
    state = {name: torch.from_numpy(array) for name, array in ARRAYS.items()}
    return state | {name.replace("__", "."): value for name, value in changes.items()}


def torch_tensor(storage: bytes, offset: bytes, shape: bytes, strides: bytes) -> bytes:
    """A call that would build a tensor, with these arguments as instructions."""
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + offset + shape + strides + b"\x89NtR"


def module_file(attributes: bytes) -> bytes:
    """A pickle of one of NVIDIA's modules whose description holds these pairs, as instructions."""
    return b"\x80\x02ctorch_utils.persistence\n_reconstruct_persistent_obj\n}(" + attributes + b"u\x85R."


def text(content: str) -> bytes:
    return b"X" + len(content).to_bytes(4, "little") + content.encode()


GENERATOR = text("class_name") + text("Generator")


def test_nothing_is_read_beyond_an_empty_storage() -> None:
    """What lies behind the file in memory is nobody's business, and may not be there."""
    for shape in ((), (1,), (8,)):
        with pytest.raises(InputError, match="outside"):
            strided(np.empty(0, np.float32), 0, shape, (0,) * len(shape))
    assert "an empty tensor" in refused(torch_file(state_with(synthesis__b8__conv0__bias=torch.zeros(0))))
    data = bytearray(torch_file(state_with(synthesis__b8__conv0__bias=torch.zeros(0))))
    shape = data.find(b"K\x00\x85")  # its shape (0,), made (1,)
    assert shape > 0
    data[shape + 1] = 1
    assert "reaches outside" in refused(bytes(data))
    conv_clamp = torch_tensor(b"N", b"K\x00", b")", b")")
    state = text("state") + b"}(" + text("_modules") + b"}u"
    state = text("state") + b"}(" + text("conv_clamp") + conv_clamp + b"u"
    assert refused(module_file(GENERATOR + state))


def test_shapes_beyond_reason_are_refused() -> None:
    for shape, strides in (
        (b"K\x00\x8a\x09" + b"\0" * 8 + b"\x01\x86", b"K\x01K\x01\x86"),
        (b"K\x01\x85", b"\x8a\x1a" + b"\0" * 25 + b"\x01\x85"),
    ):
        made = torch_tensor(b"N", b"K\x00", shape, strides)
        file = module_file(GENERATOR + text("state") + b"}(" + text("_parameters") + b"}(" + text("a") + made + b"uu")
        assert "a tensor with" in refused(file)
    mean = {"g_ema": rosinality_state(ARRAYS), "latent_avg": torch.tensor(1.0)}
    assert "mapping.w_avg is [], not [5]" in refused(torch_file(mean))


def test_small_files_take_neither_time_nor_memory() -> None:
    """Parts that are used again and again: none is copied, converted or walked through for each use."""
    import time
    import tracemalloc

    kernel = torch.zeros(1).expand(8, 8, 3, 3)
    half = torch.zeros(1, dtype=torch.float16).expand(1 << 14)
    shared = torch.zeros(1 << 18, dtype=torch.bfloat16)
    wide = torch.zeros(1 << 17)
    tower = {f"mapping.fc{i}.weight": wide.view(1 << 8, 1 << 9) for i in range(64)}
    laughs = b"]"
    laughs = b"]q\x00" + b"".join(b"](h" + bytes([i]) + b"h" + bytes([i]) + b"eq" + bytes([i + 1]) for i in range(60))
    twice = module(ARRAYS, TINY)
    twice.state["_modules"]["again"] = twice.state["_modules"]["mapping"]
    with stand_ins():
        again = pickle.dumps({"G_ema": twice}, 4)
    files = {
        "repeats a value": torch_file(
            state_with(synthesis__b8__conv1__weight=kernel) | {f"x{i}": half for i in range(1000)}
        ),
        "shares a storage": torch_file({f"x{i}": shared for i in range(500)}),
        "many layers of one": torch_file(state_with(**{k.replace(".", "__"): v for k, v in tower.items()})),
        "a class of lists": module_file(text("class_name") + laughs),
        "a module twice": again,
        "a long name": torch_file({"q" * 1_000_000: torch.zeros(1, dtype=torch.int32), **state_with()}),
    }
    for name, data in files.items():
        tracemalloc.start()
        began = time.monotonic()
        message = refused(data)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert time.monotonic() - began < 10, name
        assert peak < 4 * len(data) + (8 << 20), name
        assert len(message) < 400, name


def test_a_module_in_two_places_is_refused_before_its_paths_are_walked() -> None:
    inner = Persistent("Layer")
    for _ in range(40):  # 2⁴⁰ paths
        outer = Persistent("Layer")
        outer.state["_modules"] = {"a": inner, "b": inner}
        inner = outer
    inner.class_name = "Generator"
    with stand_ins():
        assert "cannot be read" in refused(pickle.dumps(inner, 4))


def test_layers_that_share_their_values_make_no_large_model_of_a_small_file() -> None:
    config = replace(TINY, z_dim=512, w_dim=512, num_layers=60)
    state = {name: torch.from_numpy(array) for name, array in random_arrays(config).items()}
    weight = state["mapping.fc0.weight"]
    file = torch_file(state | {f"mapping.fc{i}.weight": weight for i in range(60)})
    assert len(file) < 2 << 20
    assert "values and the file does not hold them" in refused(file)


def test_a_network_within_itself_ends() -> None:
    loop = Persistent("Generator")
    state = loop.state
    with stand_ins():
        data = pickle.dumps({"G_ema": loop, "loop": [state]}, 4)
    # … and by hand: the module's own state among its modules.
    inner = b"\x80\x04\x8c\x17torch_utils.persistence\x8c\x1b_reconstruct_persistent_obj\x93"
    inner += b"}\x94(\x8c\x0aclass_name\x8c\x09Generator\x8c\x05state}\x94\x8c\x08_modules}\x94su\x85R\x94"
    # stack: module; memo: 0 meta, 1 state, 2 modules, 3 module
    inner += b"0h\x02\x8c\x01ah\x03s0h\x03."
    assert "cannot be read" in refused(inner)
    assert refused(data)


# Mutations

PICKLES = ["nvidia-2", "nvidia-3", "nvidia-4", "tensorflow"]
INSTRUCTIONS = {name: [place for _, _, place in pickletools.genops(FILES[name])] for name in PICKLES}
PLACES = st.floats(0, 1, exclude_max=True)
MUTATION = st.tuples(PLACES, st.integers(0, 8), st.binary(max_size=8))


@settings(max_examples=400, deadline=None, derandomize=True, database=None)
@given(name=st.sampled_from(sorted(FILES)), mutations=st.lists(MUTATION, min_size=1, max_size=6), keep=PLACES)
def test_mutated_files_are_refused_or_read(name: str, mutations: list[Any], keep: float) -> None:
    """Bytes replaced, left out and put in, anywhere; sometimes the end is missing."""
    data = bytearray(FILES[name])
    for place, removed, put in mutations:
        at = int(place * len(data))
        data[at : at + removed] = put
    check(bytes(data if keep < 0.9 else data[: int(keep * len(data))]))


@settings(max_examples=400, deadline=None, derandomize=True, database=None)
@given(
    name=st.sampled_from(PICKLES),
    place=PLACES,
    code=st.sampled_from([bytes([b]) for b in range(256)]),
    more=st.binary(max_size=3),
)
def test_instructions_put_in_are_refused_or_read(name: str, place: float, code: bytes, more: bytes) -> None:
    """Instructions put into the pickles between others, where they are understood as such."""
    data, starts = FILES[name], INSTRUCTIONS[name]
    at = starts[int(place * len(starts))]
    check(data[:at] + code + more + data[at:])
