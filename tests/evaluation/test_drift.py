import math

import pytest

from llama_factory.evaluation.drift import (
    RowDrift,
    perplexity_ratio,
    read_row_drift,
    token_divergence,
    write_row_drift,
)

ROWS = [RowDrift(4.0, 2, 3.0, 0.2), RowDrift(9.0, 6, 7.0, 0.6), RowDrift(0.0, 0, 0.0, 0.0)]


def test_totals_count_tokens_and_not_rows(tmp_path):
    write_row_drift(tmp_path / "guard.jsonl", ROWS)
    kept = read_row_drift(tmp_path / "guard.jsonl")
    assert kept == ROWS
    assert perplexity_ratio(kept).value == pytest.approx(math.exp((13 - 10) / 8))
    assert token_divergence(kept).value == pytest.approx(0.8 / 8)


def test_without_a_base_or_rows_there_is_nothing_to_tell(tmp_path):
    for rows in ([RowDrift(4.0, 2, None, None)], read_row_drift(tmp_path / "none.jsonl")):
        assert perplexity_ratio(rows) is None
        assert token_divergence(rows) is None
