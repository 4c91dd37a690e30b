"""What clients are given of an answer: text, log-probabilities, bytes, what was reused."""

from types import SimpleNamespace

from llama_factory.inference.delivery import Delivery, TokenTexts
from llama_factory.inference.question import Answer, Options
from llama_factory.inference.request import Ended, Token
from llama_factory.inference.streamed_text import UNFINISHED
from tests.tiny import make_tokenizer


def test_bytes_of_all_tokens_add_up_to_the_text():
    tokenizer, text = make_tokenizer(), "a 😀é 你好 fox\n"
    texts = TokenTexts(tokenizer)
    spelt = [texts.logprob(token, -1.0) for token in tokenizer(text)["input_ids"]]
    assert any(UNFINISHED in each.text for each in spelt)
    assert b"".join(bytes(each.bytes) for each in spelt) == text.encode()


def test_a_byte_of_sentencepiece_is_known_and_other_spellings_are_not():
    def tokenizer(spelt):
        return SimpleNamespace(
            decode=lambda *_, **__: UNFINISHED, convert_ids_to_tokens=lambda _: spelt
        )

    assert TokenTexts(tokenizer("<0xE4>")).logprob(3, 0.0).bytes == (0xE4,)
    assert TokenTexts(tokenizer("\N{REPLACEMENT CHARACTER}")).logprob(3, 0.0).bytes is None


def test_an_answer_that_a_stop_string_ends_says_what_was_reused():
    tokenizer, heard = make_tokenizer(), []
    options = Options(max_tokens=9, stop=("fox",))
    delivery = Delivery(TokenTexts(tokenizer), options, 40, frozenset(), heard.append)
    for token in tokenizer("brown fox jumps")["input_ids"]:
        if not delivery.take(Token(1, token, num_reused=32)):
            break
    delivery.end(Ended(1, "cancelled", 32))
    answers = [each for each in heard if isinstance(each, Answer)]
    assert [(each.text, each.reused_tokens) for each in answers] == [("brown ", 32)]
    assert answers[0].finish_reason == "stop"
