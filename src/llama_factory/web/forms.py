"""A form for settings, drawn from their JSON schema; what was sent, back to settings."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml

from llama_factory.config.minimal import inline
from llama_factory.config.schema import RunConfig
from llama_factory.continual.presets import PRESETS
from llama_factory.model.source import SHORT_NAMES

Kind = Literal["text", "number", "choice", "list", "set", "yaml", "part"]
SETS = frozenset({"data.dataset", "data.eval_dataset"})
"""Lists whose items can be ticked."""
COMMON = (
    *("model.base_model", "data.train_path", "data.dataset", "training.objective"),
    *("model.adapter", "training.epochs", "training.learning_rate", "training.batch_size"),
    *("data.max_tokens", "strategies"),
)
"""What is set in most runs, in this order."""
SECTIONS = ("model", "data", "training", "evaluation")
SINGLE = (
    *("do_train", "do_predict", "overwrite_output_dir"),
    *("resume_from_checkpoint", "log_dir"),
)
OMITTED = frozenset(
    {
        *("model.trust_remote_code", "training.checkpoint_mirror", "training.preemption_notice"),
        *("data.feedback", "data.keep_rows"),
    }
)
"""Not for a page, or without a meaning in a single run."""
HELP = Path(__file__).parent / "strings" / "help"
"""What settings do in other languages than English, a file each."""
LONGEST = 4000
"""Characters of a field."""


@dataclass(frozen=True)
class FormField:
    """One field of the form.

    Attributes:
        name: of the setting, such as `training.epochs`.
        kind: how it is asked for.
        help: what it does.
        usual: its default, as one would write it.
        value: what was given; empty for the default.
        choices: all it may be, or what is proposed of it.
        low: its limit; empty for none.
        high: the same.
        problem: what is wrong with it.
        fields: settings of the part that is chosen.
        part: that it is a setting of; empty for none.
    """

    name: str
    kind: Kind
    help: str
    usual: str
    value: str = ""
    choices: tuple[str, ...] = ()
    low: str = ""
    high: str = ""
    problem: str = ""
    fields: tuple["FormField", ...] = ()
    part: str = ""

    @property
    def label(self) -> str:
        """The last word of its name."""
        return self.name.rpartition(".")[2]

    @property
    def items(self) -> tuple[str, ...]:
        """What is given in a list."""
        return tuple(each.strip() for each in self.value.split(",") if each.strip())

    @property
    def is_set(self) -> bool:
        """Whether something is given in it or in its part."""
        return bool(self.value) or any(each.is_set for each in self.fields)

    def every(self) -> Iterator["FormField"]:
        """It and all in it."""
        yield self
        for each in self.fields:
            yield from each.every()


@dataclass(frozen=True)
class FormGroup:
    """Fields that belong together.

    Attributes:
        name: `common`, or a section of the settings.
        fields: in their order.
    """

    name: str
    fields: tuple[FormField, ...]

    @property
    def is_set(self) -> bool:
        """Whether something is given in it, or wrong."""
        return any(each.is_set or each.problem for field in self.fields for each in field.every())


@dataclass(frozen=True)
class _Context:
    """What was given, by name of a setting, what is wrong with it, and what is proposed."""

    given: Mapping[str, str]
    problems: Mapping[str, str]
    proposed: Mapping[str, Iterable[str]]


def draw_form(
    given: Mapping[str, str],
    problems: Mapping[str, str],
    proposed: Mapping[str, Iterable[str]],
) -> list[FormGroup]:
    """The whole form.

    Args:
        given: by name of a setting what was written for it.
        problems: by name what is wrong.
        proposed: by name what a person may want to choose.
    """
    context = _Context(given, problems, proposed)
    known = {name: _field(name, each, _usual(name), context) for name, each in _settings()}
    groups = [FormGroup("common", tuple(known.pop(name) for name in COMMON))]
    for section in (*SECTIONS, "run"):
        inside = [n for n in known if n.startswith(f"{section}.") or section == "run"]
        groups.append(FormGroup(section, tuple(known.pop(name) for name in inside)))
    return groups


def help_of(language: str, field: FormField) -> str:
    """What a field does, in a language; the schema has it in English."""
    texts = _translated(language)
    return texts.get(f"{field.name}@{field.part}") or texts.get(field.name, field.help)


@cache
def _translated(language: str) -> Mapping[str, str]:
    path = HELP / f"{language}.json"
    if not path.is_file():
        return {}
    texts: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    return texts


def read_form(sent: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Settings as a native file holds them, out of what a form sent; and what cannot be read."""
    values: dict[str, Any] = {}
    problems: dict[str, str] = {}
    for group in draw_form(sent, {}, {}):
        for field in group.fields:
            try:
                found = _value(field)
            except ValueError as error:
                problems[field.name] = str(error)
            else:
                if found is not None:
                    _put(values, field.name, found)
    return values, problems


