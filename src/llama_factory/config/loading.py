"""YAML file or mapping -> frozen settings. Every problem is reported at once, with its line."""

import copy
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from llama_factory.config import changes as changing
from llama_factory.config.changes import Change, Changes
from llama_factory.config.dialects.keys import KEYS
from llama_factory.config.dialects.translate import is_flat, translate, translate_article
from llama_factory.config.origins import THEIR_DEFAULT, Location, Origin, Origins, find
from llama_factory.config.schema import RunConfig, has, is_section
from llama_factory.config.setting_sentences import SEEN
from llama_factory.core import plugins
from llama_factory.core.errors import ConfigError, suggest

WORD = re.compile(r"[a-z_]+(?:\.[a-z_]+)*")
"""What may be the name of a setting in a message."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Resolved:
    """Settings, and how they came about.

    Attributes:
        config: the settings themselves.
        origins: where each of them came from.
    """

    config: RunConfig
    origins: Origins

    @property
    def notes(self) -> list[str]:
        """What a person should know about flat keys that work differently here."""
        return self.origins.translation.notes


@dataclass(frozen=True)
class Native:
    """Settings before they are validated: a file's own, flat keys and changes put together.

    Attributes:
        values: as a native file would hold them.
        origins: where each of them came from.
    """

    values: dict[str, Any]
    origins: Origins


SettingsSource = str | Path | Mapping[str, Any] | None
"""A YAML file, or what one would hold; None for the defaults."""
YES = ("1", "true", "y", "yes", "on")
NO_FILE = Path("settings")
"""What settings that are in no file are called in messages."""


def load_config(settings: SettingsSource, changes: Changes = ()) -> RunConfig:
    """Read and validate settings.

    Args:
        settings: YAML with the sections of `RunConfig`, or with LLaMA-Factory's flat keys; or a
            mapping of the same; None for the defaults.
        changes: applied on top, see `Changes`.

    Raises:
        ConfigError: all problems found, one a line of text.
    """
    return resolve(settings, changes).config


def load_to_answer(settings: Path | None, changes: Changes = ()) -> RunConfig:
    """As `load_config`, but a plugin of a workspace that cannot be imported is left out.

    Strategies, metrics and cleaning steps of a plugin matter to rounds: users are answered without.
    """
    try:
        return load_config(settings, changes)
    except plugins.PluginError as error:
        if settings is None:
            raise
        logger.warning("%s\nAnswers are given without it.", error)
        _, values = _parse(settings)
    answering = ("model", "data", "knowledge", "serving")
    kept: dict[str, Any] = {name: values[name] for name in answering if name in values}
    if isinstance(kept.get("data"), dict):
        kept["data"].pop("cleaning", None)
    return load_config(kept, changes)


def resolve(
    settings: SettingsSource, changes: Changes = (), *, num_processes: int | None = None
) -> Resolved:
    """The same as `load_config`, and where every value came from.

    Args:
        settings: see `load_config`.
        changes: see `load_config`.
        num_processes: that will train together, which flat keys of the batch are for each of. None:
            as many as torchrun says it has started.
    """
    path = Path(settings) if isinstance(settings, str | Path) else NO_FILE
    if settings is None or isinstance(settings, Mapping):
        tree, values = None, changing.as_in_yaml(settings or {})
    else:
        tree, values = _parse(path)
    given = [*changing.from_environment(os.environ), *changing.read_changes(changes)]
    given = _import_plugins(path, tree, values, given)
    if num_processes is None:
        num_processes = int(os.environ.get("WORLD_SIZE") or 1)
    native = put_together(tree, values, given, num_processes)
    return Resolved(_validate(path, native), native.origins)


def _import_plugins(
    path: Path, tree: yaml.Node | None, values: dict[str, Any], changes: Sequence[Change]
) -> list[Change]:
    """Import what `plugins` names, so that the settings may use its parts.

    Returns:
        The changes, with the plugins' absolute paths among them; `values` no longer has any.
    """
    plugins.import_installed()
    in_file = Change("plugins", values.pop("plugins", None), f"line {find(tree, ('plugins',))[0]}")
    named, folder = in_file, path.parent
    for change in changes:
        if change.name == "plugins":
            named, folder = change, Path()
    others = [change for change in changes if change.name != "plugins"]
    if not named.value:
        return others
    written = named.value if isinstance(named.value, list) else [named.value]
    try:
        paths = [(folder / Path(each).expanduser()).resolve() for each in written]
        plugins.import_files(paths)
    except TypeError:
        problem = f"{named.source}: plugins: must be Python files, as in [./mine.py]."
        raise ConfigError(_listed(path, [problem])) from None
    except plugins.PluginError as error:
        raise plugins.PluginError(_listed(path, [f"{named.source}: {error}"])) from error
    return [replace(named, value=[str(each) for each in paths]), *others]


def _parse(path: Path) -> tuple[yaml.Node | None, dict[str, Any]]:
    """The file with its lines, and its values."""
    return parse_text(path, _read(path))


def parse_text(path: Path, text: str) -> tuple[yaml.Node | None, dict[str, Any]]:
    """The YAML of a settings file with its lines, and its values.

    Args:
        path: what messages call it.
        text: of the file.

    Raises:
        ConfigError: it is no YAML, gives a key twice, or holds no sections.
    """
    tree, values = _read_yaml(path, text)
    twice = [f"line {line}: {what}" for line, what in _duplicate_keys(tree)]
    if twice:
        raise ConfigError(_listed(path, twice))
    if not isinstance(values, dict):
        raise ConfigError(
            f"{path}: a settings file holds sections such as `model:` and `training:`, this one is "
            f"{type(values).__name__}."
        )
    return tree, values


def put_together(
    tree: yaml.Node | None,
    values: dict[str, Any],
    changes: Sequence[Change] = (),
    num_processes: int = 1,
) -> Native:
    """Native settings of a file in either dialect, and of changes to it. Nothing is validated."""
    has_flat_keys = _has_flat_keys(values, changes)
    flat = {each.name: each.value for each in changes if _goes_flat(each, has_flat_keys)}
    native = {} if has_flat_keys else copy.deepcopy(translate_article(values))
    flat = values | flat if has_flat_keys else flat
    done = translate(
        flat,
        None if has_flat_keys else native,
        num_processes=num_processes,
        allows_unknown=os.environ.get("ALLOW_EXTRA_ARGS", "").lower() in YES,
    )
    for name, value in done.settings.items():
        changing.apply(native, Change(name, value, done.sources[name]))
    applied = [
        each if _goes_flat(each, has_flat_keys) else changing.apply(native, each)
        for each in changes
    ]
    return Native(translate_article(native), Origins(tree, applied, done, has_flat_keys))


def _has_flat_keys(values: Mapping[str, Any], changes: Sequence[Change]) -> bool:
    """Whether the keys are LLaMA-Factory's: at least one is, and there is no section of ours."""
    if any(name in RunConfig.model_fields and name not in KEYS for name in values):
        return False
    return any(is_flat(str(name)) for name in [*values, *(change.name for change in changes)])


