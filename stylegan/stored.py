"""Arrays out of checkpoints: torch's zip and older containers, tensors, numpy arrays. Needs no torch.

Every size is compared with what the file holds before an array is made of it, and arrays are views of the file: nothing
is copied or converted here.
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from realdrag.errors import InputError
from realdrag.stylegan.pickles import Made, Name, Persistent, damaged, entries, too_early, unpickle

Array = npt.NDArray[Any]
Storages = Callable[[Any], Array]  # a torch storage's reference to its values [n]

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_START = bytes.fromhex("80028a0a6cfc9c46f9206aa85019")
ZIP_START = b"PK\x03\x04"

_TYPES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "BoolStorage": "<u1",
}
_PARAMETERS = {"torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"}
_NUMPY_TYPES = {"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "b1"}
MAX_AXES = 8
EXPANDED = 1 << 14  # values of a tensor that repeats stored ones (`expand`): a vector, never a kernel
MOST = 1 << 40  # of a size or stride: what is larger is no number of a tensor
BFLOAT16 = np.dtype([("bfloat16", "<u2")])  # numpy has no such type; `single` understands this one


def torch_zip(data: memoryview) -> tuple[Any, Storages]:
    """What `torch.save` put into a zip file, and where its storages lie."""
    try:
        with zipfile.ZipFile(_Reader(data)) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, UnicodeError, struct.error) as error:
        raise InputError("a zip file that is damaged or cut short", "fetch it again") from error
    records = {info.filename: info for info in infos}
    pickles = [name for name in records if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(pickles) != 1 or len(records) != len(infos):
        raise InputError("a zip file, but not one that torch.save wrote")
    folder = pickles[0].removesuffix("data.pkl")
    if any(name.startswith(f"{folder}code/") for name in records):
        raise InputError("a TorchScript program, not a checkpoint: programs are not run")
    order = records.get(f"{folder}byteorder")
    if order is not None and bytes(_record(data, order)) != b"little":
        raise InputError("written on a big-endian machine: such files are not read")

    def storage(key: str, dtype: np.dtype[Any]) -> Array:
        info = records.get(f"{folder}data/{key}")
        if info is None:
            raise damaged(f"the values {key[:40]} of a tensor are missing")
        record = _record(data, info)
        return np.frombuffer(record, dtype, len(record) // dtype.itemsize)

    for info in infos:
        _record(data, info)
    value, _ = unpickle(_record(data, records[pickles[0]]))
    for reference in _references(value):
        _referenced(reference, storage)
    return value, lambda reference: _referenced(reference, storage)


def _record(data: memoryview, info: zipfile.ZipInfo) -> memoryview:
    """The bytes of a stored record, a view."""
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
        raise InputError(
            f"a record is compressed, as torch.save never does, and would expand to {info.file_size:,} bytes: refused"
        )
    header = data[info.header_offset : info.header_offset + 30]
    if len(header) < 30 or bytes(header[:4]) != ZIP_START:
        raise InputError("a zip file that is damaged or cut short", "fetch it again")
    name, extra = struct.unpack("<HH", header[26:30])
    start = info.header_offset + 30 + name + extra
    if start + info.file_size > len(data):
        raise too_early()
    return data[start : start + info.file_size]


class _Reader(io.RawIOBase):
    """`data` as the file that zipfile wants; nothing is copied but what it reads."""

    def __init__(self, data: memoryview) -> None:
        self.data, self.at = data, 0

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = 0) -> int:
        self.at = offset + (0, self.at, len(self.data))[whence]
        if self.at < 0:
            raise OSError("before the beginning")
        return self.at

    def read(self, size: int | None = -1) -> bytes:
        piece = self.data[self.at : len(self.data) if size is None or size < 0 else self.at + size]
        self.at += len(piece)
        return bytes(piece)


def torch_legacy(data: memoryview) -> tuple[Any, Storages]:
    """What `torch.save` wrote before PyTorch 1.6: five pickles, then the values of each storage behind its count."""
    magic, at = unpickle(data)
    version, at = unpickle(data, at)
    system, at = unpickle(data, at)
    if magic != LEGACY_MAGIC or version != 1001:
        raise damaged("the bytes are not a stored tensor")
    if (entries(system) or {}).get("little_endian") is not True:
        raise InputError("written on a big-endian machine: such files are not read")
    value, at = unpickle(data, at)
    keys, at = unpickle(data, at)
    if not (isinstance(keys, list) and all(isinstance(key, str) for key in keys)):
        raise damaged("the bytes are not a stored tensor")
    places = _legacy_places(data, at, keys, value)

    def storage(key: str, dtype: np.dtype[Any]) -> Array:
        if key not in places:
            raise damaged(f"the values {key[:40]} of a tensor are missing")
        start, count, itemsize = places[key]
        if itemsize != dtype.itemsize:
            raise damaged("a storage has two types")
        return np.frombuffer(data, dtype, count, start)

    return value, lambda reference: _referenced(reference, storage)


def _legacy_places(data: memoryview, at: int, keys: list[str], value: Any) -> dict[str, tuple[int, int, int]]:
    """Key → where its values begin, how many, bytes each. The sizes come from the references within `value`."""
    sizes: dict[str, int] = {}
    for reference in _references(value):
        dtype, key, declared = _reference(reference)
        sizes[key] = dtype.itemsize
        if declared * sizes[key] > len(data) - at:
            raise _boasting(declared * sizes[key])
    places = {}
    for key in keys:
        if key not in sizes:
            raise damaged("values that no tensor refers to")
        if at + 8 > len(data):
            raise too_early()
        (count,) = struct.unpack("<q", data[at : at + 8])
        if count < 0 or at + 8 + count * sizes[key] > len(data):
            raise _boasting(count * sizes[key])
        places[key] = (at + 8, count, sizes[key])
        at += 8 + count * sizes[key]
    return places


def _boasting(size: int) -> InputError:
    return InputError(f"a tensor declares {size:,} bytes and the file does not hold them: refused")


def _references(value: Any) -> list[Persistent]:
    """All references to storages within `value`, each once, in whatever it is made of."""
    found, seen, waiting = [], set[int](), [value]
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, Persistent):
            found.append(one)
        elif isinstance(one, (list, tuple)):
            waiting.extend(one)
        elif isinstance(one, dict):
            waiting.extend(one.values())
        elif isinstance(one, Made):
            waiting.extend((one.args, one.state, one.items))
    return found


def _reference(value: Any) -> tuple[np.dtype[Any], str, int]:
    """Of a reference to a storage: its numpy type, its key, and how many values it declares."""
    parts = value.id if isinstance(value, Persistent) else None
    if not (isinstance(parts, tuple) and len(parts) >= 5 and parts[0] == "storage"):
        raise damaged("a tensor without values")
    kind, key, count = parts[1], parts[2], parts[4]
    name = kind.path.removeprefix("torch.") if isinstance(kind, Name) else ""
    if name not in _TYPES or not isinstance(key, str) or type(count) is not int or not 0 <= count < MOST:
        raise damaged("a tensor without values")
    return BFLOAT16 if name == "BFloat16Storage" else np.dtype(_TYPES[name]), key, count


def _referenced(value: Any, storage: Callable[[str, np.dtype[Any]], Array]) -> Array:
    """The values of a storage; as many as it declares must be there."""
    dtype, key, count = _reference(value)
    values = storage(key, dtype)
    if len(values) < count:
        raise _boasting(count * values.itemsize)
    return values[:count]


def single(values: Array) -> Array:
    """As float32, without a copy where that is what they are. bfloat16 is the upper half of the same number."""
    if values.dtype == BFLOAT16:
        return (values["bfloat16"].astype(np.uint32) << 16).view(np.float32)
    return np.asarray(values, "<f4")


def is_fractions(values: Array) -> bool:
    """Whether they are numbers that `single` takes."""
    return values.dtype == BFLOAT16 or values.dtype.kind == "f"


class Nested:
    """The storages that a pickle carries as bytes, `torch.storage._load_from_bytes(bytes)`, each read once."""

    def __init__(self) -> None:
        self.read: dict[int, tuple[memoryview, Array]] = {}  # by identity, and the bytes held so that it stays theirs

    def __call__(self, reference: Any) -> Array:
        if not (isinstance(reference, Made) and reference.name == "torch.storage._load_from_bytes"):
            raise damaged("a tensor without values")
        content = raw(reference.args[0] if reference.args else None)
        if id(content) not in self.read:
            if bytes(content[: len(LEGACY_START)]) != LEGACY_START:
                raise damaged("the bytes of a tensor are not a stored tensor: refused")
            value, storages = torch_legacy(content)
            self.read[id(content)] = content, storages(value)
        return self.read[id(content)][1]


def no_storages(_: Any) -> Array:
    """For places where no tensor of torch's belongs."""
    raise damaged("a tensor without values")


