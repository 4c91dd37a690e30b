"""A text that somebody pasted: read as a settings file is, and what each of its keys came to.

Nothing that it names is opened or run, and a text that is made to exhaust its reader is refused.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from llama_factory.config.confined import BY_HAND, REFUSED
from llama_factory.config.dialects.keys import DEFAULTS, KEYS
from llama_factory.config.loading import Native, parse_text, put_together
from llama_factory.config.minimal import inline
from llama_factory.config.origins import find
from llama_factory.config.schema import RunConfig
from llama_factory.core.errors import ConfigError

NAME = Path("settings")
"""What messages call the text."""
LONGEST = 60_000
DEEPEST = 12
OF_A_RUN = (
    *("model", "data", "training", "strategies", "evaluation"),
    *("do_train", "do_predict", "overwrite_output_dir", "resume_from_checkpoint", "log_dir"),
)
"""What of the settings a single run follows."""
KEPT_OUT = {
    "plugins": "names Python files that would be run; they are named in the settings file of the "
    "workspace, by whoever may run programs on this machine",
    "ray": "the page starts runs on its own machine",
    "output_dir": "the page gives a run its folder, by its name",
    "upload_to": "whoever may run programs on this machine uploads models from it",
    "upload_is_private": "it belongs to upload_to",
}
"""Settings that a text cannot bring, and why."""
WITHOUT_MEANING = {
    "data.feedback": "only rounds of a workspace take what users said",
    "data.keep_rows": "only versions of a workspace keep rows",
}
"""Settings that change nothing in a single run."""
Outcome = Literal["used", "ignored", "refused"]


@dataclass(frozen=True)
class PastedKey:
    """One key of the text.

    Attributes:
        name: of it.
        value: as it was written, in one line.
        line: where, from 1.
        outcome: what became of it.
        settings: what it sets here, as `model.adapter.rank: 16`.
        remark: what differs, why it changes nothing, or what is wrong.
    """

    name: str
    value: str
    line: int
    outcome: Outcome
    settings: tuple[str, ...]
    remark: str


@dataclass(frozen=True)
class Pasted:
    """A text that was read.

    Attributes:
        keys: all its keys in their order.
        is_flat: whether they are LLaMA-Factory's.
        values: the settings that it comes to, not validated yet.
        defaults: settings that are as in LLaMA-Factory because no key gives them.
    """

    keys: tuple[PastedKey, ...]
    is_flat: bool
    values: Mapping[str, Any]
    defaults: tuple[str, ...] = ()


def read_pasted(text: str) -> Pasted:
    """Read YAML in either dialect.

    Raises:
        ConfigError: it is no settings file at all; wrong keys are told with the others.
    """
    _require_harmless(text)
    tree, values = parse_text(NAME, text)
    own = {name: each for name, each in values.items() if name not in KEPT_OUT}
    native = put_together(tree, own)
    if not native.origins.is_flat:
        return Pasted(tuple(_own_keys(tree, values)), False, _of_a_run(native.values))
    return Pasted(
        tuple(_flat_keys(tree, values, native)),
        True,
        _of_a_run(native.values),
        tuple(_taken(native)),
    )


def _require_harmless(text: str) -> None:
    """Refuse what grows while it is read: a short text can stand for thousands of millions."""
    if len(text) > LONGEST:
        raise ConfigError(f"{len(text)} characters are no settings file. At most {LONGEST} are.")
    depth = 0
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                raise ConfigError(
                    f"{_line_of(event)}: *{event.anchor} stands for something written elsewhere. "
                    "Write it out."
                )
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST:
                raise ConfigError(
                    f"{_line_of(event)}: sections are nested too deeply. Take some out."
                )
    except yaml.YAMLError:
        return  # told with its line by whoever reads it


def _line_of(event: yaml.Event) -> str:
    return f"line {event.start_mark.line + 1}" if event.start_mark else "the text"


def _of_a_run(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a single run of a page follows."""
    found = {name: each for name, each in values.items() if name in OF_A_RUN}
    for setting in (*REFUSED, *WITHOUT_MEANING):
        section, _, key = setting.partition(".")
        if isinstance(found.get(section), dict):
            found[section] = {n: each for n, each in found[section].items() if n != key}
    return found


