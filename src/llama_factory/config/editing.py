"""A settings file that is edited by hand in a browser: checked first, never overwritten unseen."""

import difflib
import hashlib
from pathlib import Path

from llama_factory.config.loading import load_config
from llama_factory.core import files
from llama_factory.core.errors import ConfigError
from llama_factory.core.sentences import kind_of_sentence as kind

NO_SETTINGS = kind("problem.no_settings", "{path}: {count} characters are no settings file.")
SETTINGS_CHANGED = kind(
    "problem.settings_changed",
    "{file} was changed since it was opened here. Open it again, and make the change "
    "once more: nothing was overwritten.",
)

LONGEST = 1_000_000


def read_settings(path: Path) -> tuple[str, str]:
    """The text of a settings file and its fingerprint; a file that is none has no text.

    Raises:
        ConfigError: it cannot be read as UTF-8 text.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as UTF-8 text: {error}") from error
    return text, fingerprint(text)


def fingerprint(text: str) -> str:
    """Unlike that of every other text."""
    return hashlib.sha256(text.encode()).hexdigest()


def changed_lines(path: Path, text: str) -> list[str]:
    """How a text differs from a file, as lines of a unified difference.

    Raises:
        ConfigError: no settings can be read from the text; all problems with their lines.
    """
    check(path, text)
    before, _ = read_settings(path)
    old, new = before.splitlines(), text.splitlines()
    return list(difflib.unified_diff(old, new, "before", "after", lineterm="", n=2))[2:]


def check(path: Path, text: str) -> None:
    """Read settings from a text as the file beside it would be read.

    Raises:
        ConfigError: they are wrong; a message calls the text by the file's name.
    """
    if len(text) > LONGEST:
        raise ConfigError(NO_SETTINGS(path=path, count=len(text)))
    draft = files.temporary_beside(path).with_suffix(".yaml")
    try:
        files.write_text(draft, text)
        load_config(draft)
    except ConfigError as error:
        raise ConfigError(str(error).replace(str(draft), path.name)) from error
    finally:
        draft.unlink(missing_ok=True)


def save(path: Path, text: str, seen: str) -> None:
    """Write a settings file, if it is still the one that was seen.

    Raises:
        ConfigError: the text is wrong, or somebody changed the file meanwhile.
    """
    check(path, text)
    with files.locked(path.with_suffix(".lock"), what="saving the settings", seconds=10):
        if read_settings(path)[1] != seen:
            raise ConfigError(SETTINGS_CHANGED(file=path.name))
        files.write_text(path, text)
