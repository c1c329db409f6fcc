"""Pickles read without running them.

A pickle is a program for a small stack machine; two of its instructions name things to import and two call them. This
machine does the others, and where a call stands it only writes down what was to be called with what (`Made`). Names are
compared with a list: a checkpoint has no use for any other. So nothing of a file is ever imported, called or executed,
and what comes back are plain values that can be looked through. They may share parts and contain themselves: whoever
looks through them counts.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from realdrag.errors import InputError

MAX_STEPS = 1_000_000  # the largest honest files need a twentieth
MAX_TEXT = 16 << 20  # bytes; a network's program text has some ten thousand
MAX_LINE = 1000  # bytes of a line in the old text instructions
MAX_NUMBER = 64  # bytes of a whole number
MAX_DEPTH = 64  # containers within containers, as deep as anything of ours looks

PERSISTENT_OBJECT = "torch_utils.persistence._reconstruct_persistent_obj"
NETWORK = "dnnlib.tflib.network.Network"

_STORAGES = ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
# All that StyleGAN2's published programs, and torch and numpy of any version, write into checkpoints.
ALLOWED = frozenset(
    [
        ("torch_utils.persistence", "_reconstruct_persistent_obj"),
        ("dnnlib.tflib.network", "Network"),
        ("dnnlib.util", "EasyDict"),
        ("torch._utils", "_rebuild_tensor"),
        ("torch._utils", "_rebuild_tensor_v2"),
        ("torch._utils", "_rebuild_parameter"),
        ("torch._utils", "_rebuild_parameter_with_state"),
        ("torch.storage", "_load_from_bytes"),
        ("torch", "Size"),
        ("torch", "device"),
        *(("torch", f"{kind}Storage") for kind in _STORAGES),
        ("collections", "OrderedDict"),
        ("collections", "defaultdict"),
        ("argparse", "Namespace"),
        ("pathlib", "PosixPath"),
        ("pathlib", "WindowsPath"),
        ("numpy", "dtype"),
        ("numpy", "ndarray"),
        *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
        ("_codecs", "encode"),
        *((module, name) for module in ("builtins", "__builtin__") for name in ("set", "object", "dict", "list")),
        *((module, "_reconstructor") for module in ("copyreg", "copy_reg")),
    ]
)


@dataclass(frozen=True)
class Name:
    """Something that a pickle would have had imported."""

    path: str  # "collections.OrderedDict"


@dataclass(eq=False)
class Made:
    """What a call would have made: `name(*args)`, then `state` set and `items` put into it."""

    name: str
    args: tuple[Any, ...]
    state: Any = None
    items: dict[Any, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Persistent:
    """A reference to something kept outside the pickle: torch's storages."""

    id: Any


def too_early() -> InputError:
    """The error for a file that promises more than it holds."""
    return InputError("the file ends too early", "it was cut short: fetch it again")


def shown(value: Any) -> str:
    """What stands for `value` in a message: text, cut. (To print anything else may never end.)"""
    return value[:40] if isinstance(value, str) else type(value).__name__


def one_line(message: str) -> str:
    """A message as it can be shown: names out of a file may hold anything."""
    return "".join(c if c.isprintable() else "?" for c in message)


def damaged(what: str) -> InputError:
    """The error for a pickle that no program would have written."""
    return InputError(f"not a sound checkpoint: {what}")


def unpickle(data: memoryview, start: int = 0) -> tuple[Any, int]:
    """The value of the pickle in `data` from `start` on, and where it ends.

    Byte strings are views of `data`, sets are lists, calls are `Made`, imported names `Name`. Keys of dicts are text,
    numbers, booleans or None; entries with other keys are left out. Raises InputError for a name that is not in
    `ALLOWED` and for anything unsound.
    """
    machine = _Machine(data, start)
    try:
        return machine.run(), machine.at
    except InputError:
        raise
    except (IndexError, KeyError, TypeError, ValueError, AttributeError, struct.error, OverflowError) as error:
        raise damaged(f"instruction {machine.steps} at byte {machine.at} makes no sense") from error


