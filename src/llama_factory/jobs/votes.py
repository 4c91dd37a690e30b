"""Two answers to one question side by side: which was liked; whose they were is kept until then.

A pair lies in the cache until somebody votes, and then in `votes.jsonl`, which only grows.
"""

import contextlib
import re
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, get_args

from llama_factory.core import files
from llama_factory.core.errors import DataError
from llama_factory.core.records import append_records, read_records
from llama_factory.core.sentences import kind_of_sentence as kind
from llama_factory.core.times import now
from llama_factory.data.cleaning.private_data import PrivateData
from llama_factory.evaluation.statistics import Estimate, proportion
from llama_factory.versions.workspace import Workspace

SAME_TWICE = kind(
    "problem.same_twice",
    "{version} would answer twice in the same way. Choose two versions, or one with the "
    "documents and one without.",
)
NO_PAIR = kind(
    "problem.no_pair", "no such pair waits for your vote: it was voted on, or it is too old."
)

Choice = Literal["left", "right", "tie", "both_bad"]
CHOICES: tuple[Choice, ...] = get_args(Choice)
OLDEST_PAIR = timedelta(days=1)
"""After which a pair that nobody voted on is gone."""
_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, order=True)
class Contestant:
    """Who answers.

    Attributes:
        version: its id.
        knowledge: whether it draws on the documents.
    """

    version: str
    knowledge: bool = False


@dataclass(frozen=True)
class PairedAnswer:
    """One of the two answers.

    Attributes:
        contestant: who gave it.
        text: of it.
        completion_id: as the API named it.
        citations: passages that it was given, as the API names them.
    """

    contestant: Contestant
    text: str
    completion_id: str = ""
    citations: tuple[dict[str, Any], ...] = ()

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> "PairedAnswer":
        """The inverse of `asdict`."""
        given = dict(values)
        given["contestant"] = Contestant(**given["contestant"])
        return PairedAnswer(**given | {"citations": tuple(given.get("citations", ()))})


@dataclass(frozen=True)
class AnswerPair:
    """Two answers to one question; with a choice it is a vote.

    Attributes:
        id: of it.
        who: asked; only this person votes.
        when: it was asked or voted on, UTC, ISO 8601.
        prompt: the question.
        left: what is shown first.
        right: what is shown second.
        choice: which was liked; None before the vote.
    """

    id: str
    who: str
    when: str
    prompt: str
    left: PairedAnswer
    right: PairedAnswer
    choice: Choice | None = None

    @property
    def better(self) -> PairedAnswer | None:
        """The answer that was liked more; None where neither was."""
        return {"left": self.left, "right": self.right}.get(self.choice or "")

    @property
    def worse(self) -> PairedAnswer | None:
        """The other one of these."""
        return {"left": self.right, "right": self.left}.get(self.choice or "")

    def with_texts(self, change: Callable[[str], str]) -> "AnswerPair":
        """The pair whose texts went through `change`, without what the answers were given."""
        left, right = (
            replace(each, text=change(each.text), citations=()) for each in (self.left, self.right)
        )
        return replace(self, prompt=change(self.prompt), left=left, right=right)

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> "AnswerPair":
        """The inverse of `asdict`."""
        sides = {name: PairedAnswer.from_json(values[name]) for name in ("left", "right")}
        pair = AnswerPair(**{**values, **sides})
        if pair.choice not in (None, *CHOICES):
            raise ValueError(f"'{pair.choice}' is no choice")
        return pair


@dataclass(frozen=True)
class Duel:
    """All votes on two contestants.

    Attributes:
        first: one of them, the older version.
        second: the other one.
        won: how often the second one was liked more.
        lost: how often the first one was.
        ties: how often both were as good.
        both_bad: how often both were bad.
    """

    first: Contestant
    second: Contestant
    won: int = 0
    lost: int = 0
    ties: int = 0
    both_bad: int = 0

    @property
    def wins(self) -> Estimate | None:
        """The fraction of votes for one of the two that the second one got; None without any."""
        decided = self.won + self.lost
        return proportion(self.won, decided) if decided else None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"wins": self.wins.to_json() if self.wins else None}


