"""How sure the gate of a workspace can be: its noise, and how often it errs on simulated drops.

The rows are those of the released version beside its parent's. Nothing is trained, and no model is
loaded.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from llama_factory.core.errors import VersionError
from llama_factory.core.types import EvalReport, TaskScores
from llama_factory.evaluation.lineage_scores import BEFORE, PREDICTIONS
from llama_factory.evaluation.paired_rows import PairedRows, pair_rows
from llama_factory.evaluation.paired_tests import POWER, rows_needed
from llama_factory.evaluation.simulated_drops import tilted
from llama_factory.evaluation.statistics import Array
from llama_factory.evaluation.task_rows import Prediction, read_predictions
from llama_factory.rounds.check import GateEvidence, limit_of
from llama_factory.rounds.gate import Verdict, decide
from llama_factory.rounds.settings import GateSettings, WhenUnsure
from llama_factory.versions import releases, store
from llama_factory.versions.workspace import Workspace

DROPS = (0.0, 0.02, 0.05, 0.1)
"""True drops that are simulated."""
NUM_DRAWS = 200
POLICIES: tuple[WhenUnsure, ...] = ("point_estimate", "promote_behind_canary", "hold")


@dataclass(frozen=True)
class TaskNoise:
    """What the rows of one task can tell.

    Attributes:
        task: its name.
        rows: scored.
        changed: fraction of rows whose score changed in the last round, in either direction.
        limit: how far the metric may fall on it.
        noise: the lowest limit that a version without any change would pass for certain, four
            times in five.
        rows_needed: how many rows would hold the limit so; None where no number would.
    """

    task: str
    rows: int
    changed: float
    limit: float
    noise: float
    rows_needed: int | None

    @property
    def warning(self) -> str:
        """What is wrong with the limit; empty where its rows can hold it."""
        if self.noise <= self.limit:
            return ""
        wanted = f"about {self.rows_needed:,} rows" if self.rows_needed else "more rows"
        return (
            f"{self.task}: the limit of {self.limit:g} lies below the noise of {self.noise:.2f} "
            f"with {self.rows} rows; it takes {wanted} to hold it"
        )


@dataclass(frozen=True)
class Decided:
    """How often versions with one true drop were promoted, held and refused, as fractions.

    Attributes:
        drop: that every old task really has.
        policy: `gate.when_unsure`.
    """

    drop: float
    policy: WhenUnsure
    promoted: float
    held: float
    refused: float


@dataclass(frozen=True)
class Calibration:
    """What `llama-factory gate calibrate` finds.

    Attributes:
        version: the released one.
        tasks: its old tasks.
        decided: on simulated drops.
        own_policy: `gate.when_unsure` of the settings.
    """

    version: str
    tasks: tuple[TaskNoise, ...]
    decided: tuple[Decided, ...]
    own_policy: WhenUnsure

    @property
    def warnings(self) -> list[str]:
        """Limits that lie below the noise."""
        return [task.warning for task in self.tasks if task.warning]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "warnings": self.warnings}


def calibrate(workspace: Workspace, settings: GateSettings) -> Calibration:
    """Measure the gate of a workspace on the rows of its released version.

    Raises:
        VersionError: nothing was taught yet, or no row has a score by the metric.
    """
    version = store.get(workspace, releases.PRODUCTION)
    own = read_predictions(version.folder / PREDICTIONS) if not version.is_base else []
    parent = [*_predictions(workspace, version.parent), *read_predictions(version.folder / BEFORE)]
    paired = pair_rows([*own, *parent], own, settings.metric)
    rows = {task: each for task, each in paired.items() if len(each.scores)}
    if not rows:
        raise VersionError(
            f"{workspace.folder}: {version.id} has no held-out row with a score by "
            f"{settings.metric}, so there is nothing to calibrate on. Teach a round first."
        )
    new = {task for task in rows if task.partition(" ")[0] == version.id}
    changes = {task: _changes(each, is_new=task in new) for task, each in rows.items()}
    tasks = tuple(_noise(task, each, settings) for task, each in changes.items())
    decided = [line for drop in DROPS for line in simulate(changes, drop, settings)]
    return Calibration(version.id, tasks, tuple(decided), settings.when_unsure)


def _predictions(workspace: Workspace, version: str) -> list[Prediction]:
    return read_predictions(workspace.versions / version / PREDICTIONS)


def _changes(rows: PairedRows, *, is_new: bool) -> Array:
    """Of old rows as they changed; new ones, which were just learned, as if nothing had."""
    return np.zeros(len(rows.scores)) if is_new else rows.changes


def _noise(task: str, changes: Array, settings: GateSettings) -> TaskNoise:
    count, limit = len(changes), limit_of(task, settings)
    values, weights = tilted(changes, 0.0)
    spread = float(weights @ values**2)
    z = NormalDist().inv_cdf(settings.confidence) + NormalDist().inv_cdf(POWER)
    added = (spread * count + 2) / (count + 2)
    noise = z * float(np.sqrt(added / (count + 2)))
    level = changes - changes.mean()
    changed = float((changes != 0).mean())
    needed = rows_needed(level, -limit, settings.confidence)
    return TaskNoise(task, count, changed, limit, noise, needed)


def simulate(
    changes: Mapping[str, Array],
    drop: float,
    settings: GateSettings,
    *,
    sizes: Mapping[str, int] | None = None,
    num_draws: int = NUM_DRAWS,
) -> list[Decided]:
    """How the gate decides, under each policy, about versions whose old tasks all fell alike.

    Args:
        changes: real ones of each task, from which rows are drawn.
        drop: the true fall of each task's score.
        settings: of the gate; `when_unsure` is not looked at.
        sizes: rows drawn of each task; None for as many as there are.
        num_draws: versions.
    """
    rng = np.random.default_rng(round(1000 * drop))
    drawn = {
        task: _draw(each, drop, (num_draws, (sizes or {}).get(task, len(each))), rng)
        for task, each in changes.items()
    }
    verdicts = [
        judge({task: each[n] for task, each in drawn.items()}, settings) for n in range(num_draws)
    ]
    return [count_words(verdicts, drop, policy) for policy in POLICIES]


def count_words(verdicts: Sequence[Verdict], drop: float, policy: WhenUnsure) -> Decided:
    """How often each word would be the verdict under a policy."""
    words = [verdict.under(policy).word for verdict in verdicts]
    shares = (words.count(word) / max(len(words), 1) for word in ("promoted", "held", "refused"))
    return Decided(drop, policy, *shares)


def _draw(changes: Array, drop: float, shape: tuple[int, int], rng: np.random.Generator) -> Array:
    values, weights = tilted(changes, drop)
    drawn: Array = rng.choice(values, shape, p=weights)
    return drawn


def judge(changes: Mapping[str, Array], settings: GateSettings) -> Verdict:
    """The gate's verdict of a version of which only the changes of old tasks are known."""
    rows = {task: _rows(each) for task, each in changes.items()}
    before, after = (_report(rows, side, settings.metric) for side in (0, 1))
    return decide(
        after, before, new=None, base_guard=1.0, settings=settings, evidence=GateEvidence(rows)
    )


def _rows(changes: Array) -> PairedRows:
    before = np.maximum(0.0, -changes)  # any score from which the change is possible
    return PairedRows(np.column_stack([before, before + changes]), np.zeros((0, 3)))


def _report(rows: Mapping[str, PairedRows], side: int, metric: str) -> EvalReport:
    scores = {
        task: TaskScores(task, len(each.scores), {metric: float(each.scores[:, side].mean())})
        for task, each in rows.items()
    }
    return EvalReport(scores, 1.0, 0.0)
