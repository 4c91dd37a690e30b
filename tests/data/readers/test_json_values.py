"""Lists of rows, wrapped or not, whole or damaged."""

import json

import pytest

from llama_factory.data.readers.json_values import CHUNK_BYTES
from llama_factory.data.reading import RawRow, Refused, read_examples, read_rows

ROWS = [{"instruction": f"问 {i}", "output": "答" * 5} for i in range(5)]
TALKS = [
    {"messages": [{"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": f"a{i}"}]}
    for i in range(5)
]


def read(tmp_path, text, name="a.json"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return list(read_rows(path))


def values(rows):
    return [row.value for row in rows if isinstance(row, RawRow)]


@pytest.mark.parametrize("indent", [None, 0, 2, 4])
@pytest.mark.parametrize("key", [None, "data", "train", "rows"])
def test_a_list_of_rows_is_read_wrapped_or_not(tmp_path, indent, key):
    whole = ROWS if key is None else {"version": "1.0", "size": 5, key: ROWS, "by": {"a": [1]}}
    rows = read(tmp_path, json.dumps(whole, indent=indent, ensure_ascii=False))
    assert values(rows) == ROWS
    assert [row.line for row in rows] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a"])
def test_objects_one_after_the_other_are_rows(tmp_path, indent, name):
    text = "\n".join(json.dumps(row, indent=indent) for row in ROWS)
    assert values(read(tmp_path, text, name)) == ROWS


def test_one_object_is_one_row(tmp_path):
    assert values(read(tmp_path, json.dumps(ROWS[0], indent=2))) == [ROWS[0]]


def test_rows_of_any_size_lie_across_the_chunks_that_are_read(tmp_path):
    rows = [
        {"text": "字" * size, "n": size * 1.5} for size in (CHUNK_BYTES, 1, CHUNK_BYTES // 3, 7)
    ]
    assert values(read(tmp_path, json.dumps(rows, ensure_ascii=False))) == rows
    long = [{"n": number} for number in range(CHUNK_BYTES // 8)]
    assert values(read(tmp_path, json.dumps(long))) == long


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("rows", [ROWS, TALKS])
@pytest.mark.parametrize("broken", [0, 2])
@pytest.mark.parametrize(
    ("old", "new"),
    [('"}', "}"), ('": "', '": '), ('"output"', "output"), ('"role"', '"role'), ('": ', '" ')],
)
def test_a_broken_row_costs_that_row_alone(tmp_path, indent, rows, broken, old, new):
    texts = [json.dumps(row, indent=indent) for row in rows]
    if old not in texts[broken]:
        old, new = '": ', '" '
    texts[broken] = texts[broken].replace(old, new, 1)
    found = read(tmp_path, "[" + ", ".join(texts) + "]")
    assert values(found) == [row for i, row in enumerate(rows) if i != broken]
    (refused,) = (row for row in found if isinstance(row, Refused))
    assert refused.line == broken + 1
    assert refused.reason.startswith("this row is not valid JSON (")
    assert "of the row)." in refused.reason
    assert refused.text == texts[broken]


def test_a_half_written_end_is_reported(tmp_path):
    *kept, last = read(tmp_path, json.dumps(ROWS, indent=2)[:-20])
    assert values(kept) == ROWS[:4]
    assert last.line == 5
    assert last.reason.endswith(" The file may be half-written.")


def test_a_row_that_is_not_utf_8_costs_that_row_alone(tmp_path):
    content = json.dumps(ROWS, ensure_ascii=False).encode().replace("问 2".encode(), b"caf\xe9")
    (tmp_path / "a.json").write_bytes(content)
    rows = list(read_rows(tmp_path / "a.json"))
    assert values(rows) == [*ROWS[:2], *ROWS[3:]]
    assert rows[2].reason.startswith("not UTF-8: byte 0xe9 at column 21 (in cp1252")


def test_a_row_that_is_too_long_is_skipped_and_reported(tmp_path):
    long = {"instruction": "x" * (17 * 2**20), "output": "y"}
    rows = read(tmp_path, json.dumps([ROWS[0], long, ROWS[1]]))
    assert values(rows) == ROWS[:2]
    assert "the longest row read has 16,777,216" in rows[1].reason
    assert rows[1].text.startswith('{"instruction": "xxx')
    assert len(rows[1].text) == 200


def talk(number, said=("role", "content", "user", "assistant"), num_turns=2):
    role, content, *speakers = said
    return [
        {role: speakers[turn % 2], content: f"{number} says {turn}"} for turn in range(num_turns)
    ]


CONVERSATIONS = [talk(number, num_turns=2 + 2 * (number % 2)) for number in range(5)]
SHAREGPT = [talk(number, ("from", "value", "human", "gpt")) for number in range(5)]


@pytest.mark.parametrize("indent", [None, 0, 1])
@pytest.mark.parametrize("key", [None, "data", "train"])
@pytest.mark.parametrize("talks", [CONVERSATIONS, SHAREGPT, CONVERSATIONS[:1]])
@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a"])
def test_a_list_of_turns_is_a_conversation(tmp_path, name, talks, key, indent):
    whole = talks if key is None else {"version": "1.0", key: talks, "by": {"a": [1]}}
    path = tmp_path / name
    path.write_text(json.dumps(whole, indent=indent))
    rows = list(read_rows(path))
    assert values(rows) == talks
    assert [row.line for row in rows] == list(range(1, len(talks) + 1))
    texts = [[turn.content for turn in row.messages] for row in read_examples(path)]
    assert texts == [[list(turn.values())[1] for turn in each] for each in talks]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
@pytest.mark.parametrize("indent", [None, 1])
def test_lists_of_turns_one_after_the_other_are_conversations(tmp_path, name, indent):
    text = "\n".join(json.dumps(each, indent=indent) for each in CONVERSATIONS)
    assert values(read(tmp_path, text, name)) == CONVERSATIONS
    mixed = json.dumps({"messages": CONVERSATIONS[0]}) + "\n" + json.dumps(CONVERSATIONS[1])
    (tmp_path / name).write_text(mixed)
    found = [row.messages[0].content for row in read_examples(tmp_path / name)]
    assert found == ["0 says 0", "1 says 0"]


def test_a_list_that_holds_nothing_but_turns_is_one_conversation(tmp_path):
    assert values(read(tmp_path, json.dumps(CONVERSATIONS[1]))) == CONVERSATIONS[1:2]


@pytest.mark.parametrize("rows", [[ROWS[:2], ROWS[2:]], [ROWS], [[], ROWS], [[ROWS]]])
def test_brackets_around_rows_are_ignored(tmp_path, rows):
    assert values(read(tmp_path, json.dumps(rows))) == ROWS


@pytest.mark.parametrize(
    "document", [{"from": "ann@shop.example", "content": "x"}, {"role": "chef", "text": "x"}]
)
def test_texts_with_a_from_field_are_no_turns(tmp_path, document):
    assert values(read(tmp_path, json.dumps([document, document]))) == [document, document]


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("is_list", [True, False])
@pytest.mark.parametrize("broken", [0, 2, 4])
@pytest.mark.parametrize(("old", "new"), [('": ', '" '), ('"}', "}"), ('"role"', '"role')])
def test_a_broken_conversation_costs_that_one_alone(tmp_path, indent, is_list, broken, old, new):
    texts = [json.dumps(each, indent=indent) for each in CONVERSATIONS]
    if old not in texts[broken]:
        old, new = '": ', '" '
    texts[broken] = texts[broken].replace(old, new, 1)
    found = read(tmp_path, f"[{', '.join(texts)}]" if is_list else "\n".join(texts))
    assert values(found) == [each for i, each in enumerate(CONVERSATIONS) if i != broken]
    assert sum(isinstance(row, Refused) for row in found) == 1


def test_conversations_lie_across_the_chunks_that_are_read(tmp_path):
    talks = [
        [{"role": "user", "content": "q"}, {"role": "assistant", "content": "答" * size}]
        for size in (CHUNK_BYTES, 1, CHUNK_BYTES // 3, 7, 2 * CHUNK_BYTES)
    ]
    assert values(read(tmp_path, json.dumps(talks, ensure_ascii=False))) == talks
    small = [talk(number) for number in range(CHUNK_BYTES // 60)]
    assert values(read(tmp_path, json.dumps(small))) == small


@pytest.mark.parametrize("turn", [CONVERSATIONS[0][0], SHAREGPT[0][1]])
def test_a_turn_that_lies_alone_is_no_row(tmp_path, turn):
    (tmp_path / "a.jsonl").write_text(f"{json.dumps(turn)}\n" * 2)
    for row in read_examples(tmp_path / "a.jsonl"):
        assert isinstance(row, Refused)
        assert row.reason.startswith("this is one turn of a conversation, not a row. Put the turns")
