"""Rows so close to a held-out one that teaching them would make the test worthless."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic import Field

from llama_factory.data.cleaning import CLEANERS, SetStep

if TYPE_CHECKING:
    from llama_factory.data.matching import Texts
    from llama_factory.data.sorting import Sorting
    from llama_factory.data.table import Array, RowTable

NAME = "contamination"


@CLEANERS.register(NAME)
class Contamination(SetStep):
    """Drops rows nearly the same as a held-out row or question, of this round or an earlier one.

    Equal questions are always dropped, whether this step is in the list or not.
    """

    similarity: float = Field(0.8, gt=0.5, le=1)
    """Share of common pieces from which whole rows count as the same. Lower drops more."""
    question_similarity: float = Field(0.95, gt=0.5, le=1)
    """The same for the questions alone, which often share a template. Lower drops more."""
    min_characters: int = Field(40, ge=1)
    """Shorter texts are compared exactly only."""

    def compare(self, sorting: "Sorting") -> None:
        """See `SetStep.compare`."""
        from llama_factory.data.matching import Texts

        for at_least, band, size in (
            (self.similarity, "bands", "num_characters"),
            (self.question_similarity, "prompt_bands", "num_prompt_characters"),
        ):
            is_long = sorting.table.column(size) >= self.min_characters
            with Texts(at_least, band, sorting.cache) as texts:
                self._against_earlier(sorting, texts, is_long)
                self._against_this_round(sorting, texts, is_long)

    def _against_this_round(self, sorting: "Sorting", texts: "Texts", is_long: "Array") -> None:
        test = sorting.test[is_long[sorting.test]]
        train = sorting.train[is_long[sorting.train]]
        for row in _alike(sorting, texts, train, (sorting.table, test)):
            sorting.drop_one(row, NAME, "nearly the same is held out in this round")

    def _against_earlier(self, sorting: "Sorting", texts: "Texts", is_long: "Array") -> None:
        for seen in sorting.seen:
            may_go = is_long & ~sorting.is_correction
            train = sorting.train[may_go[sorting.train]]
            for row in _alike(sorting, texts, train, (seen.tested, seen.asked)):
                sorting.drop_one(row, NAME, f"nearly the same is held out in {seen.version}")
            if texts.band == "bands":
                test = sorting.test[is_long[sorting.test]]
                for row in _alike(sorting, texts, test, (seen.taught_texts, None)):
                    sorting.drop_one(
                        row, NAME, f"a test nearly the same as one taught in {seen.version}"
                    )


def _alike(
    sorting: "Sorting", texts: "Texts", rows: "Array", others: "tuple[RowTable, Array | None]"
) -> Iterator[int]:
    """Those of `rows` that are nearly the same as one of the others."""
    from llama_factory.data.matching import pairs_between

    other, other_rows = others
    is_in = sorting.is_in
    for row, found in pairs_between(texts, sorting.table, rows, other, other_rows, is_in=is_in):
        if sorting.is_in[row] and texts.are_alike((sorting.table, row), (other, found)):
            yield row
