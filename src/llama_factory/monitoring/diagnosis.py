"""What alerts mean together: the usual causes, each with the numbers that speak for it."""

from collections.abc import Mapping, Sequence
from typing import Any

from llama_factory.core.sentences import listed
from llama_factory.monitoring import sentences
from llama_factory.monitoring.inputs import LABELS, LANGUAGE, LENGTH, LOSS, WORDS
from llama_factory.monitoring.outputs import ANSWER_LENGTH, FEEDBACK, REFUSALS
from llama_factory.monitoring.series import Point

REPLAYING = ("replay", "agem")
"""Strategies that teach earlier rows again."""
MUCH_DRIFT = 1.15
"""General perplexity against the base model's above which a round moved the whole model."""


def diagnose(points: Mapping[str, Point], report: Mapping[str, Any]) -> list[str]:
    """Sentences about what is wrong, the likeliest cause first; none where nothing is.

    Args:
        points: the newest value of each series.
        report: of the released version.
    """
    alerts = {name: point for name, point in points.items() if point.alert}
    lost = [point for name, point in alerts.items() if name.startswith("decay.")]
    found = _of_loss(lost, report) if lost else []
    shifted = [alerts[name] for name in (LANGUAGE, LABELS, LENGTH, WORDS, LOSS) if name in alerts]
    if shifted:
        found.append(sentences.SHIFTED(words=listed(point.words for point in shifted)))
    if FEEDBACK in alerts:
        found.append(_of_users(alerts[FEEDBACK], has_loss=bool(lost)))
    last = [alerts[name] for name in (REFUSALS, ANSWER_LENGTH) if name in alerts]
    last += [point for name, point in alerts.items() if name.startswith("machine.")]
    return [*found, *(sentences.STATED(words=point.words) for point in last)]


def _of_loss(lost: Sequence[Point], report: Mapping[str, Any]) -> list[str]:
    """Why earlier knowledge went: too high a rate, or nothing that protects it."""
    told = listed(point.words for point in lost)
    found: list[str] = [sentences.KNOWLEDGE_LOST(version=lost[0].version, words=told)]
    ratio = _guard_ratio(report)
    if ratio is not None and ratio > MUCH_DRIFT:
        steps = report.get("training", {}).get("steps")
        after = sentences.AFTER_UPDATES(steps=steps) if steps else ""
        found.append(sentences.RATE_TOO_HIGH(ratio=f"{ratio:.2f}", after=after))
    strategies = report.get("strategies", {})
    if not set(strategies) & set(REPLAYING):
        names = ", ".join(strategies) or sentences.NONE()
        found.append(sentences.NO_REPLAY(names=names))
    return found


def _of_users(point: Point, *, has_loss: bool) -> str:
    text = sentences.UNHAPPY(version=point.version, words=point.words)
    return text if has_loss else sentences.NOT_WHAT_USERS_ASK(text=text)


def _guard_ratio(report: Mapping[str, Any]) -> float | None:
    guard = report.get("evaluation", {}).get("guard_perplexity")
    base = report.get("base_guard_perplexity")
    return guard / base if guard and base else None
