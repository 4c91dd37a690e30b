"""Every page answers in both languages, whatever the workspace is like."""

import re

import pytest

from llama_factory import upkeep
from llama_factory.config.template import settings_file
from llama_factory.versions import releases, store
from tests.web.bots import EVIL, damage, make_bot
from tests.web.browsing import Visitor

PAGES = [
    "/",
    "/rounds",
    "/versions",
    "/versions/v0000",
    "/monitor",
    "/monitor?what=released",
    "/settings",
]
LANGUAGES = {"en": "Overview", "zh": "概览"}


@pytest.mark.variants
@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("path", [*PAGES, "/versions/v0001", "/versions/v0003"])
def test_each_page_answers_in_both_languages(page, path, language):
    text = page.text(path, **{"accept-language": f"{language};q=0.9"})
    assert LANGUAGES[language] in text


@pytest.mark.variants
@pytest.mark.parametrize("path", PAGES)
def test_a_new_workspace_has_all_pages(tmp_path, path):
    new = store.create_workspace(tmp_path / "new", "tiny", settings_file("tiny"))
    Visitor.of(new.folder).text(path)


@pytest.mark.parametrize("path", ["/", "/versions"])
def test_damaged_files_are_named_and_hide_nothing_else(bot, path):
    damage(bot)
    text = Visitor.of(bot.folder).text(path)
    assert "v0003" in text
    assert "is missing or damaged" in text


def test_a_damaged_version_says_what_is_wrong(bot):
    damage(bot)
    answer = Visitor.of(bot.folder).get("/versions/v0001")
    assert answer.status_code == 409
    assert "Restore" in answer.text


def test_the_overview_tells_what_answers_and_why_the_last_round_was_refused(page):
    text = page.text("/")
    assert '<p class="big"><a href="versions/v0003">v0003</a></p>' in text
    assert "token_f1 0.82 -&gt; 0.61" in text  # of v0002, the refused one


def test_three_questions_take_at_most_three_clicks(page):
    """What answers now, why the last round was refused, how to go back: from the first page."""
    first = page.text("/")
    now = first.index('id="now"')
    assert first.index("v0003") > now
    (refused,) = re.findall(r'href="(versions/v\d+)">v\d+</a> <span class="mark refused">', first)
    verdict = page.text(f"/{refused}")  # one click
    assert "token_f1 0.82 -&gt; 0.61" in verdict
    assert f'action="{refused.split("/")[1]}/promote"' in verdict
    assert '<form method="post" action="rollback">' in first  # two: the button and its confirmation


@pytest.mark.parametrize("path", [*PAGES, "/versions/v0002", "/data", "/review", "/train"])
def test_the_first_page_is_one_click_away(page, path):
    text = page.text(path)
    up = "../" * (path.count("/") - 1) or "./"
    menu = text[text.index("<nav") : text.index("</nav>")]
    assert menu.count(f'href="{up}"') == 1


def test_one_click_goes_back(bot, page):
    done = page.post("/rollback")
    assert (done.status_code, done.headers["location"]) == (303, "./")
    assert releases.read(bot.releases).production == "v0001"
    assert "Rolled back from v0003 to v0001." in page.text("/")
    assert "Rolled back" not in page.text("/")


def test_a_version_is_promoted_noted_and_named(bot, page):
    assert page.post("/versions/v0001/promote").headers["location"] == "../../versions/v0001"
    page.post("/versions/v0001/note", {"text": "good <b>one</b>"})
    page.post("/versions/v0001/tag", {"name": "spring"})
    shown = upkeep.describe(bot, "spring")
    assert (shown.version.id, shown.aliases) == ("v0001", ("production",))
    text = page.text("/versions/v0001")
    assert "good &lt;b&gt;one&lt;/b&gt;" in text
    assert "local, <time" in text
    page.post("/versions/v0001/untag", {"name": "spring"})
    assert upkeep.describe(bot, "v0001").tags == ()


def test_what_a_verb_refuses_is_told_with_its_words(page):
    answer = page.post("/versions/v0001/tag", {"name": "Not A Tag"})
    assert answer.status_code == 409
    assert "&#39;Not A Tag&#39; cannot be a tag" in answer.text


def test_names_of_rows_are_escaped(tmp_path):
    evil = make_bot(tmp_path / "evil", 1, group=EVIL)
    text = Visitor.of(evil.folder).text("/versions/v0001")
    assert EVIL not in text
    assert "&lt;script&gt;" in text
