"""Accelerators by name, from a table that users extend."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError

from llama_factory.core.errors import ConfigError, suggest
from llama_factory.core.settings import Settings
from llama_factory.training.memory import GIB

FILE = Path(__file__).parent / "accelerators.yaml"
WANTED = re.compile(r"(?:(\d+)\s*[x×*]\s*)?(.+)", re.IGNORECASE)
PLAIN = re.compile(r"(\d+(?:\.\d+)?)\s*(?:G|GB|GiB)", re.IGNORECASE)


class Accelerator(Settings):
    """One kind of GPU."""

    memory: float = Field(gt=0)
    """GiB that its driver reports."""
    teraflops: float | None = Field(None, gt=0)
    """Dense products in 16 bits, 10^12 operations a second. Empty: no time is worked out."""
    dollars: float | None = Field(None, ge=0)
    """Price of an hour. Empty: no cost is worked out."""
    float16: bool = False
    """It is fast at float16 and not at bfloat16."""
    note: str = ""
    """Where the price is from."""

    @property
    def num_bytes(self) -> int:
        """Its memory in bytes."""
        return int(self.memory * GIB)


@dataclass(frozen=True)
class Cluster:
    """Some accelerators of one kind.

    Attributes:
        name: of the kind.
        count: of them.
        each: one of them.
    """

    name: str
    count: int
    each: Accelerator

    def of(self, count: int) -> "Cluster":
        """Another number of the same kind."""
        return replace(self, count=count)

    def __str__(self) -> str:
        return f"{self.count} x {self.name} ({self.each.memory:.1f} GiB each)"


def read_cluster(words: str, more: Path | None = None) -> Cluster:
    """Understand `8xA100-40`, `A100-40`, or `2x24G` for any card of 24 GiB.

    Args:
        words: as a person writes them.
        more: a file in the form of `accelerators.yaml`; its entries count more.

    Raises:
        ConfigError: no accelerator of that name is known, or the file is wrong.
    """
    found = WANTED.fullmatch(words.strip())
    known = accelerators(more)
    if not found or found[1] == "0":
        raise ConfigError(f"--gpus: '{words}' says no accelerator. Write 8xA100-40 or 2x24G.")
    count, name = int(found[1] or 1), found[2].strip()
    by_name = {each.lower(): each for each in known}
    match = by_name.get(name.lower()) or _only_one(name, known)
    if match:
        return Cluster(name=match, count=count, each=known[match])
    if plain := PLAIN.fullmatch(name):
        return Cluster(name=name, count=count, each=Accelerator(memory=float(plain[1])))
    raise ConfigError(
        f"--gpus: '{name}' is not in the table of accelerators.{suggest(name, sorted(known))} "
        f"Known: {', '.join(known)}. Write its memory instead (2x24G), or describe it in a file: "
        f"--accelerators FILE with lines as `{name}: {{memory: 24, teraflops: 100, dollars: 1}}`."
    )


def accelerators(more: Path | None = None) -> dict[str, Accelerator]:
    """The table, with a file of the user's put over it."""
    return _read(FILE) | (_read(more) if more else {})


def _only_one(name: str, known: Mapping[str, Accelerator]) -> str | None:
    """`H100` where there is one H100 in the table."""
    begins = [each for each in known if each.lower().startswith(f"{name.lower()}-")]
    return begins[0] if len(begins) == 1 else None


def _read(path: Path) -> dict[str, Accelerator]:
    try:
        values: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        return {str(name): Accelerator.model_validate(each) for name, each in values.items()}
    except (OSError, UnicodeDecodeError, yaml.YAMLError, AttributeError) as error:
        raise ConfigError(f"--accelerators: {path} cannot be read: {error}") from error
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(map(str, problem["loc"]))
        raise ConfigError(f"--accelerators: {path}: {place}: {problem['msg']}") from error
