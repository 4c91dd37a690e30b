"""What a soak comes to: counts, times and memory, as one table."""

import json
import statistics
from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import Any

from tests.serving.soak import Given, Plan, Soak

GRACE_SECONDS = 2.0
"""A request sent this long after a release must be answered by it."""

AT_ONCE_SECONDS = 1.0
"""A kill so soon after a move belongs to it."""

WARM_UP = 1 / 3
"""Of a process' life, in which its memory may grow."""

Expected = Mapping[tuple[str, str], str]


def table(soak: Soak, expected: Expected, plan: Plan) -> dict[str, Any]:
    """Plain values for people and for JSON."""
    settled, num_cut = set_aside(soak)
    streams = [given.first - given.sent for given in soak.answers if given.is_stream]
    whole = [given.ended - given.sent for given in soak.answers]
    begun = min(given.sent for given in soak.answers)
    seconds = max(given.ended for given in soak.answers) - begun
    rollbacks = first_answers(soak)
    return {
        "clients": plan.clients,
        "seconds": seconds,
        "asked": soak.num_asked,
        "answered": len(soak.answers),
        "failed": len(settled),
        "mixed": len(mixed(soak.answers, expected)),
        "cut by a killed server": num_cut,
        "lost": soak.num_asked - len(soak.answers) - len(settled) - num_cut,
        "moves": len(soak.moves),
        "kinds of moves": sorted({move.kind for move in soak.moves}),
        "versions that answered": sorted({given.version for given in soak.answers}),
        "from an old release": len(late(soak)),
        "tokens_per_second": sum(given.tokens for given in soak.answers) / seconds,
        "first_token_p50": quantile(streams, 0.5),
        "first_token_p99": quantile(streams, 0.99),
        "answer_p50": quantile(whole, 0.5),
        "answer_p99": quantile(whole, 0.99),
        "rollback_to_first_answer_p50": quantile(rollbacks, 0.5),
        "rollback_to_first_answer_most": max(rollbacks, default=None),
        "restart_seconds": [back - died for died, back in soak.deaths],
        **memory(soak),
    }


def set_aside(soak: Soak) -> tuple[list[str], int]:
    """Failures, less those of requests that were in the server when it was killed."""
    failures = []
    for failure in soak.failures:
        sent, ended = map(float, failure.split()[:2])
        if not any(sent <= died and ended <= back + 1 for died, back in soak.deaths):
            failures.append(failure)
    return failures, len(soak.failures) - len(failures)


def mixed(answers: Sequence[Given], expected: Expected) -> list[Given]:
    """Answers that are not those of the version they name."""
    return [each for each in answers if each.text != expected.get((each.version, each.question))]


def late(soak: Soak) -> list[Given]:
    """Answers to requests sent long after a release, and given by another version."""
    found = []
    ends = [move.time for move in soak.moves[1:]] + [float("inf")]
    for move, end in zip(soak.moves, ends, strict=True):
        if move.kind == "canary":
            continue
        window = (move.time + GRACE_SECONDS, end)
        found += [
            given
            for given in soak.answers
            if window[0] <= given.sent and given.ended < window[1] and given.version != move.version
        ]
    return found


def first_answers(soak: Soak) -> list[float]:
    """Seconds from each rollback to the first text of the version that is back.

    Where the server was killed meanwhile they count from when it was up again.
    """
    found = []
    for move in soak.moves:
        if move.kind != "rollback":
            continue
        ups = [back for died, back in soak.deaths if back >= move.time >= died - AT_ONCE_SECONDS]
        begun = max([move.time, *ups])
        times = [
            given.first - begun
            for given in soak.answers
            if given.version == move.version and given.sent >= begun
        ]
        found += [min(times)] if times else []
    return found


def memory(soak: Soak) -> dict[str, Any]:
    """Of the process that lived longest: what it held after warming up, at the end, and growth."""
    lives: dict[int, list[tuple[float, float]]] = {}
    for process, time, megabytes in soak.memory:
        lives.setdefault(process, []).append((time, megabytes))
    longest = max(lives.values(), key=lambda each: each[-1][0] - each[0][0])
    warm = longest[ceil(len(longest) * WARM_UP) :]
    slope = statistics.linear_regression(*zip(*warm, strict=True)).slope
    return {
        "memory_mb_warm": warm[0][1],
        "memory_mb_end": warm[-1][1],
        "memory_mb_most": max(megabytes for _, megabytes in longest),
        "memory_mb_per_minute": slope * 60,
        "memory_growth": slope * (warm[-1][0] - warm[0][0]) / warm[0][1],
    }


def quantile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that at least this share of the values does not exceed."""
    return sorted(values)[max(0, ceil(share * len(values)) - 1)] if values else None


def show(found: Mapping[str, Any], path: str | None) -> None:
    """A table on stdout, and JSON where it is asked for."""
    print("\n| what | value |\n|---|---|")  # noqa: T201
    for name, value in found.items():
        print(f"| {name} | {f'{value:.4g}' if isinstance(value, float) else value} |")  # noqa: T201
    if path:
        Path(path).write_text(json.dumps(dict(found), indent=2) + "\n")
