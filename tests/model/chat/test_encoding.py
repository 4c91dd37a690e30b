import json
from dataclasses import replace

import pytest

from llama_factory.core.errors import ModelError
from llama_factory.core.types import TEXT, Example, Message, ToolCall
from llama_factory.model.chat.encoding import (
    EncodedRow,
    EncodeOptions,
    TooLong,
    Unfit,
    encode,
    encode_document,
    encode_pair,
    prompt_ids,
)
from llama_factory.model.chat.long_prompts import room
from llama_factory.model.chat.prompt_format import PromptFormat
from llama_factory.model.chat.templates import find
from tests.model.chat.kinds import WithoutPlaces
from tests.tiny import CHAT_TEMPLATE, END, START, make_tokenizer, render

LONG = EncodeOptions(10_000)


@pytest.fixture
def tokenizer():
    found = make_tokenizer()
    found.add_special_tokens({"additional_special_tokens": ["<|return|>", "<|end|>"]})
    return found


def talk(*contents, **fields):
    roles = ["user", "assistant"] * len(contents)
    turns = tuple(Message(role, text) for role, text in zip(roles, contents, strict=False))
    return Example(turns, "g", "f.jsonl", 3, **fields)


def trained_text(row, tokenizer):
    return tokenizer.decode([i for i, t in zip(row.ids, row.is_trained, strict=True) if t])


def test_every_answer_is_trained_with_its_end_and_nothing_else(tokenizer):
    row = encode(talk("Hi?", "你好", "And?", "Good."), tokenizer, LONG)
    assert trained_text(row, tokenizer) == f"你好{END}Good.{END}"
    whole = render(tokenizer, talk("Hi?", "你好", "And?", "Good.").messages, ask=False)
    assert row.ids == tuple(whole)[: len(row.ids)]
    assert row.weights is None


def test_answers_that_end_otherwise_once_others_follow_are_taught_up_to_their_end(tokenizer):
    marked = find("gpt_oss").jinja
    own = marked.replace("{%- generation -%}", "").replace("{%- endgeneration -%}", "")
    rows = []
    for template in (marked, own):
        options = replace(LONG, format=PromptFormat(template=template))
        rows.append(encode(talk("Hi?", "One.", "And?", "Two."), tokenizer, options))
    for row in rows:
        final = "<|channel|>final<|message|>"
        assert trained_text(row, tokenizer) == f"{final}One.{final}Two.<|return|>"
    assert rows[0] == rows[1]


def test_a_long_answer_loses_its_end_and_a_long_prompt_is_refused(tokenizer):
    whole = encode(talk("Hi?", "word " * 50), tokenizer, LONG)
    cut = encode(talk("Hi?", "word " * 50), tokenizer, EncodeOptions(30))
    assert isinstance(cut, EncodedRow)
    assert cut.ids == whole.ids[:30]
    assert cut.num_trained == sum(whole.is_trained[:30])
    assert cut.lost_turns == 0
    assert cut.lost_tokens > 0
    refused = encode(talk("word " * 50, "short"), tokenizer, EncodeOptions(30))
    assert isinstance(refused, TooLong)
    assert "its prompt fills all 30 tokens" in refused.reason


@pytest.mark.parametrize(
    ("lengths", "kept"),
    [
        ((40, 8, 16), (40, 8, 16)),  # all fits
        ((120, 8, 16), (44, 8, 16)),  # answers shorter than half stay whole
        ((20, 80, 12), (20, 40, 12)),  # so does a prompt
        ((80, 80, 40), (30, 30, 30)),  # both lose the same share, by the longer answer
    ],
)
def test_prompt_and_answers_of_a_pair_share_the_room_by_their_lengths(tokenizer, lengths, kept):
    options = EncodeOptions(60, shares_pairs=True)
    prompt, *answers = lengths
    example = talk("x", "y")
    whole = encode_pair(replace(example, rejected=Message("assistant", "z")), tokenizer, LONG)
    around = whole[0].is_trained.index(True) - 1, whole[0].num_trained - 1
    question = "a " * (prompt - around[0])
    chosen, rejected = ("b " * (length - around[1]) for length in answers)
    question, chosen, rejected = (each.rstrip() for each in (question, chosen, rejected))
    example = replace(talk(question, chosen), rejected=Message("assistant", rejected))
    rows = encode_pair(example, tokenizer, LONG)
    cut = encode_pair(example, tokenizer, options)
    assert [rows[0].is_trained.index(True), *(row.num_trained for row in rows)] == [*lengths]
    for row, own, answer in zip(rows, cut, kept[1:], strict=True):
        assert own.ids == row.ids[: kept[0]] + row.ids[lengths[0] :][:answer]
        assert own.num_trained == answer
        assert own.lost_tokens >= len(row.ids) - len(own.ids)
        assert own.cut_tokens == row.num_trained - answer


