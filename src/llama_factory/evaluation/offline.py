"""No network for a while: what a library would fetch is refused. Files on this machine are read."""

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import Any

SWITCHES = (
    ("huggingface_hub.constants", "HF_HUB_OFFLINE"),
    ("datasets.config", "HF_HUB_OFFLINE"),
    ("datasets.config", "HF_DATASETS_OFFLINE"),
)
"""Where libraries hold what they read of the environment when they were imported."""
VARIABLES = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")
"""Read by the processes that libraries start."""


@contextmanager
def offline() -> Iterator[None]:
    """Refuse every download of this process, in all of its threads, until the block ends.

    The Hugging Face libraries are told to use their caches alone. Everything else that asks for an
    address by name or number (`requests`, `urllib`, `aiohttp` do) gets a `ConnectionError`.
    """
    modules = [(import_module(module), name) for module, name in SWITCHES]
    with ExitStack() as stack:
        for module, name in modules:
            stack.enter_context(_held(module, name, True))
        for name in VARIABLES:
            stack.enter_context(_variable(name, "1"))
        stack.enter_context(_held(socket, "getaddrinfo", _refuse))
        yield


def _refuse(host: object, *_: object, **__: object) -> None:
    raise ConnectionError(f"{host} was to be reached over the network, which is switched off here")


@contextmanager
def _held(holder: Any, name: str, value: object) -> Iterator[None]:
    """An attribute with another value; a library that no longer has it is an error, not ignored."""
    before = getattr(holder, name)
    setattr(holder, name, value)
    try:
        yield
    finally:
        setattr(holder, name, before)


@contextmanager
def _variable(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