def keep_pair(
    workspace: Workspace,
    who: str,
    prompt: str,
    answers: Sequence[PairedAnswer],
    is_swapped: Callable[[], bool] = lambda: bool(secrets.randbelow(2)),
) -> AnswerPair:
    """Keep two answers until somebody votes on them, each on a side that is drawn.

    Args:
        workspace: whose versions answered.
        who: asked.
        prompt: the question.
        answers: the two.
        is_swapped: draws the sides.

    Raises:
        DataError: both are of the same contestant.
    """
    left, right = reversed(answers) if is_swapped() else answers
    if left.contestant == right.contestant:
        raise DataError(SAME_TWICE(version=left.contestant.version))
    _remove_old(_folder(workspace))
    pair = AnswerPair(secrets.token_hex(16), who, now(), prompt, left, right)
    files.write_json(_folder(workspace) / f"{pair.id}.json", asdict(pair), is_private=True)
    return pair


def read_pair(workspace: Workspace, pair_id: str, who: str) -> AnswerPair:
    """A pair that waits for the vote of this person.

    Raises:
        DataError: there is none.
    """
    if _ID.fullmatch(pair_id):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            pair = AnswerPair.from_json(files.read_json(_folder(workspace) / f"{pair_id}.json"))
            if pair.who == who:
                return pair
    raise DataError(NO_PAIR())


def vote(
    workspace: Workspace,
    pair_id: str,
    who: str,
    choice: Choice,
    *,
    private: PrivateData | None = None,
    keep_texts: bool = True,
) -> AnswerPair:
    """Note which answer was liked.

    Args:
        workspace: whose versions answered.
        pair_id: of the pair.
        who: asked and votes.
        choice: which.
        private: what is masked in the texts that are kept; None for all kinds.
        keep_texts: whether question and answers are kept at all.

    Returns:
        The pair with its choice and its texts as they were.

    Raises:
        DataError: no such pair waits for this person.
    """
    pair = replace(read_pair(workspace, pair_id, who), choice=choice, when=now())
    mask = (private or PrivateData()).mask_text if keep_texts else lambda text: ""
    with files.locked(workspace.cache / ".votes.lock", what="storing a vote", seconds=10):
        read_pair(workspace, pair_id, who)  # nobody voted meanwhile
        append_records(workspace.votes, [asdict(pair.with_texts(mask))])
        (_folder(workspace) / f"{pair_id}.json").unlink()
    return pair


def read_votes(workspace: Workspace) -> list[AnswerPair]:
    """All votes, oldest first; lines that cannot be read are left out."""
    return list(read_records(workspace.votes, AnswerPair.from_json))


def count_votes(votes: Iterable[AnswerPair]) -> list[Duel]:
    """The duels of all contestants that met, those with the newest versions first."""
    counted: dict[tuple[Contestant, Contestant], Duel] = {}
    for each in votes:
        first, second = sorted((each.left.contestant, each.right.contestant))
        duel = counted.get((first, second), Duel(first, second))
        if each.better is not None:
            name = "won" if each.better.contestant == second else "lost"
        else:
            name = "ties" if each.choice == "tie" else "both_bad"
        counted[first, second] = replace(duel, **{name: getattr(duel, name) + 1})
    return sorted(counted.values(), key=lambda each: (each.second, each.first), reverse=True)


def _folder(workspace: Workspace) -> Path:
    return workspace.cache / "pairs"


def _remove_old(folder: Path) -> None:
    oldest = (datetime.now(UTC) - OLDEST_PAIR).timestamp()
    for path in folder.glob("*.json"):
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_mtime < oldest:
                path.unlink()