def _left_out(paths: Sequence[str], value: Any) -> tuple[Outcome, str] | None:
    """What becomes of a key that sets one of the settings that no page gives."""
    for path in paths:
        if path in REFUSED and value:
            return "refused", f"{REFUSED[path]}. {BY_HAND}"
        if path in REFUSED or path in WITHOUT_MEANING:
            return "ignored", WITHOUT_MEANING.get(path, "off, as always on a page")
    return None


def _own_keys(tree: yaml.Node | None, values: Mapping[str, Any]) -> Iterator[PastedKey]:
    for name, value in values.items():
        line, shown = find(tree, (name,))[0], _short(value)
        if name in OF_A_RUN:
            inner = value.items() if isinstance(value, dict) else ()
            left = {key: _left_out([f"{name}.{key}"], each) for key, each in inner}
            became = tuple(f"{name}.{key}: {_short(each)}" for key, each in inner if not left[key])
            yield PastedKey(name, shown, line, "used", became or (f"{name}: {shown}",), "")
            for key, why in left.items():
                if why:
                    where, kind = find(tree, (name, key))[0], why[0]
                    yield PastedKey(f"{name}.{key}", _short(value[key]), where, kind, (), why[1])
        elif name == "output_dir":
            yield PastedKey(name, shown, line, "ignored", (), KEPT_OUT[name])
        elif name in KEPT_OUT or name not in RunConfig.model_fields:
            remark = KEPT_OUT.get(name, "no such section")
            yield PastedKey(name, shown, line, "refused", (), remark)
        else:
            yield PastedKey(name, shown, line, "ignored", (), "a single run does not follow it")


def _flat_keys(
    tree: yaml.Node | None, values: Mapping[str, Any], native: Native
) -> Iterator[PastedKey]:
    done = native.origins.translation
    problems, ignored = dict(done.problems), dict(each.split(": ", 1) for each in done.ignored)
    notes: dict[str, str] = dict(each.split(": ", 1) for each in done.notes)
    for name in [*values, *(each for each in problems if each not in values)]:
        line, shown = find(tree, (name,))[0], _short(values.get(name))
        paths = [path for path, key in done.sources.items() if key == name]
        left = _left_out(paths, values.get(name))
        became = tuple(
            f"{path}: {inline(done.settings[path])}"
            for path in paths
            if path.split(".")[0] in OF_A_RUN
        )
        if name in KEPT_OUT:
            kind: Outcome = "ignored" if name == "output_dir" else "refused"
            yield PastedKey(name, shown, line, kind, (), KEPT_OUT[name])
        elif name in problems:
            yield PastedKey(name, shown, line, "refused", (), problems[name])
        elif left:
            yield PastedKey(name, shown, line, left[0], (), left[1])
        elif name in ignored or values.get(name) is None:
            remark = ignored.get(name, "it is empty")
            yield PastedKey(name, shown, line, "ignored", (), remark)
        else:
            remark = notes.get(name) or KEYS[name].about
            targets = became or tuple(filter(None, KEYS[name].target.split(", ")))
            outcome: Outcome = "used" if targets else "ignored"
            yield PastedKey(name, shown, line, outcome, targets, remark)


def _taken(native: Native) -> Iterator[str]:
    """Settings that come from LLaMA-Factory's defaults."""
    done = native.origins.translation
    for path, key in done.sources.items():
        if key not in done.given and (key in DEFAULTS or not key):
            yield f"{path}: {inline(done.settings[path])}"


def _short(value: Any, most: int = 200) -> str:
    written = inline(value)
    return written if len(written) <= most else f"{written[:most]}…"
