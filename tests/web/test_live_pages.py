"""Bodies that are shared: made once for all who may see the same, and nothing of one is in them."""

import json
import re
from collections import Counter

import pytest

from llama_factory import operate, oversee, upkeep
from llama_factory.core import files
from llama_factory.jobs import votes
from llama_factory.jobs.votes import Contestant, PairedAnswer
from llama_factory.training.monitor import TRAINER_LOG
from llama_factory.versions import releases, store
from llama_factory.web import live_pages
from llama_factory.web.live import TOLD, look
from llama_factory.web.shared import SharedReads
from llama_factory.web.strings import translate
from tests.web.browsing import Visitor

PASSWORD = "correct horse"
PAGES = ("/", "/rounds", "/versions", "/monitor")
PART = {"x-part": "live"}


class CountedReads(SharedReads):
    """Counts what is read, by name."""

    def __init__(self):
        super().__init__(lambda: 0.0)
        self.counts = Counter()

    def read(self, workspace, name, topics, read, **how):
        def counted():
            self.counts[name] += 1
            return read()

        return super().read(workspace, name, topics, counted, **how)

    @property
    def num_bodies(self):
        return sum(count for name, count in self.counts.items() if name.startswith("body "))


def update(bot, number):
    values = {"current_steps": number, "total_steps": 9, "loss": 3 - number / 4}
    with (bot.building / TRAINER_LOG).open("a") as log:
        log.write(json.dumps(values) + "\n")


def begin_round(bot):
    bot.building.mkdir()
    plan = {"id": store.next_id(bot), "parent": "v0003", "taken": {}, "config": {}}
    files.write_json(bot.building / store.PLAN, plan)


def vote(bot):
    answers = [PairedAnswer(Contestant(each), each) for each in ("v0001", "v0003")]
    pair = votes.keep_pair(bot, "ann", "Which?", answers, lambda: False)
    votes.vote(bot, pair.id, "ann", "left")


def print_log(bot):
    path = bot.cache / "watch" / "round.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("reading rows")


def visitors(bot, names):
    """Logged in, all on one page."""
    app = Visitor.of(bot.folder).client.app
    for name, role in names.items():
        operate.add_user(bot.folder, name, role, PASSWORD)
    people = {}
    for name in names:
        people[name] = Visitor.on(app)
        people[name].log_in(name, PASSWORD)
    return people