class _Machine:
    """The stack machine of pickle protocols 0 to 5, without what imports, calls or reaches outside."""

    def __init__(self, data: memoryview, start: int) -> None:
        self.data, self.at, self.steps = data, start, 0
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        operations = _OPERATIONS
        while True:
            self.steps += 1
            if self.steps > MAX_STEPS:
                raise damaged(f"more than {MAX_STEPS:,} instructions")
            code = self.take(1)[0]
            if code == 0x2E:  # STOP
                return self.stack.pop()
            operation = operations.get(code)
            if operation is None:
                raise damaged(f"instruction {bytes([code])!r}, which no checkpoint uses")
            operation(self)

    # What instructions carry with them

    def take(self, count: int) -> memoryview:
        """The next `count` bytes."""
        end = self.at + count
        if count < 0 or end > len(self.data):
            raise too_early()
        piece = self.data[self.at : end]
        self.at = end
        return piece

    def number(self, form: str) -> int:
        """A number in struct's little-endian form: "B", "H", "i", "I", "Q"."""
        value: int = struct.unpack("<" + form, self.take(struct.calcsize("<" + form)))[0]
        return value

    def line(self) -> str:
        """Up to the next line feed."""
        text = bytes(self.data[self.at : self.at + MAX_LINE + 1])
        length = text.find(b"\n")
        if length < 0:
            raise damaged("a line has no end")
        self.at += length + 1
        return text[:length].decode()

    def text(self, form: str) -> str:
        """Text behind its length."""
        length = self.number(form)
        if length > MAX_TEXT:
            raise damaged(f"a text of {length:,} bytes") if length <= len(self.data) else too_early()
        return str(self.take(length), "utf-8", "surrogatepass")

    def long(self, form: str) -> int:
        """A whole number of any size behind its length."""
        length = self.number(form)
        if length > MAX_NUMBER:
            raise damaged(f"a number of {length:,} bytes")
        return int.from_bytes(self.take(length), "little", signed=True)

    # The stack

    def pop_mark(self) -> list[Any]:
        """Everything above the last mark."""
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def several(self, count: int) -> None:
        items = tuple(self.stack[-count:])
        if len(items) < count:
            raise IndexError
        self.stack[-count:] = [items]

    def store(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def put_items(self, pairs: list[Any]) -> None:
        target = self.stack[-1]
        entries = target.items if isinstance(target, Made) else target
        if not isinstance(entries, dict) or len(pairs) % 2:
            raise TypeError
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if key is None or isinstance(key, (str, int, float)):
                entries[key] = value

    def extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif not isinstance(target, Made):
            raise TypeError

    # Names and calls: written down, never followed

    def name(self, module: Any, name: Any) -> None:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise TypeError
        if (module, name) not in ALLOWED:
            shown = f"{module}.{name}"[:100]
            raise InputError(
                f"the file asks for `{shown}`, which a checkpoint has no use for: refused",
                "nothing of it was run; do not open it with other programs",
            )
        self.stack.append(Name(f"{module}.{name}"))

    def stack_name(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.name(module, name)

    def call(self) -> None:
        args, name = self.stack.pop(), self.stack.pop()
        if not (isinstance(name, Name) and isinstance(args, tuple)):
            raise TypeError
        self.stack.append(Made(name.path, args))

    def call_with_keywords(self) -> None:
        self.stack.pop()  # nothing that we read is made so
        self.call()

    def build(self) -> None:
        state = self.stack.pop()
        if not isinstance(self.stack[-1], Made):
            raise TypeError
        self.stack[-1].state = state

    def discard(self) -> None:
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self.stack.pop()


def _push(read: Callable[[_Machine], Any]) -> Callable[[_Machine], None]:
    def operation(machine: _Machine) -> None:
        machine.stack.append(read(machine))

    return operation


def _old_integer(line: str) -> int | bool:
    if line in ("00", "01"):  # how protocol 0 writes False and True
        return line == "01"
    return int(line.removesuffix("L"))


def _pairs(items: list[Any]) -> dict[Any, Any]:
    machine = _Machine(memoryview(b""), 0)
    machine.stack.append({})
    machine.put_items(items)
    return machine.stack[0]  # type: ignore[no-any-return]


_OPERATIONS: dict[int, Callable[[_Machine], Any]] = {
    code[0]: operation
    for code, operation in {
        b"\x80": lambda m: m.take(1),  # PROTO
        b"\x95": lambda m: m.take(8),  # FRAME: the length of what follows, for readers of streams
        b"(": lambda m: m.marks.append(len(m.stack)),
        b"0": _Machine.discard,
        b"1": lambda m: m.pop_mark(),
        b"2": _push(lambda m: m.stack[-1]),
        b"N": _push(lambda m: None),
        b"\x88": _push(lambda m: True),
        b"\x89": _push(lambda m: False),
        b"I": _push(lambda m: _old_integer(m.line())),
        b"L": _push(lambda m: _old_integer(m.line())),
        b"J": _push(lambda m: m.number("i")),
        b"K": _push(lambda m: m.number("B")),
        b"M": _push(lambda m: m.number("H")),
        b"\x8a": _push(lambda m: m.long("B")),
        b"\x8b": _push(lambda m: m.long("I")),
        b"F": _push(lambda m: float(m.line())),
        b"G": _push(lambda m: struct.unpack(">d", m.take(8))[0]),
        b"X": _push(lambda m: m.text("I")),
        b"\x8c": _push(lambda m: m.text("B")),
        b"\x8d": _push(lambda m: m.text("Q")),
        b"V": _push(lambda m: m.line()),
        b"T": _push(lambda m: m.take(m.number("I"))),  # Python 2's text: bytes
        b"U": _push(lambda m: m.take(m.number("B"))),
        b"B": _push(lambda m: m.take(m.number("I"))),
        b"C": _push(lambda m: m.take(m.number("B"))),
        b"\x8e": _push(lambda m: m.take(m.number("Q"))),
        b"\x96": _push(lambda m: m.take(m.number("Q"))),
        b")": _push(lambda m: ()),
        b"\x85": lambda m: m.several(1),
        b"\x86": lambda m: m.several(2),
        b"\x87": lambda m: m.several(3),
        b"t": _push(lambda m: tuple(m.pop_mark())),
        b"]": _push(lambda m: []),
        b"l": _push(lambda m: m.pop_mark()),
        b"a": lambda m: m.extend([m.stack.pop()]),
        b"e": lambda m: m.extend(m.pop_mark()),
        b"}": _push(lambda m: {}),
        b"d": _push(lambda m: _pairs(m.pop_mark())),
        b"s": lambda m: m.put_items([m.stack.pop(-2), m.stack.pop()]),
        b"u": lambda m: m.put_items(m.pop_mark()),
        b"\x8f": _push(lambda m: []),  # a set
        b"\x90": lambda m: m.extend(m.pop_mark()),
        b"\x91": _push(lambda m: m.pop_mark()),
        b"p": lambda m: m.store(int(m.line())),
        b"q": lambda m: m.store(m.number("B")),
        b"r": lambda m: m.store(m.number("I")),
        b"\x94": lambda m: m.store(len(m.memo)),
        b"g": _push(lambda m: m.memo[int(m.line())]),
        b"h": _push(lambda m: m.memo[m.number("B")]),
        b"j": _push(lambda m: m.memo[m.number("I")]),
        b"c": lambda m: m.name(m.line(), m.line()),
        b"\x93": _Machine.stack_name,
        b"R": _Machine.call,
        b"\x81": _Machine.call,  # NEWOBJ
        b"\x92": _Machine.call_with_keywords,
        b"b": _Machine.build,
        b"Q": _push(lambda m: Persistent(m.stack.pop())),
    }.items()
}


def entries(value: Any) -> dict[Any, Any] | None:
    """`value` as a dict, if it is one or a call that makes one (OrderedDict, EasyDict); else None."""
    if isinstance(value, dict):
        return value
    if not (isinstance(value, Made) and value.name.endswith(("Dict", "dict"))):
        return None
    found = dict(value.items)
    if value.args and isinstance(value.args[0], list):  # Python 2: OrderedDict([[key, value], …])
        pairs = [pair for pair in value.args[0] if isinstance(pair, (list, tuple)) and len(pair) == 2]
        found |= {key: item for key, item in pairs if isinstance(key, str)}
    return found