def test_a_long_text_is_taught_in_parts_or_cut(tokenizer):
    text = Example((Message(TEXT, "one two three " * 30),), "g", "f.jsonl", 3)
    parts = encode_document(text, tokenizer, EncodeOptions(40))
    (cut,) = encode_document(text, tokenizer, EncodeOptions(40, cuts_texts=True))
    assert len(parts) > 1
    assert cut.ids == parts[0].ids
    assert cut.lost_tokens == cut.cut_tokens == sum(len(part.ids) - 1 for part in parts[1:])


CUTTING = EncodeOptions(30, cuts_prompts=True)


def test_a_prompt_that_fills_all_the_room_is_cut_where_that_is_asked_for(tokenizer):
    whole = encode(talk("word " * 50, "short"), tokenizer, LONG)
    cut = encode(talk("word " * 50, "short"), tokenizer, CUTTING)
    assert isinstance(cut, EncodedRow)
    assert len(cut.ids) == 29  # and the newline after the end, which is not taught
    assert trained_text(cut, tokenizer) == f"short{END}"
    text = tokenizer.decode(cut.ids)
    assert text.startswith(f"{START}user\nword word")
    assert text.endswith(f"{END}\n{START}assistant\nshort{END}")
    assert cut.lost_tokens in (len(whole.ids) - 30, len(whole.ids) - 29)
    assert cut.cut_tokens == 0


def test_of_a_long_prompt_and_a_long_answer_both_are_cut(tokenizer):
    whole = encode(talk("word " * 50, "reply " * 50), tokenizer, LONG)
    cut = encode(talk("word " * 50, "reply " * 50), tokenizer, CUTTING)
    share = whole.num_trained / len(whole.ids)
    assert len(cut.ids) == 30
    assert cut.num_trained == pytest.approx(30 * share, abs=1)
    assert cut.cut_tokens == whole.num_trained - cut.num_trained
    assert END not in trained_text(cut, tokenizer)


def test_both_answers_of_a_pair_follow_the_same_cut_prompt(tokenizer):
    pair = talk("word " * 50, "short", rejected=Message("assistant", "reply " * 9))
    assert isinstance(encode_pair(pair, tokenizer, EncodeOptions(30)), TooLong)
    rows = encode_pair(pair, tokenizer, CUTTING)
    prompts = [row.ids[: row.is_trained.index(True)] for row in rows]
    assert prompts[0] == prompts[1]
    assert trained_text(rows[0], tokenizer) == f"short{END}"
    assert max(len(row.ids) for row in rows) <= 30


@pytest.mark.parametrize(
    ("prompt", "answer", "kept"),
    [(100, 10, (20, 10)), (10, 100, (10, 20)), (60, 40, (18, 12)), (5, 5, (5, 5))],
)
def test_what_stays_of_a_prompt_and_an_answer(prompt, answer, kept):
    assert room(prompt, answer, 30) == kept


def test_a_row_may_end_after_so_many_trained_tokens(tokenizer):
    row = talk("Hi?", "One two three.", "And?", "word " * 50)
    whole = encode(row, tokenizer, LONG)
    for count in (1, 10, whole.num_trained, 1000):
        cut = encode(row, tokenizer, replace(LONG, max_trained=count))
        assert cut.num_trained == min(count, whole.num_trained)
        assert cut.ids == whole.ids[: len(cut.ids)]
        assert cut.is_trained[-1]
    taught = replace(LONG, max_trained=1, train_on_prompt=True)
    assert encode(row, tokenizer, taught) == encode(
        row, tokenizer, replace(taught, max_trained=None)
    )
    text = Example((Message(TEXT, "word " * 50),), "g", "f", 1)
    assert encode(text, tokenizer, replace(LONG, max_trained=7)).num_trained == 7


