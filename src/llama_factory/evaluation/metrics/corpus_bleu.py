"""Corpus BLEU: n-grams of all answers counted together, as papers report it.

Papineni et al. 2002, https://aclanthology.org/P02-1040, as sacreBLEU counts it (Post 2018,
https://aclanthology.org/W18-6319), over 100. Tokenised with `zh` where there is Chinese text, else
with `13a`. The score of a row is sacreBLEU's of that sentence. Differs: texts of less than four
words count only the n-grams that they can have.
"""

import math
import re
from collections.abc import Sequence
from functools import lru_cache
from importlib import import_module
from typing import Any

from llama_factory.evaluation.metrics import METRICS, Metric, require_package
from llama_factory.evaluation.task_rows import ScoredRow, rows_with_scores

HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")


@METRICS.register("bleu")
class CorpusBleu(Metric):
    """Overlap of word sequences over all answers together, as papers report it."""

    def check(self) -> None:
        """See `Metric.check`."""
        require_package("sacrebleu", metric=self.label)

    def score(self, expected: str, answer: str) -> float:
        """See `Metric.score`."""
        expected, answer = expected.strip(), answer.strip()
        if expected == answer or not (expected and answer):
            return float(expected == answer)
        scorer = _scorer("zh" if HAN.search(expected + answer) else "13a")
        return min(1.0, scorer.sentence_score(answer, [expected]).score / 100)

    def total(self, rows: Sequence[ScoredRow]) -> float:
        """See `Metric.total`."""
        rows = rows_with_scores(rows)
        if not rows:
            return math.nan
        is_chinese = any(HAN.search(row.expected + row.answer) for row in rows)
        tokenizer = "zh" if is_chinese else "13a"
        counted = [_counts(row.expected, row.answer, tokenizer) for row in rows]
        sums = [sum(column) for column in zip(*counted, strict=True)]
        bleu = _scorer(tokenizer).compute_bleu(
            correct=sums[:4],
            total=sums[4:8],
            sys_len=sums[8],
            ref_len=sums[9],
            smooth_method="exp",
            effective_order=True,
        )
        return min(1.0, bleu.score / 100)


@lru_cache(maxsize=2)
def _scorer(tokenizer: str) -> Any:
    """sacreBLEU's scorer that splits text with `13a` or `zh`."""
    metrics = import_module("sacrebleu.metrics")
    return metrics.BLEU(smooth_method="exp", tokenize=tokenizer, effective_order=True)


@lru_cache(maxsize=2**16)
def _counts(expected: str, answer: str, tokenizer: str) -> tuple[int, ...]:
    """Right n-grams, all n-grams (n = 1 to 4) and both lengths: what resamples are summed from."""
    bleu = _scorer(tokenizer).sentence_score(answer, [expected])
    return (*bleu.counts, *bleu.totals, bleu.sys_len, bleu.ref_len)
