"""What an answer must match: `response_format`, and vLLM's names of the same."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from llama_factory.inference.question import RequestError
from llama_factory.inference.request import Constraint
from llama_factory.serving.protocol.values import short

FORMATS = ("text", "json_object", "json_schema")
GUIDED = {"json": "json_schema", "regex": "regex", "choice": "choice", "grammar": "grammar"}
"""vLLM's name of a constraint -> ours."""

OTHER_OPTIONS = frozenset(
    {
        "json_object",
        "disable_any_whitespace",
        "disable_additional_properties",
        "disable_fallback",
        "whitespace_pattern",
        "structural_tag",
    }
)
MAX_CHOICE_TEXTS = 1000


def constraint_of(fields: Mapping[str, Any]) -> Constraint | None:
    """What an answer must match.

    Args:
        fields: `response_format`, `structured_outputs` and those that begin with `guided_`.

    Raises:
        RequestError: one cannot be read, or there are several.
    """
    constraints = dict(_constraints(fields))
    if len(constraints) > 1:
        raise RequestError(
            f"{' and '.join(constraints)} are different constraints. Keep one.",
            param=list(constraints)[1],
        )
    return next(iter(constraints.values()), None)


def _constraints(fields: Mapping[str, Any]) -> Iterator[tuple[str, Constraint]]:
    if (given := fields.get("response_format")) is not None and (found := _format(given)):
        yield "response_format", found
    if (given := fields.get("structured_outputs")) is not None:
        yield "structured_outputs", _structured(given)
    for name in GUIDED:
        if (given := fields.get(f"guided_{name}")) is not None:
            yield f"guided_{name}", _guided(name, given, f"guided_{name}")


def _format(given: Any) -> Constraint | None:
    kind = given.get("type") if isinstance(given, dict) else None
    if kind not in FORMATS:
        raise _wrong("response_format", f"type must be one of {', '.join(FORMATS)}", given)
    if kind == "text":
        return None
    if kind == "json_object":
        return Constraint("json")
    place = "response_format.json_schema"
    named = given.get("json_schema")
    if not isinstance(named, dict) or not isinstance(named.get("schema"), dict):
        raise _wrong(place, "must be an object with a name and a schema", named)
    unknown = named.keys() - {"name", "schema", "strict", "description"}
    if unknown:
        raise _wrong(f"{place}.{min(unknown)}", "is not known. Leave it out", named[min(unknown)])
    return Constraint("json_schema", json.dumps(named["schema"], ensure_ascii=False))


def _structured(given: Any) -> Constraint:
    place = "structured_outputs"
    options = {k: v for k, v in given.items() if v is not None} if isinstance(given, dict) else {}
    if options.get("json_object") is True and len(options) == 1:
        return Constraint("json")
    chosen = [name for name in options if name in GUIDED]
    if len(chosen) != 1:
        raise _wrong(place, f"must hold one of {', '.join(GUIDED)} or json_object", given)
    for name in options.keys() - {*chosen}:
        if name not in OTHER_OPTIONS or options[name]:
            raise _wrong(f"{place}.{name}", "is not supported. Leave it out", options[name])
    return _guided(chosen[0], options[chosen[0]], f"{place}.{chosen[0]}")


def _guided(name: str, given: Any, place: str) -> Constraint:
    if name == "choice":
        return Constraint("choice", json.dumps(_choices(given, place), ensure_ascii=False))
    if name == "json":
        return Constraint("json_schema", json.dumps(_schema(given, place), ensure_ascii=False))
    if not isinstance(given, str) or not given:
        raise _wrong(place, "must be a text", given)
    return Constraint("regex" if name == "regex" else "grammar", given)


def _choices(given: Any, place: str) -> list[str]:
    are_texts = isinstance(given, list) and all(isinstance(each, str) and each for each in given)
    if not are_texts or not 0 < len(given) <= MAX_CHOICE_TEXTS:
        raise _wrong(place, f"must be a list of 1 to {MAX_CHOICE_TEXTS} texts", given)
    return list(given)


def _schema(given: Any, place: str) -> dict[str, Any]:
    try:
        value = json.loads(given) if isinstance(given, str) else given
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise _wrong(place, "must be a JSON schema, an object", given)
    return value


def _wrong(place: str, what: str, value: object) -> RequestError:
    return RequestError(f"{place}: {what}; it is {short(value)}.", param=place)
