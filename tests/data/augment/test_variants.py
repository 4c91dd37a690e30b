"""Variants of rows: the prompt is written differently, and nothing else ever is."""

import ast
import os
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_factory.core.types import TEXT, Example, Message, ToolCall
from llama_factory.data.augment import AUGMENTATIONS, AugmentPlan
from llama_factory.data.augment.typo import Typo
from llama_factory.data.augment.variants import (
    ROWS_AT_ONCE,
    augment_example,
    augment_row,
    variants,
)

OFFLINE = sorted(set(AUGMENTATIONS.parts) - {"paraphrase"})
SAID = st.sampled_from(
    [
        "How do I quickly repair it?",
        "请说明一个重要的问题。",
        "a large, important error",
        "",
        " ",
        "七",
    ]
) | st.text(max_size=20)
FIXED = st.fixed_dictionaries({}, optional=dict.fromkeys(("system", "tools", "label"), SAID))
PAIR = st.fixed_dictionaries({"chosen": SAID, "rejected": SAID})


def turns(role, content, user, assistant):
    one = st.fixed_dictionaries(
        {role: st.sampled_from(["system", user, assistant, "tool"]), content: SAID},
        optional={"weight": st.just(0.5), "loss": st.booleans()},
    )
    return st.lists(one, max_size=5)


OPENAI = turns("role", "content", "user", "assistant")
SHAREGPT = turns("from", "value", "human", "gpt")
ROWS = st.one_of(
    st.fixed_dictionaries({"instruction": SAID, "input": SAID, "output": SAID}),
    st.fixed_dictionaries(
        {
            "instruction": SAID,
            "output": SAID,
            "history": st.lists(st.lists(SAID, min_size=2, max_size=2)),
        }
    ),
    st.fixed_dictionaries({"messages": OPENAI}),
    st.fixed_dictionaries({"conversations": SHAREGPT}),
    st.tuples(st.fixed_dictionaries({"conversations": SHAREGPT}), PAIR).map(lambda p: p[0] | p[1]),
    st.tuples(st.fixed_dictionaries({"prompt": SAID}), PAIR).map(lambda p: p[0] | p[1]),
    st.fixed_dictionaries({"chosen": OPENAI, "rejected": OPENAI}),
    st.fixed_dictionaries({"text": SAID, "label": st.integers(0, 3)}),
    st.fixed_dictionaries({"question": SAID, "answer": SAID, "images": st.just(["a.png"])}),
    st.fixed_dictionaries({"prompt": SAID, "completion": SAID, "kto_tag": st.booleans()}),
)
PROMPTS = {"instruction", "input", "prompt", "question", "text"}
USERS = {"user", "human"}


def taught(row):
    """All of a row that must stay."""
    kept = {name: value for name, value in row.items() if name not in (*PROMPTS, "augmented_by")}
    if "history" in kept:
        kept["history"] = [answer for _, answer in kept["history"]]
    for name, content in (("messages", "content"), ("conversations", "value")):
        if name in kept:
            kept[name] = [
                {**turn, content: None} if USERS & set(turn.values()) else turn
                for turn in kept[name]
            ]
    return kept


def is_user(turn):
    return (turn.get("role") or turn.get("from")) in USERS


@pytest.mark.slow
@given(row=ROWS, more=FIXED, name=st.sampled_from(OFFLINE), seed=st.integers(0, 3))
def test_only_the_prompt_ever_changes(row, more, name, seed):
    row = more | row
    before = repr(row)
    made = augment_row(row, AUGMENTATIONS.parse({"type": name, "rate": 1.0}), seed=seed)
    assert repr(row) == before
    if made is not None:
        assert made.pop("augmented_by") == name
        assert made != row
        assert list(made) == list(row)
        assert taught(made) == taught(row)


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "Explain a large error.", "input": "", "output": "A large error."},
        {"instruction": "请说明", "input": "一个重要的错误", "output": "重要的错误"},
        {
            "messages": [
                {"role": "user", "content": "Explain it"},
                {"role": "assistant", "content": "It"},
            ]
        },
        {
            "conversations": [
                {"from": "human", "value": "请说明一下"},
                {"from": "gpt", "value": "请说明"},
            ]
        },
        {"prompt": "Explain it", "chosen": "Explain", "rejected": "It"},
        {"text": "a terrible movie", "label": 0},
        {"content": "一部有名的电影", "label": 1},
        {"sentence": "a terrible movie", "label": 0},
        {"question": "Explain it", "answer": "Explain it"},
        {"history": [["Explain it", "Explain it"]], "instruction": "", "output": "Explain it"},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Explain it"}]}]},
    ],
    ids=str,
)
def test_every_layout_has_a_prompt(row):
    made = augment_row(
        row, AUGMENTATIONS.parse({"type": "synonym_replacement", "rate": 1.0}), seed=0
    )
    assert made is not None
    assert made["augmented_by"] == "synonym_replacement"


def test_plain_text_is_taught_whole_and_left_alone():
    for name in ("text", "content", "sentence"):
        assert augment_row({name: "a large error"}, AUGMENTATIONS.parse("typo"), seed=0) is None


def test_named_fields_alone_are_changed():
    row = {"instruction": "a large error", "content": "a large error"}
    made = augment_row(row, AUGMENTATIONS.parse("typo"), seed=0, fields=["content"])
    assert made["instruction"] == row["instruction"]
    assert made["content"] != row["content"]


