"""Two answers side by side: hidden until the vote, counted after it, and what voters may not do."""

import html
import json
import re

import pytest

from llama_factory import curate, operate
from llama_factory.core.errors import DataError
from llama_factory.jobs import votes
from llama_factory.jobs.votes import AnswerPair, Contestant, PairedAnswer, count_votes
from tests.serving.scripted_answers import ScriptedEngine
from tests.web.bots import EVIL
from tests.web.browsing import Visitor

ASK = {"prompt": "How long is the warranty?", "first": "v0001", "second": "v0003"}


@pytest.fixture
def talk(bot):
    with Visitor.beside_api(bot.folder, ScriptedEngine(f"The same. {EVIL}")) as visitor:
        yield visitor


def answers(*names):
    return [PairedAnswer(Contestant(name), f"text of {name}", f"id-{name}") for name in names]


def pair_of(answer):
    assert answer.status_code == 303, answer.text[-800:]
    (pair_id,) = re.findall(r"chat/pairs\?pair=([0-9a-f]{32})", answer.headers["location"])
    return pair_id


def test_both_are_asked_the_same_and_whose_they_are_is_drawn(bot):
    engine = ScriptedEngine()
    with Visitor.beside_api(bot.folder, engine) as talk:
        pair_of(talk.post("/chat/pairs", ASK | {"temperature": "0.25", "system": "Be short."}))
    asked = {version: (prompt, options) for version, prompt, options in engine.asked}
    assert sorted(asked) == ["v0001", "v0003"]
    assert asked["v0001"][0].messages == asked["v0003"][0].messages
    assert {options.temperature for _, options in asked.values()} == {0.25}
    sides = [
        votes.keep_pair(bot, "ann", "?", answers("v0001", "v0003")).left.contestant.version
        for _ in range(64)
    ]
    assert set(sides) == {"v0001", "v0003"}


def test_the_page_is_the_same_whoever_is_on_which_side(bot, talk):
    pages = []
    for is_swapped in (False, True):
        same = [
            PairedAnswer(Contestant("v0001"), "The same."),
            PairedAnswer(Contestant("v0003", knowledge=True), "The same.", "", ({"n": 1},)),
        ]
        kept = votes.keep_pair(bot, "local", "Why?", same, lambda swapped=is_swapped: swapped)
        text = talk.text(f"/chat/pairs?pair={kept.id}")
        pages.append(text.replace(kept.id, "ID"))
    assert pages[0] == pages[1]
    assert "Left is better" in pages[0]


def test_a_vote_is_kept_with_who_when_what_and_is_then_shown(bot, talk):
    pair_id = pair_of(talk.post("/chat/pairs", ASK))
    before = talk.text(f"/chat/pairs?pair={pair_id}")
    assert EVIL not in before
    assert "This was" not in before
    done = talk.post("/chat/pairs/vote", {"pair": pair_id, "choice": "left"})
    assert done.headers["location"] == f"../../chat/pairs?pair={pair_id}"
    (line,) = map(json.loads, bot.votes.read_text(encoding="utf-8").splitlines())
    assert (line["id"], line["who"], line["choice"]) == (pair_id, "local", "left")
    assert line["prompt"] == ASK["prompt"]
    assert line["left"]["text"] == f"The same. {EVIL}"
    after = talk.text(f"/chat/pairs?pair={pair_id}")
    assert f"This was <strong>{line['left']['contestant']['version']}</strong>" in after
    assert EVIL not in after
    (duel,) = curate.votes(bot)
    assert duel.won + duel.lost == 1
    assert "Votes so far" in talk.text("/versions")
    assert "Blind votes" in talk.text("/compare?before=v0001&after=v0003")


def test_nobody_votes_twice_or_on_the_pair_of_another(bot, talk):
    pair_id = pair_of(talk.post("/chat/pairs", ASK))
    sent = {"pair": pair_id, "choice": "tie"}
    assert talk.post("/chat/pairs/vote", sent).status_code == 303
    assert talk.post("/chat/pairs/vote", sent).status_code == 409
    kept = votes.keep_pair(bot, "ann", "Why?", answers("v0001", "v0003"))
    for pair in (kept.id, "../../factory", "0" * 32, "x"):
        assert talk.post("/chat/pairs/vote", sent | {"pair": pair}).status_code == 409
        assert "text of" not in talk.get(f"/chat/pairs?pair={pair}").text
    assert len(votes.read_votes(bot)) == 1


