"""Outside code that adds parts: Python files named in the settings, and installed packages.

A plugin registers its parts when it is imported, in the same registries as our own files. Files are
imported only because a person named them under `plugins:`; a package declares the entry point group
`llama_factory.plugins`.
"""

import importlib.util
import sys
import traceback
from collections.abc import Iterable
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from llama_factory.core import files
from llama_factory.core.errors import ConfigError, suggest

GROUP = "llama_factory.plugins"
"""The entry point group of packages that bring parts."""


class PluginError(ConfigError):
    """Outside code that cannot be imported: answering goes on without it, rounds do not."""


_imported: dict[str, tuple[Path, str]] = {}
"""By module name: each plugin file of this process, and its SHA-256 when it was imported."""


def import_file(path: Path) -> None:
    """Run a plugin file, once for each content: an edited file is run again.

    Files of the same name in folders of the same name stand for one module: the last one holds, so
    that copies of a workspace can be used in one process.

    Args:
        path: an absolute path.

    Raises:
        PluginError: there is no such file, or it fails; the message names file, line and exception.
    """
    if not path.is_file():
        near = [each.name for each in path.parent.glob("*.py")]
        raise PluginError(f"plugin {path} does not exist.{suggest(path.name, near)}")
    name, this = _module_of(path), (path, files.sha256(path))
    if _imported.get(name) == this:
        return
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise PluginError(f"plugin {path} is no Python file; its name must end in .py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses and pickle look for the classes in it
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise PluginError(f"plugin {line_of(path, error)}: {describe(error)}") from error
    _imported[name] = this


def import_files(paths: Iterable[Path]) -> None:
    """Run plugin files, as another process of the same program did.

    Raises:
        PluginError: one cannot be imported, or two would stand for one module.
    """
    by_name: dict[str, Path] = {}
    for path in paths:
        other = by_name.setdefault(_module_of(path), path)
        if other != path:
            raise PluginError(
                f"plugins {other} and {path} have the same name in folders of the same name. "
                "Rename one of them."
            )
        import_file(path)


def _module_of(path: Path) -> str:
    return f"{path.stem}_plugin_of_{path.parent.name}"


def imported_files() -> tuple[Path, ...]:
    """The plugin files that this process has imported and that are there still, in their order."""
    return tuple(path for path, _ in _imported.values() if path.is_file())


@cache
def import_installed() -> tuple[EntryPoint, ...]:
    """Import what installed packages declare in the group `llama_factory.plugins`, once.

    Raises:
        PluginError: one cannot be imported; the message names the package and the exception.
    """
    found = tuple(entry_points(group=GROUP))
    for each in found:
        try:
            each.load()
        except (Exception, SystemExit) as error:
            package = each.dist.name if each.dist else each.module
            raise PluginError(
                f"plugin {each.name} of the installed package {package}: {describe(error)}. "
                "Mend the package, or uninstall it."
            ) from error
    return found


def identity() -> list[str]:
    """What identifies all outside code that was imported; empty where there is none.

    For names of caches: what a plugin made is not used again once its code is another.
    """
    packages = import_installed()
    versions = [f"{each.value} {each.dist.version if each.dist else ''}" for each in packages]
    return [*versions, *(content for _, content in _imported.values())]


def line_of(path: Path, error: BaseException) -> str:
    """`file:line` of the last line of a file that ran before it failed."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f"{path}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path)]
    return f"{path}:{lines[-1]}" if lines else str(path)


def describe(error: BaseException) -> str:
    """An exception of outside code in one line."""
    return f"{type(error).__name__}: {error}"