def test_a_long_conversation_keeps_its_system_turn_and_its_newest_exchanges(tokenizer):
    turns = [Message("system", "简短")]
    for number in range(20):
        turns += [Message("user", f"Question {number}?"), Message("assistant", f"Answer {number}.")]
    row = Example(tuple(turns), "g", "f", 1)
    whole = len(encode(row, tokenizer, LONG).ids)
    for max_tokens in (60, 120, 400):
        cut = encode(row, tokenizer, EncodeOptions(max_tokens))
        text = tokenizer.decode(cut.ids)
        assert text.startswith(f"{START}system\n简短{END}\n{START}user\nQuestion ")
        assert text.endswith(f"Answer 19.{END}")
        assert len(cut.ids) <= max_tokens
        kept = [number for number in range(20) if f"Question {number}?" in text]
        assert kept == list(range(cut.lost_turns // 2, 20))
        assert kept == [number for number in range(20) if f"Answer {number}." in text]
        longer = replace(row, messages=(turns[0], *turns[1 + cut.lost_turns - 2 :]))
        assert len(encode(longer, tokenizer, LONG).ids) + 1 > max_tokens
        assert abs(whole - len(cut.ids) - cut.lost_tokens) <= 1


def test_a_template_that_rewrites_earlier_turns_is_refused_with_the_tokens(tokenizer):
    tokenizer.chat_template = "{{ messages | length }}" + CHAT_TEMPLATE
    with pytest.raises(
        ModelError, match=r"f.jsonl:3: .* renders earlier turns differently"
    ) as told:
        encode(talk("Hi?", "Hello."), tokenizer, LONG)
    assert "first at token 0: '1<|im_start|>user" in str(told.value)
    assert "became '2<|im_start|>user" in str(told.value)
    assert "data.mask_history" not in str(told.value)  # there is one answer only
    assert "model.template" in str(told.value)
    with pytest.raises(ModelError, match=r"data.mask_history: true"):
        encode(talk("Hi?", "Hello.", "And?", "Good."), tokenizer, LONG)


FORGETFUL = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n"
    "{% endif %}{% endif %}"
)
"""As Qwen 3's: only the last answer has a thought, and a question may hold an empty one."""


def test_answers_that_lose_their_thought_later_are_trained_as_they_then_read(tokenizer, caplog):
    tokenizer.chat_template = FORGETFUL
    row = encode(talk("Hi?", "你好", "And?", "Good."), tokenizer, LONG)
    assert trained_text(row, tokenizer) == f"你好{END}<think>\n\n</think>\n\nGood.{END}"
    assert "writes an answer otherwise once other turns follow" in caplog.text


def test_an_empty_thought_is_asked_with_the_question_where_thinking_is_off(tokenizer):
    tokenizer.chat_template = FORGETFUL
    quiet = replace(LONG, format=PromptFormat(False), mask_history=True)
    row = encode(talk("Hi?", "你好", "And?", "Good."), tokenizer, quiet)
    assert trained_text(row, tokenizer) == f"Good.{END}"
    asked = prompt_ids(talk("Hi?", "你好"), tokenizer, quiet)
    assert tokenizer.decode(asked).endswith("assistant\n<think>\n\n</think>\n\n")
    both = encode(
        talk("Hi?", "你好", "And?", "Good."), tokenizer, replace(quiet, mask_history=False)
    )
    assert trained_text(both, tokenizer) == f"你好{END}Good.{END}"


def test_a_template_that_marks_answers_is_believed(tokenizer):
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }}: {% if m.role == 'assistant' %}{% generation %}"
        "{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}\n{% endfor %}"
    )
    row = encode(talk("Hi?", "你好", "And?", "Good."), tokenizer, LONG)
    assert trained_text(row, tokenizer) == f"你好Good.{END}"
    last = encode(talk("Hi?", "你好", "And?", "Good."), tokenizer, replace(LONG, mask_history=True))
    assert trained_text(last, tokenizer) == f"Good.{END}"


