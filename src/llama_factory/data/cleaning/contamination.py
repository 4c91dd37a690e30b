"""Rows so close to a held-out one that teaching them would make the test worthless."""

from collections.abc import Iterator

from pydantic import Field

from llama_factory.core.sentences import kind_of_sentence
from llama_factory.data.cleaning import CLEANERS, SetStep
from llama_factory.data.matching import TextComparison, alike_between
from llama_factory.data.row_columns import Array
from llama_factory.data.selection import Findings, History, Removal, Selection

HELD_OUT = kind_of_sentence("data.nearly_held_out", "nearly the same is held out in {version}")
TEST_WAS_TAUGHT = kind_of_sentence(
    "data.test_was_taught", "a test nearly the same as one taught in {version}"
)
HELD_OUT_NOW = kind_of_sentence(
    "data.nearly_held_out_now", "nearly the same is held out in this round"
)


@CLEANERS.register("contamination")
class Contamination(SetStep):
    """Drops rows nearly the same as a held-out row or question, of this round or an earlier one.

    Equal questions are always dropped, whether this step is in the list or not.
    """

    similarity: float = Field(0.8, gt=0.5, le=1)
    """Fraction of common pieces from which whole rows count as the same. Lower drops more."""
    question_similarity: float = Field(0.95, gt=0.5, le=1)
    """The same for the questions alone, which often share a template. Lower drops more."""
    min_characters: int = Field(40, ge=1)
    """Shorter texts are compared exactly only."""

    def compare(self, rows: Selection, history: History) -> Findings:
        """See `SetStep.compare`."""
        removals: list[Removal] = []
        for similarity, column in (
            (self.similarity, "bands"),
            (self.question_similarity, "prompt_bands"),
        ):
            with TextComparison(similarity, column, history.cache) as texts:
                is_long = texts.sizes(rows.table) >= self.min_characters
                for removal in _contaminated(rows, history, texts, is_long):
                    removals.append(removal)
                    rows = rows.without(removal.rows)
        return Findings(tuple(removals))


def _contaminated(
    rows: Selection, history: History, texts: TextComparison, is_long: Array
) -> Iterator[Removal]:
    """Rows to teach like a held-out one, and rows to test like one taught before."""
    table = rows.table
    for version in history.seen:
        train = rows.train[(is_long & ~rows.is_correction)[rows.train]]
        alike = alike_between(texts, table, train, version.tested, version.asked)
        yield Removal(alike, HELD_OUT(version=version.version))
        rows = rows.without(alike)
        if texts.band == "bands":
            test = rows.test[is_long[rows.test]]
            alike = alike_between(texts, table, test, version.taught_texts)
            yield Removal(alike, TEST_WAS_TAUGHT(version=version.version))
            rows = rows.without(alike)
    train, test = (side[is_long[side]] for side in (rows.train, rows.test))
    alike = alike_between(texts, table, train, table, test)
    yield Removal(alike, HELD_OUT_NOW())
