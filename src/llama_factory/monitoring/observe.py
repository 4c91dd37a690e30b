"""Everything that is measured of a workspace, added to its series: by a round, a watcher, a person.

observe_round(workspace, version)      after a round: what it was taught, beside what was before
observe(workspace, ...)                at any time: rows that wait, decay, users, the machine
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from llama_factory.core import times
from llama_factory.core.sentences import listed
from llama_factory.data.sources.feedback import read_feedback
from llama_factory.evaluation.lineage_scores import BEFORE, PREDICTIONS
from llama_factory.evaluation.task_rows import Prediction, read_predictions
from llama_factory.monitoring import inputs, machine, outputs, sentences, series
from llama_factory.monitoring.diagnosis import diagnose
from llama_factory.monitoring.profile import traits_of
from llama_factory.monitoring.series import Point
from llama_factory.versions import releases, store
from llama_factory.versions.version import ModelVersion
from llama_factory.versions.workspace import Workspace


@dataclass(frozen=True)
class Standards:
    """What a workspace is held to.

    Attributes:
        metric: that decides about decay.
        max_drop: how far it may fall.
    """

    metric: str = "token_f1"
    max_drop: float = 0.1


@dataclass(frozen=True)
class Health:
    """How a workspace is.

    Attributes:
        points: the newest value of each series, by name.
        history: the newest values of each series, oldest first.
        diagnosis: what the alerts mean; none where there are none.
    """

    points: dict[str, Point]
    history: dict[str, list[Point]]
    diagnosis: tuple[str, ...]

    @property
    def alerts(self) -> tuple[Point, ...]:
        """The series that a person should look at."""
        return tuple(point for point in self.points.values() if point.alert)


def observe_round(
    workspace: Workspace, version: ModelVersion, *, at: str | None = None
) -> list[Point]:
    """Note how far what a round taught is from what its lineage was taught before.

    Args:
        workspace: whose series grow.
        version: the result of the round, released or not.
        at: time of the values; None for now.

    Returns:
        The new values; none for the first round of a lineage.
    """
    time, past = at or times.now(), series.read(workspace)
    *earlier, _ = store.lineage(version)
    if not earlier:
        return []
    before = inputs.taught_before(earlier)
    after = inputs.rows_of_version(version)
    points = inputs.row_drift(before, after, past, time, version.id)
    reference = read_predictions(earlier[-1].folder / PREDICTIONS)
    new = [row for row in read_predictions(version.folder / BEFORE) if _is_of(row, version.id)]
    points += inputs.loss_drift(reference, new, past, time, version.id)
    series.append(workspace, points)
    return points


def _is_of(row: Prediction, version: str) -> bool:
    return row.task.partition(" ")[0] == version


def observe(
    workspace: Workspace,
    standards: Standards = Standards(),
    *,
    now: Sequence[Prediction] | None = None,
    losses: Sequence[Prediction] = (),
    at: str | None = None,
) -> Health:
    """Measure what can be measured without a model, add it to the series, and say how it stands.

    Args:
        workspace: whose series grow.
        standards: what decay is held to.
        now: production's answers to its held-out rows today; None for those of its own report.
        losses: production's answers to the rows that wait, where they were measured.
        at: time of the values; None for now.
    """
    time, past = at or times.now(), series.read(workspace)
    production = store.get(workspace, releases.PRODUCTION, verify=False)
    lineage = store.lineage(production)
    waiting = traits_of(inputs.examples_below(workspace.inbox))
    points = inputs.row_drift(inputs.taught_before(lineage), waiting, past, time)
    own = read_predictions(production.folder / PREDICTIONS) if lineage else []
    points += inputs.loss_drift(own, losses, past, time)
    points += _decay(lineage, own if now is None else now, standards, time)
    points += outputs.thumbs(read_feedback(workspace.feedback).current, production.id, time)
    answers = outputs.read_answers([workspace.conversations, workspace.feedback])
    points += outputs.traffic(answers, production.id, time)
    points.append(machine.disk(workspace, time))
    series.append(workspace, [point for point in points if _is_news(point, past)])
    return health(workspace)


def _is_news(point: Point, past: inputs.Past) -> bool:
    """Whether anything but its time is new: who looks every minute fills no disk."""
    return not past.get(point.name) or replace(past[point.name][-1], at=point.at) != point


def _decay(
    lineage: Sequence[ModelVersion], now: Sequence[Prediction], standards: Standards, at: str
) -> list[Point]:
    if not lineage:
        return []
    answers = {each.id: read_predictions(each.folder / PREDICTIONS) for each in lineage}
    first = outputs.first_scores(answers)
    return outputs.decay(
        first, now, standards.metric, at, version=lineage[-1].id, max_drop=standards.max_drop
    )


def health(workspace: Workspace) -> Health:
    """How a workspace stood when it was last observed; nothing is measured."""
    history = series.read(workspace)
    points = {name: listed[-1] for name, listed in history.items()}
    production = store.get(workspace, releases.PRODUCTION, verify=False)
    report = {} if production.is_base else production.report
    return Health(points, history, tuple(diagnose(points, report)))


def sentence(points: Sequence[Point]) -> str:
    """What a round says of its rows; empty where there was nothing to compare them with."""
    alerts = [point for point in points if point.alert]
    if alerts:
        return sentences.UNLIKE_BEFORE(words=listed(point.words for point in alerts))
    if not points:
        return ""
    told = ", ".join(f"{p.name.removeprefix('drift.')} {p.value:.2f}" for p in points)
    return sentences.LIKE_BEFORE(told=told)