def raw(value: Any) -> memoryview:
    """Bytes, also as Python 3 writes them for Python 2: text encoded as latin-1."""
    if isinstance(value, memoryview):
        return value
    if isinstance(value, Made) and value.name == "_codecs.encode" and value.args:
        text = value.args[0]
        if isinstance(text, str) and value.args[1:] in ((), ("latin1",), ("latin-1",)):
            try:
                return memoryview(text.encode("latin-1"))
            except UnicodeEncodeError as error:
                raise damaged("bytes that are none") from error
    raise damaged("bytes are missing")


def tensor(value: Any, storages: Storages) -> Array:
    """The array of a tensor or parameter, as torch or numpy pickles it."""
    if isinstance(value, Made) and value.name in _PARAMETERS and value.args:
        value = value.args[0]
    if not isinstance(value, Made):
        raise damaged("something that should be a tensor is none")
    if value.name in ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor"):
        if len(value.args) < 4:
            raise damaged("a tensor without a shape")
        reference, offset, shape, strides = value.args[:4]
        return strided(storages(reference), offset, _shape(shape), _shape(strides))
    return numpy_array(value)


def _shape(value: Any) -> tuple[int, ...]:
    if isinstance(value, Made) and value.name == "torch.Size" and value.args:
        value = value.args[0]
    sound = isinstance(value, tuple) and len(value) <= MAX_AXES and all(type(n) is int and 0 <= n < MOST for n in value)
    if not sound:
        raise damaged("a tensor with an impossible shape")
    return tuple(value)


