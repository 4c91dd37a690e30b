"""Rows in pictures, and rows to be forgotten: what is counted, marked, left out and stated."""

import html
import json

import pytest

from llama_factory import curate, operate, oversee
from llama_factory.core import files
from llama_factory.core.errors import DataError
from llama_factory.core.types import Example
from llama_factory.jobs import row_statistics
from llama_factory.versions.forgotten import FILE, read_forgotten
from llama_factory.versions.version import MANIFEST, REPORT
from llama_factory.web.charts.rows import bars_of, lengths_of, pictures_of
from tests.web.bots import EVIL
from tests.web.browsing import Visitor
from tests.web.test_data import put, row, teach

CHINESE = {"instruction": "保修期多长？", "output": "保修期为三十一个月，自购买之日起计算。"}
ENGLISH = {"instruction": "How long?", "output": "The warranty of this lamp is thirty-one months."}


def taught_by(bot, version, *texts):
    teach(bot, version, [row(text, line) for line, text in enumerate(texts, 1)])
    return [Example.from_json(row(text, line)).key for line, text in enumerate(texts, 1)]


def report(bot, version, **values):
    path = bot.versions / version / REPORT
    files.write_json(path, files.read_json(path) | values)


def test_a_checked_file_is_drawn(bot, page):
    put(bot, rows=[ENGLISH, ENGLISH, CHINESE])
    text = page.text("/data?check=faq.jsonl")
    for word in (
        "Rows by task",
        "Rows by language",
        "twice in the file",
        "by length of the answer",
    ):
        assert word in text
    counted = curate.statistics(bot, "faq.jsonl")
    assert (counted.num_rows, dict(counted.languages)) == (3, {"en": 2, "zh": 1})
    assert dict(counted.left_out) == {"duplicates": 1}
    assert "各任务的行数" in page.text("/data?check=faq.jsonl", **{"accept-language": "zh"})


def test_what_was_taught_is_drawn_from_reports_and_a_sample(bot, page):
    kept = {"kept": {"faq": 30, EVIL: 10}, "held_out": {"faq": 4}, "dropped": {"too long": 5}}
    report(bot, "v0001", data=kept | {"sets": [{"file": "faq.jsonl", "num_kept": 44}]})
    taught_by(bot, "v0001", *[f"A lamp {n}" for n in range(20)])
    counted = curate.statistics(bot)
    assert counted.groups == {"faq": 30, EVIL: 10}
    assert (counted.num_read, counted.num_tested, counted.left_out["too long"]) == (20, 4, 5)
    assert sum(counted.lengths.values()) == counted.groups.total()
    text = page.text("/data?statistics=true")
    assert "4 more held out" in text
    assert EVIL not in text
    assert "What was taught" in page.text("/data")
    assert "Rows by task" not in page.text("/data")


def test_versions_that_were_counted_are_not_read_again(bot):
    taught_by(bot, "v0003", "A lamp")
    assert row_statistics.statistics_of_taught(bot, "none", lambda: 0.0).num_left == 0
    times = iter([0.0, *[99.0] * 9])
    (bot.versions / "v0003" / "data" / "train.jsonl").unlink()
    late = row_statistics.statistics_of_taught(bot, "none", lambda: next(times))
    assert (late.num_left, late.num_read) == (0, 1)


def test_versions_for_which_there_was_no_time_are_named(bot):
    times = iter([0.0, *[99.0] * 9])
    late = row_statistics.statistics_of_taught(bot, "none", lambda: next(times))
    assert late.num_left == 4


def test_many_counts_end_in_one_bar():
    bars = bars_of({f"t{n}": 100 - n for n in range(20)})
    assert [each.name for each in bars[:2]] == ["t0", "t1"]
    assert (bars[-1].name, bars[-1].count) == ("", sum(100 - n for n in range(12, 20)))
    assert sum(each.fraction for each in bars) == pytest.approx(1)
    assert bars_of({}) == ()


def test_lengths_are_drawn_in_order_and_nothing_without_any():
    drawn = lengths_of({41: 5, 81: 10, 0: 1})  # 10, 100 and 0 letters
    assert [each.count for each in drawn.bars if each.count] == [1, 5, 10]
    assert drawn.median == pytest.approx(100, rel=0.05)
    assert lengths_of({}) is None
    assert pictures_of(row_statistics.RowStatistics()).lengths is None


