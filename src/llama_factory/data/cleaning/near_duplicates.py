"""Rows that were taught before with small changes, in this round or in an earlier one."""

import numpy as np
from pydantic import Field

from llama_factory.core.sentences import kind_of_sentence
from llama_factory.data.cleaning import CLEANERS, SetStep
from llama_factory.data.matching import TextComparison, alike_between, alike_within
from llama_factory.data.selection import Findings, History, Removal, Selection

TAUGHT = kind_of_sentence("data.nearly_taught", "nearly the same was taught in {version}")
IN_ROUND = kind_of_sentence("data.nearly_in_round", "nearly the same is in this round")


@CLEANERS.register("near_duplicates")
class NearDuplicates(SetStep):
    """Keeps the first of rows nearly the same; other numbers or another label make them differ."""

    similarity: float = Field(0.8, gt=0.5, le=1)
    """Fraction of common pieces from which two rows are nearly the same. Lower drops more."""
    min_characters: int = Field(40, ge=1)
    """Shorter rows are compared exactly only: in a short text every word counts."""

    def compare(self, rows: Selection, history: History) -> Findings:
        """See `SetStep.compare`."""
        table = rows.table
        left = rows.train[table.column("num_characters")[rows.train] >= self.min_characters]
        removals = []
        with TextComparison(self.similarity, cache=history.cache) as texts:
            for version in history.seen:
                alike = alike_between(texts, table, left, version.taught_texts)
                reason = TAUGHT(version=version.version)
                removals.append(Removal(alike, reason))
                left = np.setdiff1d(left, alike)
            alike = alike_within(texts, table, left)
            removals.append(Removal(alike, IN_ROUND()))
        return Findings(tuple(removals))
