"""Dictionaries of synonyms: how they are written, and what is wrong with one."""

import os

import pytest

from llama_factory.core.errors import DataError
from llama_factory.data.augment.synonyms import BUILT_IN, read_synonyms
from llama_factory.text.words import cut


@pytest.fixture
def dictionary(tmp_path):
    def write(text):
        path = tmp_path / "synonyms.txt"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


@pytest.mark.parametrize(
    "line",
    ["big, large,huge", "big\tlarge\thuge", "big large  huge", "big，large、huge"],
    ids=["comma", "tab", "space", "chinese"],
)
def test_a_group_is_set_apart_by_commas_tabs_or_spaces(dictionary, line):
    assert read_synonyms(dictionary(line)) == {
        "big": ("large", "huge"),
        "large": ("big", "huge"),
        "huge": ("big", "large"),
    }


def test_commas_let_a_word_hold_spaces(dictionary):
    assert read_synonyms(dictionary("of course, certainly"))["certainly"] == ("of course",)


def test_comments_empty_lines_and_a_byte_order_mark_do_not_count(dictionary):
    found = read_synonyms(dictionary("\ufeff# words\n\n高兴 开心\r\n"))
    assert found == {"高兴": ("开心",), "开心": ("高兴",)}


def test_groups_that_share_a_word_are_both_its_synonyms(dictionary):
    assert read_synonyms(dictionary("big,large\nbig,huge"))["big"] == ("large", "huge")


def test_the_codes_of_cilin_are_understood(dictionary):
    found = read_synonyms(dictionary("Aa01A01= 人 人物\nAa01A02# 我 你\nAa01A03@ 独\n"))
    assert found == {"人": ("人物",), "人物": ("人",)}


def test_a_changed_file_is_read_again(dictionary):
    path = dictionary("big large")
    assert "big" in read_synonyms(path)
    dictionary("small little")
    os.utime(path, ns=(1, 1))
    assert "small" in read_synonyms(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(
        DataError, match=r"none\.txt: cannot be read .*one group of synonyms a line"
    ):
        read_synonyms(tmp_path / "none.txt")


def test_a_lonely_word_is_reported_with_its_line(dictionary):
    with pytest.raises(DataError, match=r"synonyms\.txt:2: 'lonely' has no synonym on its line"):
        read_synonyms(dictionary("big large\nlonely\n"))


def test_an_empty_dictionary_is_refused(dictionary):
    with pytest.raises(DataError, match="holds no group of synonyms"):
        read_synonyms(dictionary("# nothing\n"))


def test_a_text_in_another_encoding_is_refused(dictionary):
    with pytest.raises(DataError, match="byte 1 is not UTF-8"):
        read_synonyms(dictionary("高兴 开心".encode("gbk")))


def test_the_built_in_dictionary_is_large_and_every_word_can_be_found():
    found = read_synonyms()
    assert BUILT_IN.is_file()
    assert len(found) > 1000
    assert [word for word in found if len(cut(word)) != 1] == []
    assert {"large", "重要"} <= set(found)
