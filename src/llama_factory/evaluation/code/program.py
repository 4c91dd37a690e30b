"""The program's side: runs it, and does with its objects what tests ask."""

import builtins
import operator
from collections.abc import Callable, Sequence
from typing import Any

from llama_factory.evaluation.code.channel import Channel, Codec, Coded, Message


class Program(Codec):
    """Runs a program, and what tests ask of it."""

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self._channel, channel.handle = channel, self._handle
        self._space: dict[str, Any] = {"__name__": "answer"}

    def serve(self) -> None:
        """Answer for as long as somebody asks."""
        while True:
            self._channel.send({"reply": self._handle(self._channel.receive())})

    def _handle(self, message: Message) -> Message:
        if "program" in message:
            exec(compile(message["program"], "answer.py", "exec"), self._space)
            return {"names": list(self._space)}
        try:
            args = [self.decode(each) for each in message["args"]]
            if "do" in message:
                return {"value": self.encode(self._do(message["do"], args))}
            return self._call(message, args)
        except Exception as error:  # noqa: BLE001 - it is for the tests to see
            return self._error_reply(error)

    def _call(self, message: Message, args: list[Any]) -> Message:
        kwargs = {name: self.decode(each) for name, each in message["kwargs"].items()}
        given = (*args, *kwargs.values())
        try:
            value = self.decode(message["call"])(*args, **kwargs)
            reply = {"value": self.encode(value)}
        except Exception as error:  # noqa: BLE001 - it is for the tests to see
            reply = self._error_reply(error)
        is_open = [type(each) in (list, dict, set) for each in given]
        pairs = zip(is_open, given, strict=True)
        return reply | {"after": [self.encode(each) if may else None for may, each in pairs]}

    def _do(self, what: str, args: list[Any]) -> Any:
        if what == "name":
            return self._space[args[0]]
        return _DONE[what](*args) if what in _DONE else getattr(operator, what)(*args)

    def _error_reply(self, error: Exception) -> Message:
        args = [self.encode(a) for a in error.args if isinstance(a, str | int | float)]
        return {"error": self.encode(type(error)), "error_args": args}

    def encode_other(self, value: Any) -> Coded:
        """A kind of error goes with its name and that of the nearest built-in one."""
        coded = super().encode_other(value)
        if isinstance(value, type) and issubclass(value, Exception):
            own = (getattr(builtins, each.__name__, None) for each in value.__mro__)
            parent = next(each for each in own if each in value.__mro__)
            return ["error", coded[1], value.__name__, parent.__name__]
        return coded

    def decode_other(self, kind: str, rest: Sequence[Any]) -> Any:
        """Objects of this side come home; a function of the tests can be called."""
        number = rest[0]
        if kind == "here":
            return self.objects[number]

        def function(*args: Any) -> Any:
            coded = [self.encode(each) for each in args]
            reply = self._channel.ask({"callback": number, "args": coded})
            if "error" in reply:
                raise getattr(builtins, reply["error"], RuntimeError)
            return self.decode(reply["value"])

        return function


def _next(iterator: Any) -> Any:
    """The next item in a tuple, which is empty where there is none."""
    for each in iterator:
        return (each,)
    return ()


_DONE: dict[str, Callable[..., Any]] = {
    "get": getattr,
    "set": setattr,
    "truth": bool,
    "iter": iter,
    "next": _next,
    "len": len,
    "str": str,
    "repr": repr,
    "int": int,
    "float": float,
    "isinstance": isinstance,
    "enter": lambda value: value.__enter__(),
    "exit": lambda value: value.__exit__(None, None, None),
}