def _goes_flat(change: Change, has_flat_keys: bool) -> bool:
    """Whether a change is a flat key, or meant as one."""
    is_meant = (
        has_flat_keys and "." not in change.name and change.name not in RunConfig.model_fields
    )
    return is_flat(change.name) or is_meant


def _validate(path: Path, native: Native) -> RunConfig:
    origins = native.origins
    found = [_of_key(origins, key, text) for key, text in origins.translation.problems]
    try:
        config = RunConfig.model_validate(native.values)
    except ValidationError as error:
        found += [_of_setting(origins, *each) for each in flat_problems(error.errors())]
    if found:
        raise ConfigError(_listed(path, [text for _, text in sorted(found)]))
    return config


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        folder = path.parent if path.parent.is_dir() else Path()
        known = [each.name for each in folder.glob("*.yaml")]
        hint = suggest(path.name, known)
        raise ConfigError(f"{path}: there is no such settings file.{hint}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as UTF-8 text: {error}") from error


class _Loader(yaml.SafeLoader):
    """Names the line also of a value that is none of its type, and of one that holds itself."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        node = super().compose_node(parent, index)
        if node is not None and node.end_mark is None:  # its end was not reached yet
            raise yaml.MarkedYAMLError(
                problem="*alias in its own &anchor", problem_mark=node.start_mark
            )
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, TypeError, AttributeError):
            kind = node.tag.rpartition(":")[2]
            problem = f"'{node.value}' is no {kind}; put it in quotes to have a text"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark) from None


def _read_yaml(path: Path, text: str) -> tuple[yaml.Node | None, Any]:
    """The tree with its lines, and the values."""
    try:
        return yaml.compose(text, Loader=_Loader), _Loader(text).get_single_data() or {}
    except yaml.constructor.ConstructorError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(
            f"{path}, line {line}: {error.problem}. Settings are plain names with texts, numbers, "
            "lists or sections; write it as one of these."
        ) from None
    except RecursionError:
        raise ConfigError(f"{path}: sections are nested too deeply. Take some out.") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = mark.line + 1 if mark else 1
        raise ConfigError(f"{path}, line {line}: not valid YAML: {error.problem}.") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from None


def _duplicate_keys(node: yaml.Node | None) -> Iterator[tuple[int, str]]:
    if isinstance(node, yaml.MappingNode):
        first: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.value in first:
                yield line, f"'{key.value}' is given twice, first in line {first[key.value]}."
            first.setdefault(key.value, line)
            yield from _duplicate_keys(value)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _duplicate_keys(item)


def _of_key(origins: Origins, key: str, message: str) -> tuple[int, str]:
    """A flat key's problem, with its line or flag."""
    origin = origins.of_key(key)
    is_default = not origin.line and origin.label.endswith(f" of {key}")
    return origin.line, f"{key if is_default else origin.label}: {message}"