def test_an_augmented_row_is_not_augmented_again():
    row = {"instruction": "a large error", "output": "", "augmented_by": "typo"}
    assert augment_row(row, AUGMENTATIONS.parse("typo"), seed=0) is None


def test_an_empty_mark_makes_no_difference():
    row = {"instruction": "a large error", "output": ""}
    plain, marked = (
        augment_row(each, AUGMENTATIONS.parse("typo"), seed=0)
        for each in (row, row | {"augmented_by": ""})
    )
    assert plain == marked


def test_copies_and_seeds_differ():
    row = {"instruction": "How do I repair an error in the tax form?", "output": "So."}
    method = AUGMENTATIONS.parse("typo")
    made = {
        augment_row(row, method, seed=seed, copy=copy)["instruction"]
        for seed in range(3)
        for copy in range(3)
    }
    assert len(made) == 9


METHODS = [AUGMENTATIONS.parse(name) for name in OFFLINE]
TEXTS = ("请说明一个重要的错误，谢谢。", "Fix a large error, now!")
SCRIPT = f"""
from llama_factory.data.augment import AUGMENTATIONS
from llama_factory.data.augment.variants import augment_row
rows = [{{"instruction": text, "output": "好"}} for text in {TEXTS[::-1]}]
methods = [AUGMENTATIONS.parse(name) for name in {OFFLINE[::-1]}]
print([ascii(augment_row(row, method, seed=7)) for method in methods for row in rows])
"""


@pytest.mark.slow
def test_every_process_makes_the_same_rows_in_any_order():
    rows = [{"instruction": text, "output": "好"} for text in TEXTS]
    here = [ascii(augment_row(row, method, seed=7)) for method in METHODS for row in rows]
    other = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, "PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert len(here) == 12
    assert ast.literal_eval(other.stdout) == here[::-1]


TALK = Example(
    messages=(
        Message("system", "You quickly repair a large error, always."),
        Message("user", "How do I quickly repair a large error, please?"),
        Message("assistant", "A large error.", 0.5, (ToolCall("repair", '{"a": "large error"}'),)),
        Message("tool", "A large error, repaired."),
        Message("assistant", "You quickly repair a large error."),
        Message("user", "谢谢，请说明一个非常重要的问题。", weight=2.0),
        Message("assistant", "一个非常重要的问题，谢谢。"),
    ),
    group="faq",
    file="faq.jsonl",
    line=3,
    weight=2.0,
    tools='[{"name": "repair"}]',
    rejected=Message("assistant", "A large error, quickly."),
    is_desirable=True,
)


def without_user_turns(example):
    turns = [replace(t, content="") if t.role == "user" else t for t in example.messages]
    return replace(example, messages=tuple(turns), augmented_by="")


@pytest.mark.variants
@pytest.mark.parametrize("name", OFFLINE)
def test_user_turns_alone_are_changed(name):
    made = augment_example(TALK, AUGMENTATIONS.parse(name), seed=0)
    assert made.augmented_by == name
    assert without_user_turns(made) == without_user_turns(TALK)
    assert made.key != TALK.key


@pytest.mark.parametrize("name", OFFLINE)
def test_plain_text_is_changed(name):
    text = Example((Message(TEXT, "请快速修理一个非常重要的错误，谢谢。"),), "docs", "a.txt", 1)
    made = augment_example(text, AUGMENTATIONS.parse({"type": name, "rate": 0.5}), seed=0)
    assert made.augmented_by == name
    assert made.is_text
    assert made.answer != text.answer


@pytest.mark.parametrize("name", OFFLINE)
def test_where_nothing_changes_there_is_no_row(name):
    method = AUGMENTATIONS.parse({"type": name, "rate": 0.0})
    assert augment_example(TALK, method, seed=0) is None


def test_an_augmented_example_is_not_augmented_again():
    assert (
        augment_example(replace(TALK, augmented_by="typo"), AUGMENTATIONS.parse("typo"), seed=0)
        is None
    )


def test_a_row_is_changed_alike_wherever_it_lies():
    method = AUGMENTATIONS.parse("typo")
    moved = replace(TALK, file="other.jsonl", line=99)
    first, second = (augment_example(row, method, seed=0) for row in (TALK, moved))
    assert first.messages == second.messages
    assert first.messages != augment_example(TALK, method, seed=1).messages


def test_a_variant_is_read_back_as_it_was():
    made = augment_example(TALK, AUGMENTATIONS.parse("typo"), seed=0)
    assert Example.from_json(made.to_json()) == made


def test_the_same_variant_is_taken_only_once():
    plan = AugmentPlan((Typo(), Typo()), num_copies=2)
    found = list(variants(["a", "b"], plan, lambda row, method, copy: f"{row}{copy}"))
    assert found == [("a", ["a0", "a1"]), ("b", ["b0", "b1"])]


def test_rows_without_a_variant_stay_in_their_place():
    rows = [str(n) for n in range(2 * ROWS_AT_ONCE + 1)]
    made = variants(rows, AugmentPlan((Typo(),)), lambda row, method, copy: None)
    assert list(made) == [(row, []) for row in rows]


def test_no_row_is_no_work():
    assert list(variants([], AugmentPlan((Typo(),)), lambda row, method, copy: row)) == []