def strided(values: Array, offset: Any, shape: tuple[int, ...], strides: tuple[int, ...]) -> Array:
    """The view of `values` [n] that begins at `offset` and steps by `strides` (in values, not bytes)."""
    if len(shape) != len(strides) or type(offset) is not int or not 0 <= offset < MOST:
        raise damaged("a tensor with an impossible shape")
    size = math.prod(shape)
    if not size:
        raise damaged("an empty tensor")
    if size > max(len(values), EXPANDED):
        raise _boasting(size * values.itemsize)
    if offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True)) >= len(values):
        raise InputError("a tensor reaches outside its stored values: refused")
    steps = tuple(step * values.itemsize if n > 1 else 0 for n, step in zip(shape, strides, strict=True))
    return np.lib.stride_tricks.as_strided(values[offset:], shape, steps, writeable=False)


def numpy_array(value: Made) -> Array:
    """The array of a numpy array or scalar, as numpy pickles them."""
    function = value.name.rpartition(".")[2]
    if function == "scalar" and len(value.args) == 2:
        return _values(value.args[1], _dtype(value.args[0]), 1).reshape(())
    if function != "_reconstruct" or not isinstance(value.state, tuple) or len(value.state) < 5:
        raise damaged("something that should be a tensor is none")
    shape, fortran, content = _shape(value.state[-4]), value.state[-2], value.state[-1]
    flat = _values(content, _dtype(value.state[-3]), math.prod(shape))
    return flat.reshape(shape, order="F" if fortran else "C")


def _values(content: Any, dtype: np.dtype[Any], count: int) -> Array:
    data = raw(content)
    if not count:
        raise damaged("an empty tensor")
    if len(data) != count * dtype.itemsize:
        raise _boasting(count * dtype.itemsize)
    return np.frombuffer(data, dtype)


def _dtype(value: Any) -> np.dtype[Any]:
    """numpy.dtype("f4", False, True), its byte order in the state."""
    code = value.args[0] if isinstance(value, Made) and value.name == "numpy.dtype" and value.args else None
    if not isinstance(code, str) or code.lstrip("<>|=") not in _NUMPY_TYPES:
        raise damaged("numbers of a type that no checkpoint uses")
    order = value.state[1] if isinstance(value.state, tuple) and len(value.state) > 1 else "<"
    return np.dtype(code.lstrip("<>|=")).newbyteorder(">" if order == ">" or code.startswith(">") else "<")
