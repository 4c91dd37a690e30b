"""Identity, card and account numbers, passports and addresses of machines."""

from llama_factory.text.private import find_all
from tests.text.private.finding import found

CN_ID = "11010519491231002X"
CARD = "4111111111111111"


VALUES = (
    ("cn_id", f"身份证{CN_ID}核验", CN_ID),
    (
        "cn_id",
        "身份证号：１１０１０５１９４９１２３１００２Ｘ",
        "１１０１０５１９４９１２３１００２Ｘ",
    ),
    ("cn_id", "ID 110105 19491231 002x", "110105 19491231 002x"),
    ("cn_id", "老身份证110105491231002", "110105491231002"),
    ("bank_card", f"card {CARD}", CARD),
    ("bank_card", "银行卡6222-0200-0000-0000-091请", "6222-0200-0000-0000-091"),
    ("bank_card", "4111 1111 1111 1111 exp 01/30", "4111 1111 1111 1111"),
    ("bank_card", "she read out 3607-0591-1107-55", "3607-0591-1107-55"),
    ("bank_card", "查4085922706269这张卡", "4085922706269"),
    ("bank_card", "Amex 3782 822463 10005", "3782 822463 10005"),
    ("iban", "IBAN GB82 WEST 1234 5698 7654 32 please", "GB82 WEST 1234 5698 7654 32"),
    ("iban", "汇款至IBANDE89370400440532013000谢谢", "DE89370400440532013000"),
    ("passport", "passport no. E12345678", "E12345678"),
    ("passport", "护照EA1234567快过期了", "EA1234567"),
    ("passport", "US passport number is 123456789.", "123456789"),
    ("ip", "从203.0.113.77登录", "203.0.113.77"),
    ("ip", "http://192.168.7.20:8080/", "192.168.7.20"),
    ("ip", "地址：2001:db8::8a2e:370:7334。", "2001:db8::8a2e:370:7334"),
    ("ip", "server 10.1.2.3 is down", "10.1.2.3"),
)
OTHERS = (
    ("cn_id", "身份证110105194912310021"),
    ("cn_id", "身份证110105194913310021"),
    ("cn_id", "编号110105491231002"),
    ("bank_card", "card 4111111111111112"),
    ("bank_card", f"order number {CARD}"),
    ("bank_card", f"订单号{CARD}"),
    ("bank_card", "card 0000 0000 0000 0000"),
    ("bank_card", "ISBN 9780306406157"),
    ("iban", "GB82 WEST 1234 5698 7654 33"),
    ("iban", "XX82WEST12345698765432"),
    ("passport", "part E12345678"),
    ("passport", "bring your passport, flight 123456789"),
    ("passport", "护照办理电话 123456789"),
    ("ip", "version 1.2.3.4"),
    ("ip", "v10.20.30.40-beta"),
    ("ip", "section 3.1.2.1 of it"),
    ("ip", "300.1.2.3 from"),
    ("ip", "127.0.0.1, 0.0.0.0, 255.255.255.0 and 8.8.8.8"),
    ("ip", "on 10:20:30 std::vector face::b"),
    ("ip", "route 45.6.7.0/24"),
)


def test_values_are_found_whole():
    wrong = [(kind, text) for kind, text, value in VALUES if found(kind, text) != [value]]
    assert wrong == []


def test_what_fails_a_check_or_counts_something_is_left():
    assert [(kind, text) for kind, text in OTHERS if found(kind, text)] == []


def test_an_identity_number_of_a_region_younger_than_its_holder_counts():
    """Pudong (310115) was founded in 1992; who was born before may hold a card issued there."""
    assert found("cn_id", "身份证310115198303178164") == ["310115198303178164"]


def test_the_surer_kind_gets_a_span_that_two_claim():
    text = f"银行卡 {CN_ID[:-1]}X, 电话 {CARD}"
    assert [kind for _, _, kind in find_all(text)] == ["cn_id", "bank_card"]
