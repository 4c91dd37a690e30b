"""The review in the page: cases one by one, who decided, and who may not."""

import re

import pytest

from llama_factory import curate, operate
from llama_factory.core.types import Example, Message
from llama_factory.data.conflict_rules import Conflict, ConflictSettings
from llama_factory.data.review.folder import add_cases
from tests.web.bots import EVIL
from tests.web.browsing import Visitor

PASSWORD = "a long password"


def dispute(bot, question="What is the warranty?", **settings):
    """A conflict of two answers, one of which is evil."""
    answers = ("31 months.", f"Two years. {EVIL}")
    rows = tuple(
        Example((Message("user", question), Message("assistant", answer)), "faq", "faq.jsonl", n)
        for n, answer in enumerate(answers, 1)
    )
    (case,) = add_cases(bot.review, [Conflict(rows, is_exact=True)], ConflictSettings(**settings))
    return case


def user(bot, name, role="reviewer"):
    operate.add_user(bot.folder, name, role, PASSWORD)
    visitor = Visitor.of(bot.folder)
    visitor.log_in(name, PASSWORD)
    return visitor


@pytest.mark.parametrize(("language", "word"), [("en", "Review"), ("zh", "审核")])
def test_the_page_answers_in_both_languages(bot, page, language, word):
    assert word in page.text("/review", **{"accept-language": language})
    dispute(bot)
    text = page.text("/review", **{"accept-language": language})
    assert "31 months." in text
    assert "faq.jsonl:2" in text
    assert EVIL not in text


def test_an_answer_is_kept_and_the_next_case_shown(bot, page):
    first, second = dispute(bot), dispute(bot, "Is it red?")
    text = page.text("/review")
    assert f'action="review/{first.id}"' in text
    assert f'name="next" value="{second.id}"' in text
    sent = {"do": "keep", "numbers": "1", "note": "the sheet", "next": second.id}
    done = page.post(f"/review/{first.id}", sent)
    assert (done.status_code, done.headers["location"]) == (303, f"../review?case={second.id}")
    (kept,) = curate.case(bot, first.id).accepted()
    assert kept.answer == "31 months."
    (vote,) = curate.case(bot, first.id).votes
    assert (vote.reviewer, vote.note) == ("local", "the sheet")
    assert f'action="review/{second.id}"' in page.text(f"/review?case={second.id}")


@pytest.mark.parametrize(
    ("sent", "answers"),
    [
        ({"do": "edit", "edited": "30 months."}, ["30 months."]),
        ({"do": "drop"}, []),
        ({"do": "keep", "numbers": ["1", "2"]}, ["31 months.", f"Two years. {EVIL}"]),
    ],
)
def test_a_case_is_edited_dropped_or_kept_whole(bot, page, sent, answers):
    case = dispute(bot)
    assert page.post(f"/review/{case.id}", sent).status_code == 303
    assert [each.answer for each in curate.case(bot, case.id).accepted()] == answers
    assert curate.case(bot, case.id).state == "resolved"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ({"do": "keep"}, 409),
        ({"do": "keep", "numbers": "9"}, 409),
        ({"do": "edit", "edited": " "}, 409),
        ({"do": "unresolved"}, 409),
        ({"do": "burn"}, 422),
    ],
)
def test_what_cannot_be_decided_is_refused(bot, page, sent, status):
    case = dispute(bot)
    assert page.post(f"/review/{case.id}", sent).status_code == status
    assert curate.case(bot, case.id).votes == ()


def test_an_unknown_case_is_refused(page):
    assert page.post("/review/0123", {"do": "drop"}).status_code == 409
    assert page.get("/review?case=../../x").status_code == 200


@pytest.mark.slow
def test_two_reviewers_who_disagree_need_a_referee(bot):
    case = dispute(bot, always_second=True, rule="none")
    ann, ben, cat = (user(bot, name) for name in ("ann", "ben", "cat"))
    ann.post(f"/review/{case.id}", {"do": "keep", "numbers": "1"})
    assert "Nothing waits for you." in ann.text("/review")
    assert "second reviewer" in ben.text("/review")
    assert ann.post(f"/review/{case.id}", {"do": "drop"}).status_code == 409
    ben.post(f"/review/{case.id}", {"do": "keep", "numbers": "2"})
    assert 'value="unresolved"' in cat.text("/review")
    cat.post(f"/review/{case.id}", {"do": "unresolved"})
    assert curate.case(bot, case.id).state == "unresolved"


@pytest.mark.slow
def test_only_one_s_own_last_decision_is_taken_back(bot):
    case = dispute(bot)
    ann, ben = user(bot, "ann"), user(bot, "ben")
    ann.post(f"/review/{case.id}", {"do": "drop"})
    assert ben.post(f"/review/{case.id}/take-back").status_code == 409
    assert f"review/{case.id}/take-back" in ann.text("/review")
    assert ann.post(f"/review/{case.id}/take-back").status_code == 303
    assert curate.case(bot, case.id).state == "open"


def test_a_viewer_looks_and_decides_nothing(bot):
    case = dispute(bot)
    viewer = user(bot, "vic", "viewer")
    text = viewer.text("/review")
    assert "31 months." in text
    assert 'id="decide"' not in text
    for path in (f"/review/{case.id}", f"/review/{case.id}/take-back"):
        assert viewer.post(path, {"do": "drop"}).status_code == 403
    assert curate.case(bot, case.id).votes == ()


def test_a_form_of_another_page_decides_nothing(bot, page):
    case = dispute(bot)
    assert page.client.post(f"/review/{case.id}", data={"do": "drop"}).status_code == 403
    assert curate.case(bot, case.id).votes == ()


def test_what_comes_next_is_no_address_elsewhere(bot, page):
    case = dispute(bot)
    done = page.post(f"/review/{case.id}", {"do": "drop", "next": "//evil.example/"})
    assert done.headers["location"] == "../review"


def test_every_key_of_the_review_has_its_button(bot, page):
    dispute(bot)
    dispute(bot, "Is it red?")
    text = page.text("/review")
    assert re.findall(r"<kbd>(\w)</kbd>", text) == ["a", "d", "s"]
    assert "static/review.js" in text
    assert page.get("/static/review.js").status_code == 200


def test_the_answer_alone_is_offered_for_writing(bot, page):
    """Not the one that it is better than, which stands beside it."""
    question, better = Message("user", "How long?"), Message("assistant", "31 months.")
    row = Example((question, better), "g", "f", 1, rejected=Message("assistant", "no idea"))
    other = Example((question, Message("assistant", "Two years.")), "g", "f", 2)
    (case,) = add_cases(bot.review, [Conflict((row, other), is_exact=True)], ConflictSettings())
    text = page.text(f"/review?case={case.id}")
    assert "better than: no idea" in text
    assert re.search(r"<textarea[^>]*>(31 months|Two years)\.</textarea>", text)


def test_lines_of_an_answer_are_kept_as_they_were_written(bot, page):
    case = dispute(bot)
    page.post(f"/review/{case.id}", {"do": "edit", "edited": "one\r\ntwo"})
    assert [each.answer for each in curate.case(bot, case.id).accepted()] == ["one\ntwo"]
