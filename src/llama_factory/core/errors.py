"""Every error that a user can cause. The CLI prints them without a traceback and exits with 2.

FactoryError
├── ConfigError     a settings file, flag or `--set` is wrong
├── DataError       no usable row, or a file that cannot be taught
├── ModelError      a base model or adapter that cannot be found, read or adapted
├── VersionError    a workspace, version or release that is missing, damaged or busy
└── ServingError    the API cannot start or cannot answer
"""

import difflib
from collections.abc import Iterable


class FactoryError(Exception):
    """What is wrong with the value seen, where, and how to mend it: the message has all three."""


class ConfigError(FactoryError):
    """A settings file, flag or `--set` is wrong."""


class DataError(FactoryError):
    """No usable row, or a file that cannot be taught."""


class ModelError(FactoryError):
    """A base model or adapter cannot be found, read or adapted."""


class VersionError(FactoryError):
    """A workspace, version or release is missing, damaged or busy."""


class ServingError(FactoryError):
    """The API cannot start or cannot answer."""


def first_line(error: Exception) -> str:
    """What an error of another library says, in one line of bounded length, without a period."""
    return str(error).strip().split("\n")[0][:300].rstrip(".") or type(error).__name__


def suggest(word: str, known: Iterable[str]) -> str:
    """A hint to append to an error message, or nothing when no known name is close."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" Did you mean '{close[0]}'?" if close else ""
