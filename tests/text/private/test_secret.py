import pytest

from tests.text.private.finding import found

RANDOM = "q7Rk2mZx9LpW4tYv8NbC3sDf6GhJ1aQe5uXo"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N"
PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nabc=\n-----END RSA PRIVATE KEY-----"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("key AKIAQ3EGRJ7LX2ZP5WTB.", "AKIAQ3EGRJ7LX2ZP5WTB"),
        (f"ghp_{RANDOM}", f"ghp_{RANDOM}"),
        (f"密钥是sk-ant-api03-{RANDOM}，别外传", f"sk-ant-api03-{RANDOM}"),
        (f"hf_{RANDOM[:34]}", f"hf_{RANDOM[:34]}"),
        (f"Authorization: Bearer {JWT}", JWT),
        (f"see\n{PEM}\nok", PEM),
        ("password = 'hunter2!'", "hunter2!"),
        ("DB_PASSWORD=Dragon@2024", "Dragon@2024"),
        ("the wifi password is sunshine88, enjoy", "sunshine88"),
        ("密码：woaini520。", "woaini520"),
        ("账号admin，密码qwer1234", "qwer1234"),
        ("口令是Abc#1234，谢谢", "Abc#1234"),
        (f'{{"client_secret": "{RANDOM}"}}', RANDOM),
        (f"apiKey: '{RANDOM}'", RANDOM),
        ("postgres://app:s3cr3t!x@db.internal:5432", "app:s3cr3t!x"),
    ],
)
def test_secrets_are_found_whole(text, value):
    assert found("secret", text) == [value]


def test_letters_that_grow_in_small_type_do_not_move_the_span():
    assert found("secret", "İİİ PASSWORD=Dragon2024") == ["Dragon2024"]


@pytest.mark.parametrize(
    "text",
    [
        'api_key="YOUR_API_KEY"',
        'OpenAI(api_key="sk-xxxxxxxxxxxxxxxxxxxxxxxx")',
        "password = os.environ['DB_PASSWORD2']",
        "password: ********",
        "token = get_token_1(user)",
        "api_key = settings.api_key_2",
        "your password must be 8 characters long",
        "密码：至少八位",
        "max_tokens: 4096",
        "The secret is patience.",
        "commit 3f786850e387550fdab836ed7e6dc881de23001b",
        "https://username:password@host/",
        "the scikit-learn-sk-style-guide",
    ],
)
def test_placeholders_and_code_are_left(text):
    assert found("secret", text) == []
