"""The gate on rows: three outcomes, their words, and what `gate.when_unsure` makes of them."""

import math

import numpy as np
import pytest

from llama_factory.core.types import EvalReport, TaskScores
from llama_factory.evaluation.drift import RowDrift
from llama_factory.evaluation.paired_rows import PairedRows
from llama_factory.rounds.check import Check, GateEvidence, unknown_limits
from llama_factory.rounds.gate import Verdict, decide, read_verdict
from llama_factory.rounds.settings import GateSettings


def paired(count, lost=0, won=0, before=2.0, after=2.0):
    """Rows of which some are answered wrongly now and some rightly now; nats of 1 token each."""
    scores = np.tile([1.0, 1.0], (count, 1))
    scores[:lost] = [1, 0]
    scores[lost : lost + won] = [0, 1]
    wobble = 0.2 * np.sin(np.arange(count))
    nats = np.column_stack([np.full(count, before), after + wobble, np.ones(count)])
    return PairedRows(scores, nats)


def judge(rows, new=(), drift=(), guard=5.0, **settings):
    before, after = (
        EvalReport(
            {
                task: TaskScores(
                    task,
                    len(each.scores),
                    {
                        "token_f1": float(each.scores[:, side].mean()),
                        "perplexity": math.exp(each.nats[:, side].mean()),
                    },
                )
                for task, each in rows.items()
            },
            guard,
            1.0,
        )
        for side in (0, 1)
    )
    return decide(
        after,
        before,
        new=list(new) or None,
        base_guard=5.0,
        settings=GateSettings(**settings),
        evidence=GateEvidence(rows, drift),
    )


def outcomes(verdict):
    return [(check.name, check.outcome) for check in verdict.checks]


def test_enough_rows_decide_and_the_reason_has_the_bounds():
    verdict = judge({"v0001 a": paired(200, lost=4, won=4)})
    assert outcomes(verdict) == [("kept", "passed"), ("general", "passed")]
    assert verdict.checks[0].reason == (
        "v0001 a (old): token_f1 0.98 -> 0.98 (90 % of the change: -0.03 – 0.03, 200 rows), within "
        "the allowed drop of 0.1"
    )
    lost = judge({"v0001 a": paired(200, lost=60)})
    assert outcomes(lost)[0] == ("kept", "failed")
    assert "more than the allowed drop of 0.1" in lost.summary
    assert (lost.word, lost.has_forgotten) == ("refused", True)


@pytest.mark.parametrize(
    ("policy", "lost", "word", "to_canary"),
    [
        ("point_estimate", 1, "promoted", False),
        ("point_estimate", 3, "refused", False),
        ("promote_behind_canary", 1, "promoted", True),
        ("promote_behind_canary", 3, "refused", False),
        ("hold", 1, "held", False),
        ("hold", 3, "held", False),
    ],
)
def test_too_few_rows_are_an_answer_of_their_own(policy, lost, word, to_canary):
    verdict = judge({"v0001 a": paired(12, lost=lost)}, when_unsure=policy)
    check = verdict.checks[0]
    assert check.outcome == "undecided"
    assert (check.rows, check.likely) == (12, lost == 1)
    assert f"cannot tell for certain with 12 rows: would need about {check.rows_needed:,}" in (
        check.reason
    )
    assert (verdict.word, verdict.waits_for_canary) == (word, to_canary)
    assert verdict.leans_to_refusal == (lost == 3)
    assert read_verdict({"verdict": verdict.to_json()}) == verdict
    assert judge({"v0001 a": paired(12, lost=lost)}).under(policy) == verdict


def test_a_held_version_names_the_rows_that_would_decide():
    verdict = judge({"v0001 a": paired(12)}, when_unsure="hold")
    assert verdict.is_held
    assert "would need about" in verdict.summary


def test_likelier_answers_are_learned_and_few_of_them_undecided():
    sure = judge({"new": paired(20, after=1.0)}, new=["new"])
    assert outcomes(sure)[0] == ("learned", "passed")
    worse = judge({"new": paired(20, after=2.5)}, new=["new"])
    assert outcomes(worse)[0] == ("learned", "failed")
    assert worse.summary.endswith("not improved")
    hardly = judge({"new": paired(20, after=1.999)}, new=["new"], when_unsure="hold")
    assert outcomes(hardly)[0] == ("learned", "undecided")
    one = judge({"new": paired(1, after=1.0)}, new=["new"])
    assert outcomes(one)[0] == ("learned", "undecided")
    assert one.is_promoted  # by its point estimate


