"""What holds for every metric."""

import math
import subprocess
import sys

import pytest

from llama_factory.core.errors import ConfigError, DataError
from llama_factory.evaluation.metrics import METRICS, ModelMetric, require_fits
from llama_factory.evaluation.metrics.exact_match import ExactMatch
from llama_factory.evaluation.metrics.token_f1 import TokenF1
from llama_factory.evaluation.task_rows import ScoredRow
from tests.evaluation.metrics.rows import answered, task_row, text_row

PAIRS = [("a b", "a b"), ("a", "b"), ("", ""), ("a", ""), ("", "b"), ("你好", "你好吗"), ("!", "?")]
WITH_PLACES = {"pass_rate", "preference", "custom"}
"""Metrics that need more than a name: their own tests say how they score."""
OF_TEXT = [
    name
    for name, part in METRICS.parts.items()
    if not issubclass(part, ModelMetric) and name not in WITH_PLACES
]
OF_MORE = ["termination", "perplexity", "label_likelihood"]
"""Metrics that two texts alone are not enough for."""
ALIKE = {"bleu", "bleu-4", "rouge-1", "rouge-2", "rouge-l", "chrf", "exact_match", "token_f1"}
ALIKE |= {"accuracy", "macro_f1", "micro_f1", "length"}
"""Metrics that compare with the expected text: it scores best itself."""


@pytest.mark.variants
@pytest.mark.parametrize("name", OF_TEXT)
def test_scores_and_totals_stay_in_their_range(name):
    metric = METRICS.parse(name)
    scored = metric.score_rows([answered(*pair) for pair in PAIRS if pair[0] != "!"])
    for value in [*(each.score for each in scored), metric.total(scored)]:
        assert metric.lowest <= value <= metric.highest


@pytest.mark.parametrize("name", OF_TEXT)
def test_one_row_is_its_own_total(name):
    metric = METRICS.parse(name)
    scored = metric.score_rows([answered("World", "It is World")])
    assert metric.total(scored) == pytest.approx(scored[0].score, abs=1e-6)


SHORT = {
    ("bleu-4", "a"): (1 / 2 * 1 / 4 * 1 / 8) ** 0.25,
    ("rouge-2", "a"): 0.0,
    ("rouge-2", "体育新闻"): 0.0,
}
"""Scores of right answers too short for metrics that are to give another program's numbers."""
TEXTS = ["World news", "体育新闻", "a"]
LONG = [(name, text) for name in sorted(ALIKE) for text in TEXTS if (name, text) not in SHORT]


@pytest.mark.parametrize(("name", "text"), LONG)
def test_the_expected_text_scores_best(name, text):
    metric = METRICS.parse(name)
    scored = metric.score_rows([answered(text, text)])
    assert scored[0].score == metric.total(scored) == metric.highest


@pytest.mark.parametrize(("name", "text"), SHORT)
def test_the_expected_text_scores_less_where_it_is_too_short(name, text):
    metric = METRICS.parse(name)
    scored = metric.score_rows([answered(text, text)])
    assert scored[0].score == metric.total(scored)
    assert scored[0].score == pytest.approx(SHORT[name, text], abs=1e-12)


@pytest.mark.parametrize("name", METRICS.parts)
def test_scores_are_kept_under_the_name_of_the_metric(name):
    assert METRICS.parse(name).label == name


@pytest.mark.parametrize("name", METRICS.parts)
def test_no_row_gives_no_number_but_no_error(name):
    total = METRICS.parse(name).total([])
    assert math.isnan(total) or total == 1.0


@pytest.mark.parametrize("name", METRICS.parts)
def test_rows_that_were_not_judged_are_left_out(name):
    metric = METRICS.parse(name)
    judged = [ScoredRow("a b", "a c", 1.0, 2.0), ScoredRow("x", "a c", 0.5, 1.0)]
    if name == "perplexity":
        judged = [ScoredRow("a b", "", 2.0, 2.0), ScoredRow("x", "", 4.0, 1.0)]
    lost = ScoredRow("y", "z w", math.nan)
    assert metric.total([*judged, lost]) == pytest.approx(metric.total(judged))


@pytest.mark.parametrize("name", [*sorted(WITH_PLACES), *OF_MORE])
def test_what_a_metric_lacks_is_told_with_its_name(name):
    metric = METRICS.parse(name)
    ask = metric.check if name in WITH_PLACES else lambda: metric.score("a b", "b a")
    with pytest.raises(ConfigError, match=rf"^evaluation\.metrics: '{name}' "):
        ask()


def test_plain_text_is_refused_by_metrics_that_need_an_answer():
    with pytest.raises(DataError) as caught:
        require_fits(ExactMatch(), [task_row("a"), text_row()], "books")
    assert str(caught.value) == (
        "task 'books': metric 'exact_match' does not fit: book.txt:3 is plain text, which has no "
        "expected answer (perplexity fits it)."
    )
    assert METRICS.parse("perplexity").unfit([text_row()]) == ""
    assert METRICS.parse("repetition").unfit([text_row()]) == ""


def test_rows_without_options_are_refused_by_metrics_that_choose():
    metric = METRICS.parse("label_likelihood")
    assert metric.unfit([task_row("a", "a", "b")]) == ""
    reason = metric.unfit([task_row("a", "a", "b"), task_row("a", line=7)])
    assert reason == "rows.jsonl:7 has no options to choose from."


@pytest.mark.slow
def test_settings_load_no_library_until_they_score():
    heavy = {"sacrebleu", "nltk", "jieba", "torch", "httpx", "transformers"}
    code = "import sys; from llama_factory.evaluation.metrics import METRICS\n"
    code += "[METRICS.parse(name) for name in METRICS.parts]\n"
    code += f"print({heavy!r} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout == "set()\n", run.stderr


def test_exact_match_looks_past_case_and_spaces():
    assert ExactMatch().score("Sci  Tech", " sci tech\n") == 1
    assert ExactMatch().score("Sci Tech", "Sci-Tech") == 0


def test_token_f1_by_hand():
    # shared: the, b; precision 2/3, recall 2/4
    assert TokenF1().score("the a b c", "B the z") == pytest.approx(
        2 * (2 / 3) * 0.5 / (2 / 3 + 0.5)
    )


def test_token_f1_counts_chinese_by_character():
    assert TokenF1().score("保修三十一个月", "保修十个月") == pytest.approx(2 * 5 / (7 + 5))
    assert TokenF1().score("E47错误", "E47 错误") == 1
