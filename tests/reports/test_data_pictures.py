"""Pictures of what a set of rows is made of."""

import logging

import pytest

from llama_factory.data.reading import Refused
from llama_factory.data.stats import collect
from llama_factory.reports.data_pictures import _quality, _short, _top, draw_stats
from tests.data.test_stats import ROWS, chat


@pytest.mark.variants
@pytest.mark.parametrize("rows", [[], ROWS[:1], ROWS, [ROWS[-1]]], ids=len)
def test_the_picture_is_drawn_whatever_there_is(tmp_path, rows):
    draw_stats(collect(rows), tmp_path / "stats.png")
    assert (tmp_path / "stats.png").read_bytes().startswith(b"\x89PNG")


def test_many_groups_are_drawn_as_the_largest_and_the_others():
    counted = collect(chat("a", "b", f"group {i % 30}") for i in range(300))
    bars = _top(counted.groups, "groups")
    assert len(bars) == 21
    assert bars[-1][:2] == ("10 other groups", 100)


def test_duplicates_and_reasons_are_bars_of_their_own():
    refused = [Refused("f", i, f"reason {min(i, 8)} " + "so long " * 20) for i in range(10)]
    bars = _quality(collect([*ROWS[:2], *refused]))
    assert [bar[:2] for bar in bars[:2]] == [("good, once", 1), ("exact duplicates", 1)]
    assert bars[-1][:2] == ("refused for other reasons", 3)
    assert all(bar[0].count("\n") <= 1 for bar in bars)


def test_long_names_are_cut_in_the_middle():
    assert _short("faq") == "faq"
    assert _short("customer questions of the year 2023") == "customer questio…f the year 2023"
    assert len(_short("客户服务常见问题与答案以及其他各种各样的内容")) == 16
    assert _short(" \n") == "(empty)"


def test_a_missing_chinese_font_is_reported(tmp_path, monkeypatch, caplog):
    from llama_factory.reports import pictures

    monkeypatch.setattr(pictures, "CHINESE_FONTS", ("No Such Font",))
    pictures._warn_of_boxes.cache_clear()
    pictures._searched.cache_clear()
    with caplog.at_level(logging.WARNING):
        draw_stats(collect(ROWS), tmp_path / "stats.png")
    assert "install a font such as fonts-noto-cjk" in caplog.text