def test_likelier_answers_whose_metric_fell_are_not_learned():
    verdict = judge({"new": paired(100, lost=40, after=1.0)}, new=["new"])
    assert outcomes(verdict)[0] == ("learned", "failed")


def test_old_tasks_are_also_judged_together_and_a_loss_among_many_is_corrected_for():
    rows = {f"v000{n} g{n}": paired(40) for n in range(1, 6)}
    fine = judge(rows, when_unsure="hold")
    assert fine.word == "promoted"
    assert fine.checks[5].reason.startswith("all 5 old tasks together: token_f1 1.00 -> 1.00")
    alone = judge({"v0001 g1": paired(40, lost=10)}, when_unsure="hold")
    assert alone.checks[0].outcome == "failed"
    among = judge(rows | {"v0001 g1": paired(40, lost=10)}, when_unsure="hold")
    assert among.checks[0].outcome == "undecided"  # one of five may look so by chance
    worst = judge(rows | {"v0001 g1": paired(40, lost=20)})
    assert worst.checks[0].outcome == "failed"
    assert worst.checks[0].reason.endswith("one of 5 old tasks, Holm's correction")


def test_a_group_has_a_limit_of_its_own():
    rows = {"v0001 contracts": paired(400, lost=20), "v0002 chat": paired(400, lost=20)}
    assert judge(rows).is_promoted
    strict = judge(rows, limits={"contracts": 0.01})
    assert [check.outcome for check in strict.checks[:2]] == ["failed", "passed"]
    assert "the allowed drop of 0.01" in strict.checks[0].reason
    with pytest.raises(ValueError, match="less than or equal to 1"):
        GateSettings(limits={"contracts": 3})


def test_a_limit_for_a_group_that_vanished_or_is_misspelt_is_named():
    settings = GateSettings(limits={"faqs": 0.02, "news": 0.5})
    (told,) = unknown_limits(settings, {"faq", "news"})
    assert told.startswith("gate.limits: no task belongs to group 'faqs', so its limit of 0.02")
    assert "'faq'" in told


def guard_rows(ratio, count=40, spread=0.5):
    tokens = 20
    moved = math.log(ratio) * tokens + spread * np.cos(np.arange(count) * 2.4)
    return [RowDrift(50 + float(each), tokens, 50.0, 0.1) for each in moved]


def test_general_ability_is_judged_by_the_rows_of_the_guard():
    rows = {"v0001 a": paired(200)}
    fine = judge(rows, drift=guard_rows(1.02), guard=5.1)
    assert fine.checks[-1].outcome == "passed"
    assert "general perplexity x 1.02 (90 %: 1.0" in fine.checks[-1].reason
    lost = judge(rows, drift=guard_rows(1.5), guard=7.5)
    assert lost.checks[-1].outcome == "failed"
    near = judge(rows, drift=guard_rows(1.14, count=4, spread=5), guard=5.7, when_unsure="hold")
    assert near.checks[-1].outcome == "undecided"
    unknown_base = [RowDrift(5.0, 2, None, None)] * 4
    assert judge(rows, drift=unknown_base).checks[-1].outcome == "passed"


def test_scores_that_are_no_number_pass_nowhere_with_rows_either():
    broken = paired(20)
    broken.scores[:, 1] = math.nan
    broken.nats[:, 1] = math.nan
    verdict = judge({"new": broken, "v0001 a": broken}, new=["new"])
    assert [check.outcome for check in verdict.checks[:2]] == ["failed", "failed"]


def test_reports_of_earlier_versions_are_read():
    saved = {"promoted": True, "held": False, "checks": [
        {"name": "kept", "passed": True, "reason": "fine"}]}  # fmt: skip
    verdict = read_verdict({"verdict": saved})
    assert verdict == Verdict((Check("kept", True, "fine"),))
    assert verdict.to_json() == saved


def test_by_default_a_point_estimate_decides_whatever_the_rows_say():
    """The decisions of the earlier gate, for every number of rows and losses."""
    for count in (5, 10, 20, 60, 200):
        for lost in range(0, count // 2, max(1, count // 20)):
            verdict = judge({"v0001 a": paired(count, lost=lost)})
            assert verdict.is_promoted == (lost / count <= 0.1 + 1e-9), (count, lost)
