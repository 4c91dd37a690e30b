"""What two versions differ in: settings, rows taught, scores; by their files, without a model."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import yaml

from llama_factory.core.types import BASE_VERSION, EvalReport
from llama_factory.versions import store
from llama_factory.versions.version import SETTINGS, ModelVersion


@dataclass(frozen=True)
class ValueChange:
    """One value that differs; None where a version has none.

    Attributes:
        name: of the setting; or of the task and the metric.
        before: in the first version.
        after: in the second one.
    """

    name: str
    before: Any
    after: Any


@dataclass(frozen=True)
class Taught:
    """One version of only one of the two lineages, and how many rows it was taught by group."""

    version: str
    rows: dict[str, int]


@dataclass(frozen=True)
class Difference:
    """What two versions differ in.

    Attributes:
        before: id of the first.
        after: id of the second.
        common: the newest version that both were made from.
        only_before: what the first was taught beyond `common`, oldest first.
        only_after: the same of the second.
        settings: that they were trained with, by full name.
        scores: of tasks that both were tested on in their own rounds, on the same rows.
        perplexity: on the guard.
    """

    before: str
    after: str
    common: str
    only_before: tuple[Taught, ...]
    only_after: tuple[Taught, ...]
    settings: tuple[ValueChange, ...]
    scores: tuple[ValueChange, ...]
    perplexity: ValueChange

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def compare(before: ModelVersion, after: ModelVersion) -> Difference:
    """Compare two versions of one workspace by their files.

    Raises:
        VersionError: one of them, or a parent, is damaged.
    """
    one, other = store.lineage(before), store.lineage(after)
    shared = [each.id for each in one if each.id in {its.id for its in other}]
    scores = before.scores, after.scores
    return Difference(
        before.id,
        after.id,
        shared[-1] if shared else BASE_VERSION,
        _taught(one, shared),
        _taught(other, shared),
        tuple(_changes(settings_of(before), settings_of(after))),
        tuple(_changes(*map(_flat_scores, scores), only_common=True)),
        ValueChange("guard perplexity", scores[0].guard_perplexity, scores[1].guard_perplexity),
    )


def _taught(lineage: list[ModelVersion], shared: list[str]) -> tuple[Taught, ...]:
    own = (version for version in lineage if version.id not in shared)
    return tuple(Taught(each.id, _rows_by_group(each)) for each in own)


def _rows_by_group(version: ModelVersion) -> dict[str, int]:
    rows: Counter[str] = Counter()
    for each in version.report.get("data", {}).get("sets", ()):
        rows[each["name"]] += each["num_kept"]
    return dict(rows) or {"rows": version.num_rows}


def settings_of(version: ModelVersion) -> dict[str, Any]:
    """The settings that a version was made with, by full name; nothing where they are lost."""
    path = version.folder / SETTINGS
    if not path.is_file():
        return {}
    return dict(flat(yaml.safe_load(path.read_text(encoding="utf-8")) or {}))


def flat(values: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings as `training.learning_rate: 0.001`; lists whole."""
    if isinstance(values, Mapping) and values:
        for key, value in values.items():
            yield from flat(value, f"{name}.{key}" if name else str(key))
    else:
        yield name, values


def _flat_scores(report: EvalReport) -> dict[str, float]:
    return {
        f"{task}: {metric}": value
        for task, scored in report.tasks.items()
        for metric, value in scored.scores.items()
    }


def _changes(
    before: Mapping[str, Any], after: Mapping[str, Any], *, only_common: bool = False
) -> Iterator[ValueChange]:
    names = [name for name in after if name in before] if only_common else {**before, **after}
    for name in names:
        if before.get(name) != after.get(name):
            yield ValueChange(name, before.get(name), after.get(name))