def _of_setting(origins: Origins, location: Location, message: str) -> tuple[int, str]:
    """A native setting's problem, with its line or with what set it."""
    name = ".".join(map(str, location))
    is_whole = not location or is_section(name)
    named = _named_in(origins, location, message) if is_whole else None
    origin = named or origins.of(location) or _around(origins, location)
    if origin is not None and origin.label != f"line {origin.line}":
        return origin.line, f"{origin.label}: {message}"
    if origins.tree is None:
        return 0, f"{name}: {message}" if name else message
    line = origin.line if origin else find(origins.tree, location)[0]
    if not name:
        return line, f"line {line}: {message}" if origin else message
    if len(location) == 1 and is_flat(name) and KEYS[name].target:
        message = f"a flat key of LLaMA-Factory; beside sections it is {KEYS[name].target}."
    return line, f"line {line}: {name}: {message}"


def _named_in(origins: Origins, location: Location, message: str) -> Origin | None:
    """What set the first setting that a message about a whole section, or all of them, names."""
    for word in WORD.findall(message):
        steps = tuple(word.split("."))
        for path in (steps, (*location, *steps)):
            origin = origins.of(path) if has(".".join(map(str, path)), {}) else None
            if origin is not None and not origin.label.startswith(THEIR_DEFAULT):
                return origin
    return None


def _around(origins: Origins, location: Location) -> Origin | None:
    """For a part with a wrong type: what set something in it."""
    inside = ".".join(map(str, location)) + "."
    names = [*(each.name for each in origins.changes), *origins.translation.sources]
    found = next((name for name in names if name.startswith(inside)), None)
    return origins.of(tuple(found.split("."))) if found else None


def flat_problems(
    errors: Sequence[Mapping[str, Any]], outer: Location = ()
) -> Iterator[tuple[Location, str]]:
    """Problems of parts (strategies, adapters) are nested in one of the field that holds them."""
    for error in errors:
        location = (*outer, *error["loc"])
        inner = (error.get("ctx") or {}).get("problems")
        if inner:
            yield from flat_problems(inner, location)
        else:
            yield location, _plain(error["msg"], error.get("input"))


def _plain(message: str, value: Any) -> str:
    """The library's message in our words, with the value seen."""
    message = re.sub(r"a valid dictionary or instance of \w+", "a section with settings", message)
    must = message.replace("Input should be", "must be").replace("Value error, ", "")
    is_shown = must.startswith("must be") and isinstance(value, str | int | float)
    return SEEN(why=must, value=repr(value)) if is_shown else must


def _listed(path: Path, problems: Sequence[str]) -> str:
    many = f"{len(problems)} problems" if len(problems) > 1 else "1 problem"
    return f"{path}: {many}\n" + "\n".join(f"  {problem}" for problem in problems)