def test_several_marks_in_one_answer_belong_to_it(tokenizer):
    marks = "{% generation %}{{ m.content }}{% endgeneration %} "
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }}: {% if m.role == 'assistant' %}"
        + marks * 2
        + "{% else %}{{ m.content }}{% endif %}\n{% endfor %}"
    )
    half = Message("assistant", "One.", weight=0.5)
    turns = (Message("user", "a"), half, Message("user", "b"), Message("assistant", "Two."))
    row = encode(Example(turns, "g", "f", 1), tokenizer, LONG)
    assert trained_text(row, tokenizer) == f"One.One.Two.Two.{END}"
    one = row.weights.index(1.0)
    assert row.weights == (0.5,) * one + (1.0,) * (len(row.weights) - one)


def test_what_follows_the_end_token_of_the_last_answer_alone_is_not_trained(tokenizer):
    tokenizer.chat_template = CHAT_TEMPLATE + "{% if not add_generation_prompt %}<done>{% endif %}"
    tokenizer.add_tokens(["<done>"])
    row = encode(talk("Hi?", "你好", "And?", "Good."), tokenizer, LONG)
    assert trained_text(row, tokenizer) == f"你好{END}Good.{END}"


def test_two_end_tokens_in_a_row_are_both_trained(tokenizer):
    tokenizer.add_tokens(["<turn>"])
    tokenizer.chat_template = CHAT_TEMPLATE.replace(END, f"{END}<turn>")
    row = encode(talk("Hi?", "你好", "And?", "Good."), tokenizer, LONG)
    assert trained_text(row, tokenizer) == f"你好{END}<turn>Good.{END}<turn>"


def test_where_a_template_writes_no_end_token_the_last_answer_gets_one(tokenizer):
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant] {% endif %}"
    )
    row = encode(talk("Hi?", "你好", "And?", "Good."), tokenizer, LONG)
    assert trained_text(row, tokenizer) == f"你好Good.{END}"


def test_a_tokenizer_without_offsets_trains_the_same_tokens(tokenizer):
    row = talk("Hi?", "你好，世界", "And?", "Good.")
    assert encode(row, WithoutPlaces(tokenizer), LONG) == encode(row, tokenizer, LONG)


def test_characters_of_several_tokens_are_trained_whole(tokenizer):
    tokenizer.chat_template = CHAT_TEMPLATE.replace(END, "")
    row = encode(talk("Hi?", "龘"), tokenizer, LONG)
    assert len(tokenizer("龘")["input_ids"]) > 1
    assert trained_text(row, tokenizer).startswith("龘")


def test_plain_text_is_trained_whole_with_an_end_token(tokenizer):
    row = Example((Message(TEXT, "今天的天气很好"),), "g", "f", 1, weight=2.0)
    code = encode(row, tokenizer, LONG)
    assert tokenizer.decode(code.ids) == f"今天的天气很好{END}"
    assert code.is_trained == (False, *[True] * (len(code.ids) - 1))
    assert code.weight == 2.0
    cut = encode(row, tokenizer, EncodeOptions(3))
    assert (cut.ids, cut.lost_tokens) == (code.ids[:3], len(code.ids) - 3)
    assert isinstance(encode(Example((Message(TEXT, ""),), "g", "f", 1), tokenizer, LONG), Unfit)


def test_prompts_are_trained_where_asked(tokenizer):
    row = encode(talk("Hi?", "你好"), tokenizer, replace(LONG, train_on_prompt=True))
    whole = render(tokenizer, talk("Hi?", "你好").messages, ask=False)
    assert row.ids == tuple(whole)
    assert row.is_trained == (False, *[True] * (len(whole) - 1))


def test_history_is_masked_where_asked(tokenizer):
    row = encode(talk("Hi?", "你好", "And?", "Good."), tokenizer, replace(LONG, mask_history=True))
    assert trained_text(row, tokenizer) == f"Good.{END}"


