import math

import pytest
import yaml

from llama_factory.core.types import EvalReport, TaskScores
from llama_factory.rounds.check import Check
from llama_factory.rounds.finishing import Round
from llama_factory.rounds.gate import Verdict, decide, read_verdict
from llama_factory.rounds.gate_sentences import NOTHING_HELD_OUT
from llama_factory.rounds.round import safer
from llama_factory.rounds.settings import GateSettings, LearningConfig
from llama_factory.versions import store
from tests.rounds.rounds import drop, learn


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


def text_report(guard=5.0, **tasks):
    """Of plain text, which has a perplexity and no answers."""
    scored = {
        name: TaskScores(name, 9, {"perplexity": surprise}) for name, surprise in tasks.items()
    }
    return EvalReport(scored, guard, 1.0)


def judged(before, after, *, new=("new",), **options):
    options = {"base_guard": 5.0, "settings": GateSettings()} | options
    return decide(after, before, new=new, **options)


def failed(verdict):
    return [check.name for check in verdict.checks if not check.passed]


# answers right before and after, rows, answers lost; in floating point 0.4 - 0.1 is more than 0.3
EXACT_DROPS = [(b, b - n, r, n) for r in (10, 20, 40, 7) for n in (1, 2) for b in range(n, r + 1)]


@pytest.mark.parametrize("name", ["old", "new"])
def test_a_drop_of_exactly_what_is_allowed_passes(name):
    new = [name] if name == "new" else None
    for before, after, rows, lost in EXACT_DROPS:
        settings = GateSettings(max_drop=lost / rows)
        scores = [report(**{name: (n / rows, p)}) for n, p in ((before, 3.0), (after, 2.0))]
        assert judged(*scores, new=new, settings=settings).is_promoted, (before, after, rows)
        stricter = GateSettings(max_drop=lost / rows - 1e-6)
        assert not judged(*scores, new=new, settings=stricter).is_promoted


def test_a_limit_of_zero_allows_no_drop_at_all():
    settings = GateSettings(max_drop=0)
    same, worse = report(old=(0.7, 2.0)), report(old=(0.699999, 2.0))
    assert judged(same, same, new=None, settings=settings).is_promoted
    assert failed(judged(same, worse, new=None, settings=settings)) == ["kept"]


def test_new_answers_must_be_likelier_than_before_and_not_as_likely():
    before = report(new=(0.5, 3.0))
    assert failed(judged(before, report(new=(0.5, 3.0)))) == ["learned"]
    assert failed(judged(before, report(new=(0.5, 2.999)))) == []
    assert failed(judged(before, report(new=(0.39, 2.0)))) == ["learned"]
    learned = judged(before, report(new=(0.39, 2.0))).checks[0]
    assert learned.reason == (
        "new (new): perplexity 3.00 -> 2.00, token_f1 0.50 -> 0.39, not improved"
    )


def test_general_perplexity_of_exactly_the_limit_passes_and_an_unmeasured_one_does_not():
    settings = GateSettings(max_guard_ratio=1.25)
    before = report(old=(0.5, 2.0))
    for guard, passes in ((6.25, True), (6.26, False), (None, False), (math.nan, False)):
        verdict = judged(before, report(guard, old=(0.5, 2.0)), new=None, settings=settings)
        assert failed(verdict) == ([] if passes else ["general"])
    at_limit = judged(before, report(6.25, old=(0.5, 2.0)), new=None, settings=settings)
    assert at_limit.checks[-1].reason == "general perplexity x 1.25, within the limit of x 1.25"
    above = judged(before, report(7.5, old=(0.5, 2.0)), new=None, settings=settings)
    assert above.summary == "general perplexity x 1.50, above the limit of x 1.25"


def test_plain_text_is_judged_by_its_perplexity():
    settings = GateSettings(max_guard_ratio=1.25)
    before = text_report(old=4.0, new=8.0)
    verdict = judged(before, text_report(old=5.0, new=7.0), settings=settings)
    assert [(check.name, check.passed) for check in verdict.checks] == [
        ("learned", True),
        ("kept", True),
        ("general", True),
    ]
    assert [check.reason for check in verdict.checks[:2]] == [
        "new (new): perplexity 8.00 -> 7.00",
        "old (old): perplexity x 1.25, within the limit of x 1.25",
    ]
    verdict = judged(before, text_report(old=6.0, new=8.0), settings=settings)
    assert failed(verdict) == ["learned", "kept"]
    assert verdict.summary == (
        "new (new): perplexity 8.00 -> 8.00, not improved; "
        "old (old): perplexity x 1.50, above the limit of x 1.25"
    )


def test_a_score_that_is_no_number_passes_nowhere():
    fine, broken = (
        report(old=(0.5, 2.0), new=(0.5, 3.0)),
        report(old=(math.nan, 2.0), new=(math.nan, 2.0)),
    )
    assert failed(judged(fine, broken)) == ["learned", "kept"]
    assert failed(judged(broken, fine)) == ["learned", "kept"]
    assert failed(judged(text_report(old=2.0), text_report(old=math.nan), new=None)) == ["kept"]


