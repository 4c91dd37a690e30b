"""Messages between tests and a program: plain values, and numbers in place of other objects."""

import builtins
import collections
import importlib
import json
import os
import select
import struct
import sys
import time
import types
from collections.abc import Callable, Sequence
from typing import Any

MOST_SENT = 64 * 2**20
"""Most bytes of a message."""
KEPT_OUT = {"antigravity", "this"}
"""Standard modules with side effects on import."""
VALUES = (int, float, complex, str, bytes, list, tuple, dict, set, frozenset, collections.deque)
PARTS = ("real", "imag")

Message = dict[str, Any]
Coded = list[Any]


class Channel:
    """Messages with another process, each answered before the next; either side may ask."""

    def __init__(self, reads: int, writes: int, deadline: float = float("inf")) -> None:
        self._reads, self._writes, self._deadline = reads, writes, deadline
        self.handle: Callable[[Message], Message] = lambda message: {"broken": True}

    def ask(self, message: Message) -> Message:
        """Send a request; what the other side asks meanwhile is answered."""
        self.send(message)
        while True:
            got = self.receive()
            if "reply" in got:
                reply: Message = got["reply"]
                return reply
            self.send({"reply": self.handle(got)})

    def send(self, message: Message) -> None:
        """Write a whole message."""
        data = json.dumps(message).encode()
        left = memoryview(struct.pack(">Q", len(data)) + data)
        while left:
            left = left[os.write(self._writes, left) :]

    def receive(self) -> Message:
        """Read a whole message.

        Raises:
            EOFError: the other side is gone, or takes too long, or sends too much.
        """
        (size,) = struct.unpack(">Q", self._read(8))
        if size > MOST_SENT:
            raise EOFError
        message: Message = json.loads(self._read(size))
        return message

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            wait = None if self._deadline == float("inf") else self._deadline - time.monotonic()
            ready = wait is None or select.select([self._reads], [], [], max(0.0, wait))[0]
            some = os.read(self._reads, size - len(data)) if ready else b""
            if not some:
                raise EOFError
            data += some
        return data


class Codec:
    """Plain values as JSON; other objects stay where they are and go as numbers."""

    def __init__(self) -> None:
        self.objects: dict[int, Any] = {}
        self._numbers: dict[int, int] = {}

    def encode(self, value: Any) -> Coded:
        """A value as lists, texts and numbers."""
        if value is None or value is True or value is False:
            return ["k", value]
        for kind in VALUES:
            if isinstance(value, kind):
                return _encode_value(kind, value, self.encode)
        name = getattr(value, "__name__", None)
        if isinstance(name, str) and getattr(builtins, name, None) is value:
            return ["builtin", name]
        if isinstance(value, types.ModuleType):
            return ["module", value.__name__]
        return self.encode_other(value)

    def encode_other(self, value: Any) -> Coded:
        """An object that stays here."""
        if id(value) not in self._numbers:
            self._numbers[id(value)] = len(self.objects)
            self.objects[len(self.objects)] = value  # kept, so its id is not given to another
        return ["there", self._numbers[id(value)]]

    def decode(self, coded: Coded) -> Any:
        """The inverse of `encode`."""
        kind, *rest = coded
        if kind in _DECODED:
            return _DECODED[kind](self.decode, *rest)
        return self.decode_other(kind, rest)

    def decode_other(self, kind: str, rest: Sequence[Any]) -> Any:
        """An object of the other side, or one of this side that comes home."""
        raise TypeError(kind)


def _encode_value(kind: Any, value: Any, encode: Callable[[Any], Coded]) -> Coded:
    """By the methods of the plain type, whatever a class of its own does in its place."""
    if kind in _SCALARS:
        return [kind.__name__, _SCALARS[kind](value)]
    if kind is dict:
        return ["dict", [[encode(key), encode(each)] for key, each in dict.items(value)]]
    coded = [encode(each) for each in kind.__iter__(value)]
    fields = getattr(type(value), "_fields", None) if kind is tuple else None
    if isinstance(fields, tuple):
        return ["named", type(value).__name__, list(fields), coded]
    return [kind.__name__, coded]


_SCALARS: dict[type, Callable[[Any], Any]] = {
    int: lambda value: int.__format__(value, "x"),
    float: float.hex,
    complex: lambda value: [complex.__getattribute__(value, each).hex() for each in PARTS],
    str: str.__str__,
    bytes: bytes.hex,
}


def _named(decode: Callable[[Coded], Any], name: str, fields: list[str], coded: list[Coded]) -> Any:
    return collections.namedtuple(name, fields)(*map(decode, coded))


def _module(_: Any, name: str) -> Any:
    root = name.partition(".")[0]
    if root not in sys.stdlib_module_names or root in KEPT_OUT:
        raise ImportError(name)
    return importlib.import_module(name)


_DECODED: dict[str, Callable[..., Any]] = {
    "k": lambda _, value: value if value is None else bool(value),
    "int": lambda _, text: int(text, 16),
    "float": lambda _, text: float.fromhex(text),
    "complex": lambda _, parts: complex(*map(float.fromhex, parts)),
    "str": lambda _, text: str(text),
    "bytes": lambda _, text: bytes.fromhex(text),
    "list": lambda decode, items: [decode(each) for each in items],
    "tuple": lambda decode, items: tuple(decode(each) for each in items),
    "set": lambda decode, items: {decode(each) for each in items},
    "frozenset": lambda decode, items: frozenset(decode(each) for each in items),
    "deque": lambda decode, items: collections.deque(decode(each) for each in items),
    "dict": lambda decode, items: {decode(key): decode(each) for key, each in items},
    "named": _named,
    "builtin": lambda _, name: getattr(builtins, str(name)),
    "module": _module,
}
