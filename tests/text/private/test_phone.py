import pytest

from llama_factory.text.private import KINDS
from tests.text.private.finding import found


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("电话13812345678请", "13812345678"),
        ("手机：１３８１２３４５６７８。", "１３８１２３４５６７８"),
        ("王芳 138 1234 5678", "138 1234 5678"),
        ("打 +86 138-1234-5678 找我", "+86 138-1234-5678"),
        ("tel13812345678", "13812345678"),
        ("座机（010）62345678", "（010）62345678"),
        ("公司电话01062345678", "01062345678"),
        ("0571-87654321转123", "0571-87654321转123"),
        ("call (202) 555-0123", "(202) 555-0123"),
        ("a hypothetical number: (555) 123-4567", "(555) 123-4567"),
        ("202-555-0123 ext. 45", "202-555-0123 ext. 45"),
        ("my cell is 2025550123", "2025550123"),
        ("+44 20 7946 0123 is ours", "+44 20 7946 0123"),
        ("Tel: 020 7946 0123", "020 7946 0123"),
        ("Tom Ito / 13812345678 / Bonn", "13812345678"),
        ("ring 0044 20 7946 0123", "0044 20 7946 0123"),
    ],
)
def test_numbers_are_found_whole(text, value):
    assert found("phone", text) == [value]


def test_two_numbers_beside_each_other_are_two():
    text = "电话：010-62345678、13812345678 13912345678"
    assert found("phone", text) == ["010-62345678", "13812345678", "13912345678"]


@pytest.mark.parametrize(
    "text",
    [
        "on 2024-01-03 10:30:00",
        "订单号13812345678",
        "3.13812345678",
        "84834150134 - 6778576 = 16666579378",
        "12345678 people",
        "timestamp: 1712345678",
        "call 1-800-273-8255",
        "客服电话 400-820-8820",
        "scores 3-2, 10-8, 112-98",
        "a13812345678b",
        "uuid 550e8400-e29b-41d4-a716-446655440000",
        "phone build 124.0.4673.187",
        "拨打110",
        "电话会议定于01/17/197116:49召开",
    ],
)
def test_other_numbers_are_left(text):
    assert found("phone", text) == []


def test_all_ways_to_write_a_number_are_one():
    written = ("13812345678", "+86 138 1234 5678", "１３８-1234-5678", "0086 13812345678")
    assert {KINDS["phone"].canonical(number) for number in written} == {"+8613812345678"}