def test_the_better_answer_goes_to_a_reviewer_as_a_preference(bot, talk):
    pair_id = pair_of(talk.post("/chat/pairs", ASK))
    sent = {"pair": pair_id, "choice": "right", "teach": "true"}
    talk.post("/chat/pairs/vote", sent)
    (given,) = operate.feedback(bot)
    voted = curate.pair(bot, pair_id, "local")
    assert given.judged.state == "waiting"
    assert given.judged.claimed.answer == voted.right.text
    assert given.judged.claimed.rejected.content == voted.left.text
    assert given.judged.feedback.version == voted.left.contestant.version


def test_without_the_tick_or_a_better_one_nothing_is_offered(bot, talk):
    for sent in ({"choice": "left"}, {"choice": "both_bad", "teach": "true"}):
        talk.post("/chat/pairs/vote", {"pair": pair_of(talk.post("/chat/pairs", ASK))} | sent)
    assert operate.feedback(bot) == []


@pytest.mark.parametrize(
    ("sent", "word"),
    [
        ({"second": "v0001"}, "answer twice in the same way"),
        ({"second": "v9999"}, "v9999"),
        ({"second": EVIL}, "there is no"),
        ({"second_knowledge": "true"}, "no documents"),
    ],
)
def test_what_is_no_pair_is_refused(talk, sent, word):
    answer = talk.post("/chat/pairs", ASK | sent)
    assert answer.status_code == 400
    assert word in html.unescape(answer.text)
    assert EVIL not in answer.text
    assert f">{ASK['prompt']}</textarea>" in answer.text


def test_one_version_with_and_without_documents_is_a_pair(bot):
    both = [PairedAnswer(Contestant("v0001", each), "?") for each in (False, True)]
    assert votes.keep_pair(bot, "ann", "?", both).left.contestant.version == "v0001"


def test_forms_of_another_page_and_empty_choices_are_refused(bot, talk):
    for path in ("/chat/pairs", "/chat/pairs/vote"):
        assert talk.client.post(path, data=ASK).status_code == 403
    assert talk.post("/chat/pairs/vote", {"pair": "0" * 32, "choice": "me"}).status_code == 422
    assert Visitor.of(bot.folder).post("/chat/pairs", ASK).status_code == 409


def test_private_data_is_masked_and_a_workspace_without_rows_keeps_no_text(bot):
    secret = "write to ann@example.org"
    both = [PairedAnswer(Contestant(each), secret) for each in ("v0001", "v0003")]
    votes.vote(bot, votes.keep_pair(bot, "ann", secret, both).id, "ann", "tie")
    votes.vote(bot, votes.keep_pair(bot, "ann", "?", both).id, "ann", "tie", keep_texts=False)
    masked, empty = votes.read_votes(bot)
    assert "ann@" not in masked.prompt + masked.left.text + masked.right.text
    assert (empty.prompt, empty.left.text) == ("", "")


def test_votes_are_counted_by_contestant_whatever_their_side(bot):
    new, old, other = Contestant("v0003"), Contestant("v0001"), Contestant("v0003", True)
    cast = [(new, old, "left")] * 7 + [(old, new, "right")] + [(old, new, "left")] * 2
    cast += [(new, old, "tie"), (old, new, "both_bad"), (other, new, "right")]
    listed = [
        AnswerPair("", "", "", "", PairedAnswer(left, ""), PairedAnswer(right, ""), choice)
        for left, right, choice in cast
    ]
    first, second = count_votes(listed)
    assert (first.first, first.second, first.won, first.lost) == (new, other, 0, 1)
    assert (second.won, second.lost, second.ties, second.both_bad) == (8, 2, 1, 1)
    assert second.wins.value == 0.8
    assert round(second.wins.low, 2) == 0.49  # Wilson for 8 of 10
    assert round(second.wins.high, 2) == 0.94


def test_a_damaged_line_spoils_no_other(bot):
    bot.votes.write_text('{"id": 5}\n[]\nhalf')
    votes.vote(bot, votes.keep_pair(bot, "ann", "?", answers("v0001", "v0003")).id, "ann", "tie")
    assert [each.choice for each in votes.read_votes(bot)] == ["tie"]


def test_old_pairs_are_removed(bot, monkeypatch):
    kept = votes.keep_pair(bot, "ann", "?", answers("v0001", "v0003"))
    monkeypatch.setattr(votes, "OLDEST_PAIR", -votes.OLDEST_PAIR)
    votes.keep_pair(bot, "ann", "?", answers("v0001", "v0003"))
    with pytest.raises(DataError, match="too old"):
        votes.read_pair(bot, kept.id, "ann")
