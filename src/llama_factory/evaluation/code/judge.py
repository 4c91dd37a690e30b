"""The tests' side: runs tests on a program that lives in another process."""

import builtins
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from llama_factory.evaluation.code.channel import Channel, Codec, Coded, Message

ABOUT = ("__name__", "__doc__", "__qualname__")
"""Python's own attributes that tests may read of a program's objects."""


class Remote:
    """An object of the program, seen by the tests.

    It is like nothing but itself and other objects of the program: a comparison with a plain value
    is never left to the program.
    """

    def __init__(self, number: int, judge: "Judge") -> None:
        self.__dict__.update(_number=number, _judge=judge)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call it in its own process."""
        return self._judge.call(self, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name not in ABOUT:
            raise AttributeError(name)
        return self._judge.do("get", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._judge.do("set", self, name, value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Remote) and self._judge.do("eq", self, other) is True

    def __hash__(self) -> int:
        return hash(self._number)

    def __bool__(self) -> bool:
        return self._judge.do("truth", self) is True

    def __iter__(self) -> Iterator[Any]:
        iterator = self._judge.do("iter", self)
        while (item := self._judge.do("next", iterator)) != ():
            yield item[0]

    def __next__(self) -> Any:
        item = self._judge.do("next", self)
        if item == ():
            raise StopIteration
        return item[0]

    def __contains__(self, item: object) -> bool:
        return any(each == item for each in self)

    def __instancecheck__(self, instance: object) -> bool:
        return isinstance(instance, Remote) and self._judge.do("isinstance", instance, self) is True

    def __enter__(self) -> Any:
        return self._judge.do("enter", self)

    def __exit__(self, *error: object) -> None:
        self._judge.do("exit", self)

    def _compared(self, name: str, other: object) -> bool:
        if not isinstance(other, Remote):
            raise TypeError("an object of the program has no order among plain values")
        return self._judge.do(name, self, other) is True


def _add_operators() -> None:
    def two(name: str) -> Callable[..., Any]:
        return lambda self, *others: self._judge.do(name, self, *others)

    def turned(name: str) -> Callable[..., Any]:
        return lambda self, other: self._judge.do(name, other, self)

    for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul"):
        setattr(Remote, f"__{name}__", two(name))
        setattr(Remote, f"__r{name}__", turned(name))
    for name in ("and", "or", "xor", "lshift", "rshift"):
        setattr(Remote, f"__{name}__", two(f"{name}_" if name in ("and", "or") else name))
    for name in ("neg", "abs", "invert", "getitem", "setitem", "delitem"):
        setattr(Remote, f"__{name}__", two(name))
    for name in ("len", "str", "repr", "int", "float"):
        setattr(Remote, f"__{name}__", two(name))
    for name in ("lt", "le", "gt", "ge"):
        setattr(Remote, f"__{name}__", lambda self, other, name=name: self._compared(name, other))


_add_operators()


class Judge(Codec):
    """Runs tests on a program that lives in another process."""

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self._channel, channel.handle = channel, self._called_back
        self._remotes: dict[int, Any] = {}

    def start(self, program: str) -> list[str]:
        """Run the program; returns the names that it defines.

        Raises:
            RuntimeError: it failed.
        """
        reply = self._channel.ask({"program": program})
        if "names" not in reply:
            raise RuntimeError("the program failed")
        return [name for name in reply["names"] if isinstance(name, str)]

    def run(self, tests: str, names: Sequence[str]) -> None:
        """Run the tests, which fail by raising.

        Python's own names keep their meaning: a program's `abs` or `isinstance` is not taken.
        """
        code = compile(tests, "tests.py", "exec")
        wanted = _names_in(code)
        space: dict[str, Any] = {"__name__": "tests"}
        for name in names:
            if name in wanted and not hasattr(builtins, name):
                space[name] = self.do("name", name)
        exec(code, space)

    def do(self, what: str, *args: Any) -> Any:
        """Let something be done with objects of the program."""
        return self._answer({"do": what, "args": list(map(self.encode, args))})

    def call(self, target: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Call a function of the program; what it changes in lists and the like is changed here."""
        named = {name: self.encode(value) for name, value in kwargs.items()}
        message = {
            "call": self.encode(target),
            "args": [*map(self.encode, args)],
            "kwargs": named,
        }
        return self._answer(message, (*args, *kwargs.values()))

    def _answer(self, message: Message, given: Sequence[Any] = ()) -> Any:
        reply = self._channel.ask(message)
        for value, coded in zip(given, reply.get("after", ()), strict=False):
            _change(value, self.decode(coded) if coded else value)
        if "error" in reply:
            raise self._error(reply)
        return self.decode(reply["value"])

    def _error(self, reply: Message) -> Exception:
        kind = self.decode(reply["error"])
        is_error = isinstance(kind, type) and issubclass(kind, Exception)
        if not is_error or issubclass(kind, StopIteration | StopAsyncIteration):
            return RuntimeError("the program raised what tests must not see")
        error: Exception = kind(*[self.decode(each) for each in reply.get("error_args", ())])
        return error

    def encode(self, value: Any) -> Coded:
        """A value of the tests, or an object of the program on its way home."""
        if type(value) is Remote:
            return ["here", value.__dict__["_number"]]
        return super().encode(value)

    def encode_other(self, value: Any) -> Coded:
        """Objects of the program go home; of the tests', the program may call functions."""
        for number, remote in self._remotes.items():
            if remote is value:
                return ["here", number]
        if not callable(value):
            raise TypeError(f"{type(value).__name__} cannot be given to a program")
        return super().encode_other(value)

    def decode_other(self, kind: str, rest: Sequence[Any]) -> Any:
        """An object of the program; its own kinds of errors are kinds of errors here."""
        number = int(rest[0])
        if kind == "here":
            return self.objects[number]
        if number not in self._remotes and kind == "error":
            parent = getattr(builtins, rest[2])
            assert issubclass(parent, Exception)
            self._remotes[number] = type(str(rest[1]), (parent,), {})
        return self._remotes.setdefault(number, Remote(number, self))

    def _called_back(self, message: Message) -> Message:
        """The program calls a function that the tests gave to it."""
        try:
            function = self.objects[message["callback"]]
            value = function(*map(self.decode, message["args"]))
            return {"value": self.encode(value)}
        except Exception as error:  # noqa: BLE001 - it is the program's to catch
            return {"error": type(error).__name__}


def _change(value: Any, now: Any) -> None:
    """Give a list, dict or set the content it has after a call."""
    if type(value) is list and type(now) is list:
        value[:] = now
    elif type(value) in (dict, set) and type(now) is type(value):
        value.clear()
        value.update(now)


def _names_in(code: types.CodeType) -> set[str]:
    inner = (each for each in code.co_consts if isinstance(each, types.CodeType))
    return {*code.co_names, *(name for each in inner for name in _names_in(each))}
