"""Rows that were taught before with small changes, in this round or in an earlier one."""

from typing import TYPE_CHECKING

from pydantic import Field

from llama_factory.data.cleaning import CLEANERS, SetStep

if TYPE_CHECKING:
    from llama_factory.data.matching import Texts
    from llama_factory.data.sorting import Sorting
    from llama_factory.data.table import Array

NAME = "near_duplicates"


@CLEANERS.register(NAME)
class NearDuplicates(SetStep):
    """Keeps the first of rows nearly the same; other numbers or another label make them differ."""

    similarity: float = Field(0.8, gt=0.5, le=1)
    """Share of common pieces from which two rows are nearly the same. Lower drops more."""
    min_characters: int = Field(40, ge=1)
    """Shorter rows are compared exactly only: in a short text every word counts."""

    def compare(self, sorting: "Sorting") -> None:
        """See `SetStep.compare`."""
        from llama_factory.data.matching import Texts

        is_long = sorting.table.column("num_characters") >= self.min_characters
        with Texts(self.similarity, cache=sorting.cache) as texts:
            self._among_earlier(sorting, texts, is_long)
            self._among_new(sorting, texts, is_long)

    def _among_earlier(self, sorting: "Sorting", texts: "Texts", is_long: "Array") -> None:
        from llama_factory.data.matching import pairs_between

        table = sorting.table
        for seen in sorting.seen:
            rows = sorting.train[is_long[sorting.train]]
            taught = seen.taught_texts
            for row, old in pairs_between(texts, table, rows, taught, is_in=sorting.is_in):
                if sorting.is_in[row] and texts.are_alike((table, row), (taught, old)):
                    sorting.drop_one(row, NAME, f"nearly the same was taught in {seen.version}")

    def _among_new(self, sorting: "Sorting", texts: "Texts", is_long: "Array") -> None:
        from llama_factory.data.matching import pairs_within

        table = sorting.table
        rows = sorting.train[is_long[sorting.train]]
        for row, earlier in pairs_within(table, "bands", rows, sorting.is_in):
            if sorting.is_in[row] and texts.are_alike((table, row), (table, earlier)):
                sorting.drop_one(row, NAME, "nearly the same is in this round")
