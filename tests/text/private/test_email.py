import pytest

from tests.text.private.finding import found


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Write to Jo.Li+x@mail.foo.co.uk.", "Jo.Li+x@mail.foo.co.uk"),
        ("<a_b@qq.com>", "a_b@qq.com"),
        ("邮箱zhang@163.com请查收", "zhang@163.com"),
        ("邮箱：ｚｈａｎｇ＠ｑｑ．ｃｏｍ。", "ｚｈａｎｇ＠ｑｑ．ｃｏｍ"),
        ('{"to": "x@foo.org"}', "x@foo.org"),
    ],
)
def test_addresses_are_found_whole(text, value):
    assert found("email", text) == [value]


@pytest.mark.parametrize(
    "text",
    [
        "git clone git@github.com:team/app.git",
        "meet @ 5pm",
        "foo@bar",
        "@property",
        "logo@2x.png",
        "send to your_email@example.com",
        "ftp://username:password@ftp.example.com/",
    ],
)
def test_what_only_has_an_at_sign_is_left(text):
    assert found("email", text) == []
