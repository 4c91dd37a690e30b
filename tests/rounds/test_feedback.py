"""What users said of answers, from the server's files into a round and its report."""

import pytest

from llama_factory.core import files
from llama_factory.data.review.cases import Choice
from llama_factory.data.sources.feedback import read_feedback
from llama_factory.rounds.feedback import read_taught
from llama_factory.versions import store
from tests.rounds.feedback import decide, give, states
from tests.rounds.rounds import drop, learn, teach

EAGER = (
    "training.epochs=120",
    "training.learning_rate=0.02",
    "training.schedule=constant",
    "evaluation.max_new_tokens=16",
    "strategies=naive",
)
DROP = Choice()


def taught(version):
    return list(files.read_jsonl(version.folder / "data/train.jsonl"))


def questions(version):
    return [row["messages"][0]["content"] for row in taught(version)]


def test_feedback_waits_for_a_person(bot):
    give(bot, "How long?", "12 months", "24 months")
    done, _ = learn(bot)
    assert done is None
    done, lines = learn(bot)
    assert done is None
    assert [line for line in lines if "1 cases wait" in line]


def test_an_accepted_correction_is_taught_and_never_held_out(bot):
    drop(bot, "faq")
    ids = [give(bot, f"Complaint {n}?", "no", f"answer {n}") for n in range(8)]
    for each in ids:
        decide(bot, each)
    done, _ = learn(bot)
    asked = questions(done.version)
    assert {f"Complaint {n}?" for n in range(8)} <= {*asked}
    held = files.read_jsonl(done.version.folder / "data/held_out.jsonl")
    assert {row["group"] for row in held} == {"faq"}


@pytest.mark.slow
def test_what_was_taught_is_kept_with_who_when_and_which_version(bot):
    each = give(bot, "How long?", "12 months", "24 months", key="ann", user="9f", version="v0000")
    decide(bot, each, reviewer="bob")
    done, _ = learn(bot)
    (kept,) = read_taught(done.version.folder)
    assert (kept.id, kept.key, kept.user, kept.version) == (each, "ann", "9f", "v0000")
    assert kept.when == "2026-11-30T10:00:00+00:00"
    assert (kept.given, kept.right, kept.reviewers) == ("12 months", "24 months", ("bob",))
    (row,) = taught(done.version)
    assert (row["file"], row["line"]) == ("feedback/2026-11-30.jsonl", 1)


def test_rejected_feedback_is_not_taught(bot):
    decide(bot, give(bot, "How long?", "12 months", "24 months"), DROP)
    assert learn(bot)[0] is None


@pytest.mark.slow
def test_a_reviewer_may_write_the_right_answer_to_a_thumb_down(bot):
    decide(bot, give(bot, "How long?", "12 months"), Choice(edited="36 months"))
    done, _ = learn(bot)
    (row,) = taught(done.version)
    assert row["messages"][-1]["content"] == "36 months"
    assert "rejected" not in row


@pytest.mark.slow
def test_thumbs_alone_wait_for_a_round_that_can_use_them(bot):
    decide(bot, give(bot, "How long?", "12 months"))
    decide(bot, give(bot, "How much?", "5 euros", rating="up"))
    assert learn(bot)[0] is None
    done, _ = learn(bot, "training.objective=kto", "strategies=naive")
    tags = {row["messages"][0]["content"]: row["is_desirable"] for row in taught(done.version)}
    assert tags == {"How long?": False, "How much?": True}


@pytest.mark.slow
def test_a_round_of_preferences_takes_the_correction_over_the_answer(bot):
    decide(bot, give(bot, "How long?", "12 months", "24 months"))
    done, _ = learn(bot, "training.objective=dpo", "strategies=naive")
    (row,) = taught(done.version)
    assert row["messages"][-1]["content"] == "24 months"
    assert row["rejected"]["content"] == "12 months"


@pytest.mark.slow
def test_corrections_become_liked_and_disliked_answers_for_kto(bot):
    decide(bot, give(bot, "How long?", "12 months", "24 months"))
    done, _ = learn(bot, "training.objective=kto", "strategies=naive")
    rows = [(row["messages"][-1]["content"], row["is_desirable"]) for row in taught(done.version)]
    assert sorted(rows) == [("12 months", False), ("24 months", True)]


@pytest.mark.slow
def test_later_feedback_of_the_same_caller_counts(bot):
    first = give(bot, "How long?", "12 months", "18 months", completion_id="chatcmpl-1")
    decide(bot, first)
    later = give(
        bot, "How long?", "12 months", "24 months", completion_id="chatcmpl-1", replaces=first
    )
    assert states(bot) == {first: "replaced", later: "waiting"}
    assert learn(bot)[0] is None
    decide(bot, later)
    done, _ = learn(bot)
    assert [row["messages"][-1]["content"] for row in taught(done.version)] == ["24 months"]


def test_contradicting_corrections_wait_for_people(bot):
    decide(bot, give(bot, "How long?", "12 months", "18 months"))
    decide(bot, give(bot, "How long?", "12 months", "24 months"))
    done, lines = learn(bot)
    assert done is None
    assert [line for line in lines if "cases wait" in line]


@pytest.mark.slow
def test_private_data_in_what_a_reviewer_wrote_is_masked(bot):
    decide(bot, give(bot, "Who?", "nobody"), Choice(edited="Ask ann.smith@example.com."))
    done, _ = learn(bot)
    assert taught(done.version)[0]["messages"][-1]["content"] == "Ask [EMAIL]."