def test_a_row_is_marked_with_a_reason_and_its_statement(bot, page):
    key, _ = taught_by(bot, "v0001", "A red lamp", "A blue lamp")
    report(bot, "v0001", training={"seconds": 90})
    report(bot, "v0003", training={"seconds": 30})
    assert "Forget this row" in page.text("/data?q=red")
    done = page.post("/data/forget", {"key": key, "why": f"wrong {EVIL}"})
    assert (done.status_code, done.headers["location"]) == (303, "../data")
    (marked,) = curate.forgotten(bot)
    assert (marked.mark.who, marked.row.prompt[0].content) == ("local", "A red lamp")
    work = marked.retraining
    assert (work.rounds, work.begins_from) == (("v0001", "v0003"), "v0000")
    assert (work.num_rows, work.seconds) == (24, 120)
    text = page.text("/data?q=red")
    assert "2 rounds (24 rows), which took 2.0 minutes" in text
    assert "marked to be forgotten" in text
    assert "Forget this row" not in text
    assert EVIL not in text
    (event,) = oversee.journal(bot, what=["row forgotten"])
    assert (event.version, event.data["name"]) == ("v0001", "local")
    assert "red" not in json.dumps(event.data)


def test_a_row_that_only_others_were_taught_needs_no_retraining(bot):
    (key,) = taught_by(bot, "v0002", "A red lamp")  # which was refused
    marked = curate.forget(bot, key, "ann", "wrong")
    assert marked.retraining.rounds == ()
    assert "none of which the released version comes from" in marked.retraining.sentence


def test_a_mark_is_taken_back(bot, page):
    (key,) = taught_by(bot, "v0001", "A red lamp")
    curate.forget(bot, key, "ann", "wrong")
    assert curate.forget(bot, key, "ben", "again").mark.who == "ann"
    assert page.post("/data/remember", {"key": key}).status_code == 303
    assert read_forgotten(bot) == {}
    assert page.post("/data/remember", {"key": key}).status_code == 409
    assert len((bot.folder / FILE).read_text().splitlines()) == 2


@pytest.mark.parametrize("key", ["", "../x", "0" * 32, EVIL])
def test_only_rows_that_were_taught_are_marked(bot, page, key):
    assert page.post("/data/forget", {"key": key, "why": "x"}).status_code in (409, 422)
    assert not (bot.folder / FILE).exists()


def test_a_mark_needs_a_reason_and_a_reviewer(bot):
    (key,) = taught_by(bot, "v0001", "A red lamp")
    with pytest.raises(DataError, match="say in 1 to"):
        curate.forget(bot, key, "ann", " ")
    for name, role, status in (("vic", "viewer", 403), ("rex", "reviewer", 303)):
        operate.add_user(bot.folder, name, role, "a long password")
        visitor = Visitor.of(bot.folder)
        visitor.log_in(name, "a long password")
        assert ("Forget this row" in visitor.text("/data?q=red")) == (status == 303)
        assert visitor.post("/data/forget", {"key": key, "why": "x"}).status_code == status
    assert read_forgotten(bot)[key].who == "rex"


def test_a_round_in_progress_then_is_named_when_it_ends(bot):
    (key,) = taught_by(bot, "v0001", "A red lamp")
    curate.forget(bot, key, "ann", "wrong")
    new = bot.versions / "v0004"
    files.write_json(new / MANIFEST, {})
    taught_by(bot, "v0004", "A red lamp")
    assert [each.version for each in curate.forgotten(bot)[0].retraining.places] == [
        "v0001",
        "v0004",
    ]


def test_a_mark_that_was_cut_short_spoils_no_other(bot):
    key, other = taught_by(bot, "v0001", "A red lamp", "A blue lamp")
    curate.forget(bot, key, "ann", "wrong")
    with (bot.folder / FILE).open("a") as file:
        file.write('{"key": "half')
    curate.forget(bot, other, "ann", "wrong")
    assert set(read_forgotten(bot)) == {key, other}


def test_the_page_says_it_in_chinese(bot, page):
    (key,) = taught_by(bot, "v0001", "A red lamp")
    curate.forget(bot, key, "ann", "wrong")
    text = html.unescape(page.text("/data", **{"accept-language": "zh"}))
    assert "待遗忘的行" in text
    assert "重新训练需从 v0000 开始" in text
