import math

import pytest

from llama_factory.continual.gate import decide, read_verdict
from llama_factory.continual.settings import GateSettings
from llama_factory.core.types import EvalReport, TaskScores
from llama_factory.evaluation.statistics import Estimate


def report(guard=5.0, **tasks):
    scored = {
        name.replace("_", " "): TaskScores(
            name.replace("_", " "), 9, {"token_f1": f1, "perplexity": surprise}
        )
        for name, (f1, surprise) in tasks.items()
    }
    return EvalReport(scored, guard, 1.0)


BEFORE = report(v0001_a=(0.8, 2.0), v0002_b=(0.1, 20.0))


@pytest.mark.parametrize(
    ("after", "failed"),
    [
        (report(v0001_a=(0.75, 2.5), v0002_b=(0.7, 2.0)), []),
        (report(v0001_a=(0.69, 2.5), v0002_b=(0.7, 2.0)), ["kept"]),
        (report(v0001_a=(0.8, 2.0), v0002_b=(0.1, 21.0)), ["learned"]),
        (report(v0001_a=(0.8, 2.0), v0002_b=(0.7, 2.0), guard=6.0), ["general"]),
        (
            report(v0001_a=(0.8, 2.0), v0002_b=(0.7, math.nan), guard=math.nan),
            ["learned", "general"],
        ),
        (report(), ["held_out"]),
    ],
)
def test_each_limit_refuses_and_says_why(after, failed):
    verdict = decide(after, BEFORE, new=["v0002 b"], base_guard=5.0, settings=GateSettings())
    assert [check.name for check in verdict.checks if not check.passed] == failed
    assert verdict.is_promoted == (not failed)
    assert verdict.has_forgotten == bool({*failed} & {"kept", "general"})
    assert read_verdict({"verdict": verdict.to_json()}) == verdict


def test_reasons_carry_the_numbers():
    after = report(v0001_a=(0.6, 2.5), v0002_b=(0.7, 2.0))
    verdict = decide(
        after, BEFORE, new=["v0002 b"], base_guard=5.0, settings=GateSettings(max_drop=0.1)
    )
    assert verdict.summary == (
        "v0001 a (old): token_f1 0.80 -> 0.60, more than the allowed drop of 0.1"
    )


def test_reasons_tell_how_sure_a_change_is_where_its_rows_are_known():
    after = report(v0001_a=(0.75, 2.5), v0002_b=(0.7, 2.0))
    changes = {
        "v0001 a": Estimate(-0.05, -0.31, 0.02, 9),
        "v0002 b": Estimate(0.6, None, None, 1),  # one row tells nothing of its spread
    }
    verdict = decide(
        after, BEFORE, new=["v0002 b"], base_guard=5.0, settings=GateSettings(), changes=changes
    )
    learned, kept, _ = verdict.checks
    assert kept.reason == (
        "v0001 a (old): token_f1 0.80 -> 0.75 (95 % of the change: -0.31 – 0.02, 9 rows), "
        "within the allowed drop of 0.1"
    )
    assert learned.reason == "v0002 b (new): perplexity 20.00 -> 2.00, token_f1 0.10 -> 0.70"
