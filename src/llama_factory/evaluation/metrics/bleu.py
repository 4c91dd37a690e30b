"""BLEU-4 of one answer over its characters: the number that LLaMA-Factory reports.

Papineni et al. 2002, https://aclanthology.org/P02-1040, smoothed by method 3 of Chen & Cherry 2014,
https://aclanthology.org/W14-3346, as NLTK counts it. `bleu` is that of papers, over words.
"""

from llama_factory.evaluation.metrics import METRICS, Metric, require_package


@METRICS.register("bleu-4")
class Bleu4(Metric):
    """Overlap of character sequences as LLaMA-Factory counts it: below 1 under four characters."""

    def check(self) -> None:
        """See `Metric.check`."""
        require_package("nltk", metric=self.label)

    def score(self, expected: str, answer: str) -> float:
        """See `Metric.score`.

        The first n that no n-gram matches counts as half a match, the next as a quarter; so too the
        n that short texts have no n-gram of, which keeps them below 1 even where they are right.
        """
        from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

        smooth = SmoothingFunction().method3
        return float(sentence_bleu([list(expected)], list(answer), smoothing_function=smooth))
