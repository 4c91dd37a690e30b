"""What is done to a server, and the list of all of it."""

from collections.abc import Callable
from dataclasses import dataclass

from tests.serving.attacked import Attacked


@dataclass(frozen=True)
class Attack:
    """Something that is done to a server.

    Attributes:
        group: heading of the table.
        title: what is done.
        run: does it; returns what it got.
    """

    group: str
    title: str
    run: Callable[[Attacked], str]


ATTACKS: list[Attack] = []


def attack(group: str, title: str) -> Callable[[Callable[[Attacked], str]], Callable[..., str]]:
    """List a function as an attack."""

    def listed(run: Callable[[Attacked], str]) -> Callable[[Attacked], str]:
        ATTACKS.append(Attack(group, title, run))
        return run

    return listed


def each(results: dict[str, str]) -> str:
    """What several variants got, in one line."""
    if len(set(results.values())) == 1:
        return f"{next(iter(results.values()))} each"
    return "; ".join(f"{name}: {result}" for name, result in results.items())


SIZE, HTTP, JSON, VALUES, KEYS, DISK = (
    "Size and time",
    "HTTP",
    "JSON and text",
    "Extreme values",
    "Keys",
    "The machine and its files",
)
