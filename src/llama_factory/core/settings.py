"""What every settings class shares, and the registry that lets a YAML `type:` pick a part.

Adding a part is adding a file: `import_parts` imports every file of a package of parts.
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterable
from typing import Any, Generic, Self, TypeVar, cast

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError, core_schema

from llama_factory.core.errors import suggest

FOLLOWS = "default_factory_not_called"
"""Pydantic's name for a default that was not made because another value is wrong."""


class Settings(BaseModel):
    """Base of all settings.

    Unknown names are errors, values never change once loaded, and the text under a field is its
    help everywhere.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    @model_validator(mode="wrap")
    @classmethod
    def _explain_unknown_names(cls, values: Any, validate: Callable[[Any], Self]) -> Self:
        try:
            return validate(values)
        except ValidationError as error:
            own = [problem for problem in error.errors() if problem["type"] != FOLLOWS]
            problems = [cls._explained(problem) for problem in own]
            raise ValidationError.from_exception_data(cls.__name__, problems) from None

    @classmethod
    def _explained(cls, problem: ErrorDetails) -> InitErrorDetails:
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden" and len(problem["loc"]) == 1:
            names = [field.alias or name for name, field in cls.model_fields.items()]
            message = "no such setting." + suggest(str(problem["loc"][0]), names)
        context = {"message": message, "problems": problem.get("ctx", {}).get("problems", [])}
        kind = PydanticCustomError("setting", "{message}", context)
        return {"type": kind, "loc": problem["loc"], "input": problem["input"]}


Part = TypeVar("Part", bound=Settings)


class Registry(Generic[Part]):
    """The parts of one kind ("strategy", "metric"), by the name used in YAML."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.parts: dict[str, type[Part]] = {}

    def register(self, name: str) -> Callable[[type[Part]], type[Part]]:
        """Class decorator that makes `type: <name>` legal in YAML.

        The same class of the same module may come again, as when a plugin was edited.
        """

        def add(part: type[Part]) -> type[Part]:
            if not (isinstance(part, type) and issubclass(part, Settings)):
                raise TypeError(
                    f"{self.kind} '{name}' must be a class of settings, as the built-in ones are; "
                    f"it is {part!r}"
                )
            known = self.parts.setdefault(name, part)
            if (known.__module__, known.__qualname__) != (part.__module__, part.__qualname__):
                raise ValueError(f"{self.kind} '{name}' already exists: {known.__module__}")
            self.parts[name] = part
            return part

        return add

    def name_of(self, part: Settings) -> str:
        """The YAML name of a part."""
        return next(name for name, cls in self.parts.items() if cls is type(part))

    def parse(self, value: Any) -> Part:
        """Turn `{"type": "replay", "fraction": 0.2}`, or just `"replay"`, into its part."""
        if isinstance(value, tuple(self.parts.values())):
            return cast(Part, value)
        options = dict(value) if isinstance(value, dict) else {"type": value}
        name = str(options.pop("type", None))
        if name not in self.parts:
            known = ", ".join(sorted(self.parts))
            kind = f"{'an' if self.kind[0] in 'aeiou' else 'a'} {self.kind}"
            message = f"'{name}' is not {kind}.{suggest(name, self.parts)} Known: {known}."
            raise PydanticCustomError("unknown_part", "{message}", {"message": message})
        try:
            return self.parts[name].model_validate(options)
        except ValidationError as error:
            problems = error.errors()
            message = "; ".join(map(_located, problems))
            context = {"message": message, "problems": problems}
            raise PydanticCustomError("part", "{message}", context) from None


def _located(problem: ErrorDetails) -> str:
    """What is wrong, after the name of the setting where it is about one alone."""
    words = problem["msg"].removeprefix("Value error, ")
    return ": ".join(filter(None, [".".join(map(str, problem["loc"])), words]))


class OneOf:
    """`Annotated[Objective, OneOf(OBJECTIVES)]`: the field accepts any registered part."""

    def __init__(self, registry: Registry[Any]) -> None:
        self.registry = registry

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        dump = core_schema.plain_serializer_function_ser_schema(self._dump)
        return core_schema.no_info_plain_validator_function(self.registry.parse, serialization=dump)

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        return {"oneOf": [_form(name, part) for name, part in self.registry.parts.items()]}

    def _dump(self, part: Settings) -> dict[str, Any]:
        return {"type": self.registry.name_of(part), **part.model_dump(mode="json")}


def _form(name: str, part: type[Settings]) -> dict[str, Any]:
    """JSON schema of one part: what a form for it is drawn from."""
    schema = part.model_json_schema()
    fields = schema.get("properties", {})
    return schema | {"title": name, "properties": {"type": {"const": name}, **fields}}


def import_parts(package: str, path: Iterable[str]) -> None:
    """Import every module of a package of parts, so that each registers itself.

    Args:
        package: the package's `__name__`.
        path: the package's `__path__`.
    """
    for module in pkgutil.iter_modules(path):
        importlib.import_module(f"{package}.{module.name}")