def test_a_change_makes_one_body_of_a_page_for_each_language(bot):
    begin_round(bot)
    update(bot, 1)
    oversee.journal(bot)  # what it lacks is added when it is read first
    page = Visitor.of(bot.folder)
    site = page.client.app.state.site
    site.shared = reads = CountedReads()
    people = [
        (Visitor.on(page.client.app), PAGES[number // 2 % 4], "zh" if number % 2 else "en")
        for number in range(20)
    ]

    def everybody():
        for person, path, language in people:
            person.text(path, **PART, **{"accept-language": language})

    everybody()
    assert reads.num_bodies == 2 * len(PAGES)
    everybody()
    assert reads.num_bodies == 2 * len(PAGES)
    update(bot, 2)
    everybody()
    assert reads.num_bodies == 2 * len(PAGES) + 2  # the rounds page alone shows updates
    assert reads.counts["loop"] == reads.counts["events "] == 1
    upkeep.note(bot, "v0001", "hello", "ann")
    before = reads.num_bodies
    everybody()
    assert reads.num_bodies == before + 2 * len(PAGES)


@pytest.mark.parametrize(
    ("path", "change"),
    [
        ("/", lambda bot: files.write_text(bot.inbox / "a.jsonl", "{}\n")),
        ("/", begin_round),
        ("/", lambda bot: releases.promote(bot.releases, "v0001", "by hand")),
        ("/", lambda bot: oversee.pause(bot, "ann")),
        ("/rounds", begin_round),
        ("/rounds", lambda bot: oversee.pause(bot, "ann")),
        ("/rounds", print_log),
        ("/versions", lambda bot: upkeep.note(bot, "v0001", "hello", "ann")),
        ("/monitor", lambda bot: oversee.pause(bot, "ann")),
    ],
)
def test_what_a_page_shows_is_told_by_the_stream_and_made_anew(bot, page, path, change):
    oversee.journal(bot)
    first, before = page.get(path, **PART), look(bot)[0]
    (live,) = re.findall(r'data-live="([^"]+)"', first.text)
    assert set(live.split()) <= {*TOLD, "journal"}
    change(bot)
    now = look(bot)[0]
    assert any(now[topic] != before[topic] for topic in live.split())
    again = page.get(path, **PART, **{"if-none-match": first.headers["etag"]})
    assert again.status_code == 200
    assert again.text != first.text


def test_an_update_is_drawn_anew(bot, page):
    begin_round(bot)
    update(bot, 1)
    first, before = page.text("/rounds", **PART), look(bot)[0]
    update(bot, 2)
    changed = [name for name, state in look(bot)[0].items() if state != before[name]]
    assert changed == ["round"]
    assert "Update 1 of 9" in first
    assert "Update 2 of 9" in page.text("/rounds", **PART)


def test_a_vote_is_counted_on_the_versions_page(bot, page):
    title = translate("en", "pairs.table", {})
    assert title not in page.text("/versions")
    vote(bot)
    assert title in page.text("/versions")


@pytest.mark.parametrize("path", PAGES)
def test_a_part_is_what_the_whole_page_has(page, path):
    part = page.text(path, **PART)
    whole = page.text(path)
    assert part in whole
    assert "<html" not in part
    assert 'class="who"' not in part


@pytest.mark.parametrize("path", PAGES)
def test_unchanged_parts_are_not_sent_again(page, path):
    first = page.get(path, **PART)
    again = page.get(path, **PART, **{"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert page.get(path, **{"if-none-match": first.headers["etag"]}).status_code == 200


@pytest.mark.parametrize("headers", [{}, PART])
def test_shared_bodies_hold_nothing_of_one_session(bot, headers):
    people = visitors(bot, {"ann": "operator", "olga": "operator"})
    tokens = {name: each.token for name, each in people.items()}
    for path in PAGES:
        texts = {name: each.text(path, **headers) for name, each in people.items()}
        for name, other in (("ann", "olga"), ("olga", "ann")):
            assert tokens[other] not in texts[name]
            assert re.search(rf"\b{other}\b", texts[name]) is None
            assert live_pages.TOKEN not in texts[name]
            assert f'value="{tokens[name]}"' in texts[name]
        ours, theirs = (texts[name].replace(tokens[name], "").replace(name, "") for name in people)
        assert ours == theirs


def test_another_session_is_not_told_that_it_has_the_body(bot):
    people = visitors(bot, {"ann": "operator", "olga": "operator"})
    tag = people["ann"].get("/rounds", **PART).headers["etag"]
    assert people["olga"].get("/rounds", **PART, **{"if-none-match": tag}).status_code == 200
    people["ann"].post("/logout")
    people["ann"].log_in("ann", PASSWORD)
    again = people["ann"].get("/rounds", **PART, **{"if-none-match": tag})
    assert f'value="{people["ann"].token}"' in again.text


@pytest.mark.parametrize("order", [("ann", "vera"), ("vera", "ann")])
def test_buttons_are_those_of_the_role_whoever_came_first(bot, order):
    people = visitors(bot, {"ann": "operator", "vera": "viewer"})
    for path in PAGES:
        texts = {name: people[name].text(path, **PART) for name in order}
        assert 'method="post"' in texts["ann"]
        assert 'method="post"' not in texts["vera"]
        assert "csrf" not in texts["vera"]


def test_nobody_gets_a_part_without_a_session(bot):
    visitors(bot, {"ann": "operator"})["ann"].text("/rounds", **PART)
    stranger = Visitor.of(bot.folder)
    for path in PAGES:
        answer = stranger.get(path, **PART)
        assert (answer.status_code, answer.headers["location"][:5]) == (303, "./log")


def test_queries_that_the_page_does_not_know_make_no_other_body(bot, page):
    site = page.client.app.state.site
    site.shared = reads = CountedReads()
    for number in range(5):
        page.text(f"/versions?x={number}")
    page.text("/versions?before=v0003")
    assert reads.num_bodies == 2


def test_the_script_gets_the_queue_of_runs_without_the_form(bot, page):
    whole, part = page.text("/train"), page.text("/train", **PART)
    assert part in whole
    assert len(part) < len(whole) / 10