@pytest.mark.slow
def test_all_feedback_can_be_taken_without_review(bot):
    give(bot, "How long?", "12 months", "24 months")
    decide(bot, give(bot, "How much?", "5", "6"), DROP)
    done, _ = learn(bot, "data.feedback=all")
    assert questions(done.version) == ["How long?"]
    give(bot, "Where?", "here", "in Rome")
    assert learn(bot, "data.feedback=none")[0] is None


@pytest.mark.slow
def test_a_round_of_complaints_alone_is_held_and_says_how_many_are_right(bot):
    for n in range(3):
        decide(bot, give(bot, f"Complaint number {n}?", "no", f"answer {n}"))
    done, _ = learn(bot, *EAGER)
    assert done.verdict.is_held
    report = done.version.report["complaints"]
    assert report["sentence"] == "3 of 3 complaints are answered rightly now (0 before)"
    assert {row["is_right"] for row in report["rows"]} == {"word for word"}
    assert all(row["nats_after"] < row["nats_before"] for row in report["rows"])


@pytest.mark.slow
def test_the_gate_can_be_asked_to_judge_by_complaints(bot):
    for n in range(3):
        decide(bot, give(bot, f"Complaint number {n}?", "no", f"answer {n}"))
    done, _ = learn(bot, *EAGER, "gate.min_complaints=0.9")
    assert done.is_released
    assert done.verdict.checks[-1].reason.startswith("3 of 3 complaints are answered rightly now")


@pytest.mark.slow
def test_a_refused_versions_feedback_comes_again(bot):
    decide(bot, give(bot, "How long?", "12 months", "24 months"))
    refused, _ = learn(bot, "gate.max_guard_ratio=0.01")
    assert not refused.is_released
    again, _ = learn(bot)
    assert questions(again.version) == ["How long?"]


@pytest.mark.slow
def test_feedback_is_not_taught_twice_and_comes_again_after_a_rollback(bot):
    from llama_factory import run

    decide(bot, give(bot, "How long?", "12 months", "24 months"))
    first, _ = learn(bot)
    run.promote(bot.folder, first.version.id)
    assert learn(bot)[0] is None
    run.rollback(bot.folder)
    assert questions(learn(bot, "training.epochs=1")[0].version) == ["How long?"]


@pytest.mark.slow
def test_feedback_that_comes_while_a_round_runs_waits_for_the_next(bot, monkeypatch):
    from llama_factory.rounds import round as rounds

    drop(bot, "faq")
    real = rounds._train

    def meanwhile(*args):
        decide(bot, give(bot, "How long?", "12 months", "24 months"))
        return real(*args)

    monkeypatch.setattr(rounds, "_train", meanwhile)
    first, _ = learn(bot)
    assert "How long?" not in questions(first.version)
    monkeypatch.setattr(rounds, "_train", real)
    second, _ = learn(bot)
    assert questions(second.version) == ["How long?"]


@pytest.mark.slow
def test_complaints_of_earlier_rounds_are_asked_again(bot):
    teach(bot, "faq")
    decide(bot, give(bot, "First?", "no", "one"))
    first, _ = learn(bot, *EAGER, "gate.min_complaints=0")
    decide(bot, give(bot, "Second?", "no", "two"))
    second, _ = learn(bot, *EAGER, "gate.min_complaints=0")
    rows = second.version.report["complaints"]["rows"]
    assert [(row["taught_in"], row["question"]) for row in rows] == [
        (first.version.id, "First?"),
        (second.version.id, "Second?"),
    ]
    assert rows[0]["before"] == first.version.report["complaints"]["rows"][0]["after"]


@pytest.mark.slow
def test_where_no_row_may_be_kept_only_who_and_when_stay(bot):
    decide(bot, give(bot, "How long?", "12 months", "24 months", key="ann"))
    done, _ = learn(bot, "data.keep_rows=false", "strategies=naive")
    (kept,) = read_taught(done.version.folder)
    assert (kept.key, kept.question, kept.given, kept.right) == ("ann", (), "", "")
    assert done.version.report["complaints"]["rows"] == []
    assert not [path for path in done.version.folder.rglob("*") if b"24 months" in read(path)]
    assert not [path for path in bot.cache.rglob("*") if b"24 months" in read(path)]


def read(path):
    return path.read_bytes() if path.is_file() else b""


def test_a_line_that_cannot_be_read_is_left_out_and_named(bot):
    each = give(bot, "How long?", "12 months", "24 months")
    with (bot.feedback / "feedback-2026-11-30.jsonl").open("a") as file:
        file.write('{"id": "half')
    book = read_feedback(bot.feedback)
    assert [one.id for one in book.current] == [each]
    _, lines = learn(bot)
    assert any("feedback-2026-11-30.jsonl:2" in line for line in lines)


@pytest.mark.slow
def test_the_page_lists_complaints_with_the_answers_before_and_now(bot):
    decide(bot, give(bot, "How long is it <really>?", "12 months", "24 months"))
    done, _ = learn(bot, *EAGER)
    page = (store.get(bot, done.version.id).folder / "report.html").read_text()
    assert "1 of 1 complaint is answered rightly now (0 before)" in page
    assert "How long is it &lt;really&gt;?" in page