def test_new_tasks_come_first_then_the_old_ones_then_general_ability():
    both = report(a=(0.5, 2.0), b=(0.5, 2.0), c=(0.5, 2.0))
    better = report(a=(0.5, 1.0), b=(0.5, 1.0), c=(0.5, 1.0))
    verdict = judged(both, better, new=["b", "gone"])
    names = [(check.name, check.reason.split(" ")[0]) for check in verdict.checks]
    assert names == [("learned", "b"), ("kept", "a"), ("kept", "c"), ("general", "general")]


@pytest.mark.parametrize(
    ("new", "names"), [(None, []), ((), ["held_out"]), (["gone"], ["held_out"])]
)
def test_a_round_that_taught_something_needs_a_row_that_shows_it(new, names):
    same = report(old=(0.5, 2.0))
    verdict = judged(same, same, new=new)
    assert failed(verdict) == names
    assert verdict.word == ("held" if names else "promoted")
    assert verdict.is_held == bool(names)
    assert verdict.summary == (NOTHING_HELD_OUT if names else "all checks passed")
    assert not verdict.has_forgotten
    assert [(check.name, check.passed) for check in verdict.checks] == [
        ("kept", True),
        *((name, False) for name in names),
        ("general", True),
    ]


def test_what_fails_besides_is_refused_and_not_held():
    before, after = report(old=(0.5, 2.0)), report(old=(0.1, 2.0))
    verdict = judged(before, after, new=())
    assert (verdict.word, verdict.is_held, verdict.is_promoted) == ("refused", False, False)
    assert verdict.has_forgotten
    assert verdict.to_json()["held"] is False
    assert judged(before, before, new=()).to_json()["held"] is True


def test_not_having_learned_is_not_having_forgotten():
    same = report(new=(0.5, 2.0))
    verdict = judged(same, same)
    assert (verdict.word, verdict.has_forgotten) == ("refused", False)


def test_the_metric_that_decides_is_the_one_of_the_settings():
    def scored(f1, exact):
        return EvalReport(
            {"old": TaskScores("old", 4, {"f1": f1, "exact": exact, "perplexity": 2.0})}, 5.0, 1.0
        )

    before, after = scored(0.5, 0.5), scored(0.1, 0.5)
    assert judged(before, after, new=None, settings=GateSettings(metric="exact")).is_promoted
    assert failed(judged(before, after, new=None, settings=GateSettings(metric="f1"))) == ["kept"]


def test_a_report_without_a_verdict_has_none():
    assert read_verdict({}) is None
    assert read_verdict({"verdict": None}) is None
    written = Verdict((Check("kept", False, "worse"),)).to_json()
    assert written == {
        "promoted": False,
        "held": False,
        "checks": [{"name": "kept", "passed": False, "reason": "worse"}],
    }


@pytest.mark.parametrize(
    ("failed", "changes", "is_tried_again"),
    [
        ("kept", {}, True),
        ("general", {}, True),
        ("learned", {}, False),
        ("kept", {"gate": {"retry_safe": False}}, False),
        ("kept", {"strategies": "safe"}, False),
    ],
)
def test_what_lost_something_is_trained_again_with_the_preset_safe_if_that_is_wanted(
    failed, changes, is_tried_again
):
    config = LearningConfig.model_validate({"gate": {"retry_safe": True}} | changes)
    refused = Round(None, Verdict((Check(failed, False, "why"),)), is_released=False)
    again = safer(config, refused)
    assert (again is not None) == is_tried_again
    if again is not None:
        safe = LearningConfig.model_validate({"strategies": "safe"})
        assert again.strategies == safe.strategies
        assert again.model_copy(update={"strategies": config.strategies}) == config


def test_nothing_is_trained_again_where_nothing_was_refused():
    config = LearningConfig.model_validate({"gate": {"retry_safe": True}})
    assert safer(config, None) is None
    promoted = Round(None, Verdict((Check("kept", True, ""),)), is_released=True)
    assert safer(config, promoted) is None


@pytest.mark.slow
def test_the_second_try_is_a_version_of_its_own_and_both_are_remembered(bot):
    drop(bot, "faq")
    changes = ["gate.retry_safe=true", "gate.max_guard_ratio=0.001"]
    done, said = learn(bot, *changes)
    assert (done.version.id, done.verdict.word) == ("v0002", "refused")
    assert "v0001 is refused: trained once more with `safe`." in said
    names = [
        [
            each["type"]
            for each in yaml.safe_load((store.get(bot, v).folder / "run.yaml").read_text())[
                "strategies"
            ]
        ]
        for v in ("v0001", "v0002")
    ]
    assert names[0] != names[1]
    again, _ = learn(bot, *changes)
    assert (again.version.id, again.is_new) == ("v0002", False)
    assert [path.name for path in bot.inbox.iterdir()] == ["faq.jsonl"]