def written(values: Mapping[str, Any]) -> dict[str, str]:
    """By name of a field what stands in it, for settings as a native file holds them."""
    sent: dict[str, str] = {}
    for name, schema in _settings():
        value: Any = values
        for step in name.split("."):
            value = value.get(step) if isinstance(value, Mapping) else None
        if value is None:
            continue
        if "oneOf" in schema:
            part = {"type": value} if isinstance(value, str) else dict(value)
            sent |= {f"{name}.{key}": _written(each) for key, each in part.items()}
        else:
            sent[name] = _written(value)
    return sent


def _written(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return ", ".join(value) if value else "[]"
    return inline(value)


def _put(values: dict[str, Any], name: str, value: Any) -> None:
    *sections, key = name.split(".")
    for section in sections:
        values = values.setdefault(section, {})
    values[key] = value


@cache
def _schema() -> dict[str, Any]:
    return RunConfig.model_json_schema()


@cache
def _defaults() -> dict[str, Any]:
    return RunConfig().model_dump(mode="json")


def _usual(name: str) -> Any:
    value: Any = _defaults()
    for step in name.split("."):
        value = value[step]
    return value


@cache
def _settings() -> tuple[tuple[str, dict[str, Any]], ...]:
    """Every setting of a form with its schema."""
    properties = _schema()["properties"]
    found = [each for name in SECTIONS for each in _inside(name, properties[name])]
    found += [(name, properties[name]) for name in ("strategies", *SINGLE)]
    return tuple(each for each in found if each[0] not in OMITTED)


def _inside(name: str, schema: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    section = _schema()["$defs"][schema["$ref"].rpartition("/")[2]]
    for key, inner in section["properties"].items():
        if "$ref" in inner:
            yield from _inside(f"{name}.{key}", inner)
        else:
            yield f"{name}.{key}", inner


def _field(name: str, schema: Mapping[str, Any], usual: Any, context: _Context) -> FormField:
    kind, choices, limits = _kind(schema)
    proposed = tuple(context.proposed.get(name, ()))
    kind = "set" if name in SETS and proposed else kind
    fields: tuple[FormField, ...] = ()
    if kind == "part":
        usual = usual["type"]
        part = context.given.get(f"{name}.type", "") or usual
        fields = tuple(
            replace(_field(f"{name}.{key}", each, each.get("default"), context), part=part)
            for key, each in _properties(schema, part)
        )
    return FormField(
        name,
        kind,
        " ".join(str(schema.get("description", "")).split()),
        _shown(usual, name),
        context.given.get(f"{name}.type" if kind == "part" else name, "").strip()[:LONGEST],
        choices or proposed or _proposed(name),
        *limits,
        problem=_problem(name, context.problems, [each.name for each in fields]),
        fields=fields,
    )


def _properties(schema: Mapping[str, Any], chosen: str) -> list[tuple[str, dict[str, Any]]]:
    """The settings of one of several parts."""
    part: dict[str, Any] = next((each for each in schema["oneOf"] if each["title"] == chosen), {})
    return [(key, each) for key, each in part.get("properties", {}).items() if key != "type"]


def _kind(schema: Mapping[str, Any]) -> tuple[Kind, tuple[str, ...], tuple[str, str]]:
    """How a setting is asked for, what it may be, and its limits."""
    if "oneOf" in schema:
        return "part", tuple(each["title"] for each in schema["oneOf"]), ("", "")
    options = [each for each in schema.get("anyOf", [schema]) if each.get("type") != "null"]
    words = [str(each) for option in options for each in _words(option)]
    if words and all(_words(option) for option in options):
        return "choice", tuple(words), ("", "")
    kinds = {option.get("type") for option in options}
    if "array" in kinds:
        simple = all(o.get("items", {}).get("type") == "string" for o in options if "items" in o)
        return ("list" if simple else "yaml"), tuple(words), ("", "")
    if kinds <= {"integer", "number"}:
        return "number", (), _limits(options[0])
    return ("yaml" if "object" in kinds else "text"), (), ("", "")


def _words(schema: Mapping[str, Any]) -> tuple[Any, ...]:
    if schema.get("type") == "boolean":
        return ("true", "false")
    return (schema["const"],) if "const" in schema else tuple(schema.get("enum", ()))


def _limits(schema: Mapping[str, Any]) -> tuple[str, str]:
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    below, above = (
        ("> " if "exclusiveMinimum" in schema else "≥ "),
        ("< " if "exclusiveMaximum" in schema else "≤ "),
    )
    return (
        "" if low is None else f"{below}{low:g}",
        "" if high is None else f"{above}{high:g}",
    )


def _proposed(name: str) -> tuple[str, ...]:
    if name in ("model.base_model", "training.objective.teacher"):
        return SHORT_NAMES
    return tuple(PRESETS) if name == "strategies" else ()


def _shown(usual: Any, name: str) -> str:
    """A default as one would write it."""
    if name == "strategies":
        return "default"
    if usual is None:
        return ""
    if isinstance(usual, list):
        usual = [_name_of(each) for each in usual]
    return _written(usual) if usual not in ([], {}) else ""


def _name_of(part: Any) -> Any:
    return part["type"] if isinstance(part, Mapping) and "type" in part else part


def _problem(name: str, problems: Mapping[str, str], inner: Iterable[str]) -> str:
    """What is wrong with a setting; also with what lies in it and has no field."""
    fields = set(inner)
    found = [
        text if where == name else f"{where.removeprefix(name + '.')}: {text}"
        for where, text in problems.items()
        if where == name or (where.startswith(f"{name}.") and where not in fields)
    ]
    return " ".join(found)


def _value(field: FormField) -> Any:
    """What a field says, as YAML would; None for nothing.

    Raises:
        ValueError: it is no YAML.
    """
    if field.kind == "part":
        options = {each.label: _value(each) for each in field.fields}
        options = {key: each for key, each in options.items() if each is not None}
        if not field.value and not options:
            return None
        return {"type": field.value or field.usual} | options
    text = field.value
    if not text:
        return None
    if field.kind in ("list", "set"):
        return _list(text, field.choices)
    return _yaml(text, field.name) if field.kind == "yaml" else text


def _list(text: str, words: tuple[str, ...]) -> Any:
    if text in words and text not in ("", "[]") and len(words) == 1:
        return text
    return [each.strip() for each in text.strip("[]").split(",") if each.strip()]


def _yaml(text: str, name: str) -> Any:
    if not any(sign in text for sign in "[{:") and not (name == "strategies" and text in PRESETS):
        return [each.strip() for each in text.split(",") if each.strip()]
    try:
        if any(isinstance(each, yaml.AliasEvent) for each in yaml.parse(text, yaml.SafeLoader)):
            raise ValueError("'*' stands for something written elsewhere. Write it out.")
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError):
        raise ValueError(
            "This is no YAML. Write names with commas between them, or [name, {type: name, "
            "key: value}]."
        ) from None