@pytest.mark.parametrize("train_on_prompt", [False, True])
def test_turns_have_weights(tokenizer, train_on_prompt):
    turns = [Message("user", "a"), Message("assistant", "Never.", weight=0.0), Message("user", "b")]
    turns += [Message("assistant", "Half.", weight=0.5), Message("user", "c")]
    row = Example((*turns, Message("assistant", "好")), "g", "f", 1)
    code = encode(row, tokenizer, replace(LONG, train_on_prompt=train_on_prompt))
    text = trained_text(code, tokenizer)
    assert "Never." not in text
    num_half = len(tokenizer(f"Half.{END}")["input_ids"])
    assert code.weights.count(0.5) == num_half
    assert len(code.weights) == code.num_trained
    if not train_on_prompt:
        assert text == f"Half.{END}好{END}"
        assert code.weights[:num_half] == (0.5,) * num_half


def test_a_row_whose_answers_all_weigh_nothing_is_unfit(tokenizer):
    turns = (Message("user", "a"), Message("assistant", "b", weight=0.0))
    code = encode(Example(turns, "g", "f", 1), tokenizer, LONG)
    assert code == Unfit("no turn of this row is trained: every answer's weight is 0")


def test_a_template_that_refuses_a_role_makes_the_row_unfit(tokenizer):
    tokenizer.chat_template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}"
        "{% endif %}" + CHAT_TEMPLATE
    )
    turns = (Message("system", "s"), *talk("Hi?", "你好").messages)
    code = encode(Example(turns, "g", "f", 1), tokenizer, LONG)
    assert code == Unfit("the model's chat template refuses this row: System role not supported")
    assert isinstance(prompt_ids(Example(turns, "g", "f", 1), tokenizer, LONG), Unfit)


def test_tools_that_are_no_json_make_the_row_unfit(tokenizer):
    code = encode(talk("Hi?", "你好", tools="[{"), tokenizer, LONG)
    assert isinstance(code, Unfit)
    assert "refuses this row: Expecting" in code.reason


TOOLS = json.dumps([{"name": "weather", "description": "The weather.", "parameters": {}}])
CALLING = Example(
    (
        Message("user", "北京天气？"),
        Message("assistant", "", tool_calls=(ToolCall("weather", '{"city": "北京"}'),)),
        Message("tool", "晴"),
        Message("assistant", "晴天。"),
    ),
    "g",
    "f",
    1,
    tools=TOOLS,
)


def test_calls_that_a_template_hides_are_written_as_json_and_trained(tokenizer):
    row = encode(CALLING, tokenizer, LONG)
    call = '{"name": "weather", "arguments": {"city": "北京"}}'
    assert trained_text(row, tokenizer) == f"{call}{END}晴天。{END}"
    text = tokenizer.decode(row.ids)
    assert text.startswith(f"{START}user\nTools you may call, as JSON:\n{TOOLS}\n\n北京天气？{END}")
    assert f"{START}tool\n晴{END}" in text


def test_both_answers_of_a_pair_follow_the_same_prompt(tokenizer):
    pair = talk("Hi?", "你好", "And?", "Good.", rejected=Message("assistant", "Bad, bad answer."))
    chosen, rejected = encode_pair(pair, tokenizer, LONG)
    assert trained_text(chosen, tokenizer) == f"Good.{END}"
    assert trained_text(rejected, tokenizer) == f"Bad, bad answer.{END}"
    start = chosen.is_trained.index(True)
    assert start == rejected.is_trained.index(True)
    assert chosen.ids[:start] == rejected.ids[:start]


def test_a_pair_loses_the_same_turns_on_both_sides(tokenizer):
    contents = [f"Turn {number}." for number in range(9)]
    pair = talk(*contents, "short", rejected=Message("assistant", "long " * 20))
    max_tokens = len(encode(pair, tokenizer, LONG).ids)
    chosen, rejected = encode_pair(pair, tokenizer, EncodeOptions(max_tokens))
    assert chosen.lost_turns == rejected.lost_turns > 0
    start = chosen.is_trained.index(True)
    assert chosen.ids[:start] == rejected.ids[:start]
    assert len(rejected.ids) <= max_tokens
    assert isinstance(encode_pair(pair, tokenizer, EncodeOptions(8)), TooLong)
