"""Questions with known answers: how often the right passage is found, and the right fact said."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llama_factory.core.errors import DataError
from llama_factory.knowledge.retrieval import By, Passage, Retriever
from llama_factory.text.words import search_words


@dataclass(frozen=True)
class KnownQuestion:
    """A question of which is known where its answer stands.

    Attributes:
        question: as a user asks.
        file: the document that answers it; empty where none does.
        phrase: words of the right passage; empty where any passage of the file will do.
        answer: the fact that a right answer holds, word for word; empty where none is known.
        group: such as its language; scores are given for each.
    """

    question: str
    file: str = ""
    phrase: str = ""
    answer: str = ""
    group: str = ""

    def is_in(self, passage: Passage) -> bool:
        """Whether a passage is a right one."""
        return passage.file == self.file and holds(passage.text, self.phrase)

    @staticmethod
    def from_json(line: object) -> "KnownQuestion":
        """A line of a file of questions.

        Raises:
            ValueError: it holds something else; the message says what.
        """
        if not isinstance(line, dict) or not isinstance(line.get("question"), str):
            raise ValueError('each line is an object with "question"')
        known = KnownQuestion.__dataclass_fields__
        if strange := [name for name in line if name not in known]:
            raise ValueError(f"'{strange[0]}' is none of {', '.join(known)}")
        if wrong := [name for name, value in line.items() if not isinstance(value, str)]:
            raise ValueError(f"'{wrong[0]}' must be a text")
        return KnownQuestion(**line)


def read_questions(path: Path) -> list[KnownQuestion]:
    """Read a file of questions, one JSON object a line.

    Raises:
        DataError: it cannot be read, or a line is none; the message names the line.
    """
    found = []
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    found.append(_question(path, number, line))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}). Name a file of JSON lines.") from error
    if not found:
        raise DataError(f"{path}: holds no questions. Write one JSON object a line.")
    return found


def _question(path: Path, number: int, line: str) -> KnownQuestion:
    try:
        return KnownQuestion.from_json(json.loads(line))
    except ValueError as error:
        raise DataError(
            f'{path}:{number}: {error}. Write {{"question": "...", "file": "faq.txt", '
            '"phrase": "24 months", "answer": "24 months"}.'
        ) from None


def holds(text: str, phrase: str) -> bool:
    """Whether a text holds a phrase: the same words in a row, whatever stands between them."""
    words, wanted = list(search_words(text)), list(search_words(phrase))
    if not wanted:
        return not phrase.strip() or phrase.strip() in text
    last = len(words) - len(wanted)
    return any(words[at : at + len(wanted)] == wanted for at in range(last + 1))


@dataclass(frozen=True)
class Recall:
    """How often the right passage is among the first.

    Attributes:
        num: questions whose passage is known.
        num_hits: of these, those whose passage was among the first.
        by_group: both numbers for each group.
        num_unanswerable: questions that no document answers.
        num_refused: of these, those for which nothing was found, which is right.
        missed: questions whose passage was not among the first.
    """

    num: int
    num_hits: int
    by_group: dict[str, tuple[int, int]]
    num_unanswerable: int
    num_refused: int
    missed: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """Plain values."""
        groups = {
            name: {"questions": num, "recall": round(found / num, 4)}
            for name, (num, found) in self.by_group.items()
        }
        return {
            "questions": self.num,
            "recall": round(self.num_hits / self.num, 4) if self.num else None,
            "groups": groups,
            "unanswerable": self.num_unanswerable,
            "nothing_found_rightly": self.num_refused,
            "missed": list(self.missed),
        }


def recall(retriever: Retriever, questions: Sequence[KnownQuestion], top_k: int, by: By) -> Recall:
    """How often the right passage is among the first `top_k`, whatever their length."""
    groups: dict[str, tuple[int, int]] = {}
    missed, num_unanswerable, num_refused = [], 0, 0
    for each in questions:
        found = retriever.search(each.question, top_k, ANY_LENGTH, by)
        if not each.file:
            num_unanswerable += 1
            num_refused += not found
            continue
        is_found = any(map(each.is_in, found))
        num, right = groups.get(each.group, (0, 0))
        groups[each.group] = num + 1, right + is_found
        missed += [] if is_found else [each.question]
    num = sum(each[0] for each in groups.values())
    right = sum(each[1] for each in groups.values())
    return Recall(num, right, groups, num_unanswerable, num_refused, tuple(missed))


ANY_LENGTH = 1_000_000
