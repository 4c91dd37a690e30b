import csv
import json
from dataclasses import replace

import pytest

from llama_factory.core.errors import DataError
from llama_factory.core.types import Example
from llama_factory.data.reading import RawRow, Refused, read_examples, read_rows
from tests.data.rows import chat


def read(tmp_path, text, name="a.csv"):
    path = tmp_path / name
    path.write_bytes(text.encode())
    return list(read_rows(path))


def test_records_are_rows_by_the_names_of_the_header(tmp_path):
    text = 'instruction,input,output\r\n问,"a, ""b""\nc",答\r\n\r\nq,,a\r\n'
    rows = read(tmp_path, text)
    assert rows == [
        RawRow(2, {"instruction": "问", "input": 'a, "b"\nc', "output": "答"}),
        RawRow(5, {"instruction": "q", "input": "", "output": "a"}),
    ]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "question;answer\n1, 2;b\n"),
        ("a.csv", "question\tanswer\n1, 2\tb\n"),
        ("a.tsv", "question\tanswer\n1, 2\tb\n"),
        ("a.csv", "question|answer\n1, 2|b\n"),
    ],
)
def test_the_separator_is_that_of_the_header(tmp_path, name, text):
    assert [row.value for row in read(tmp_path, text, name)] == [
        {"question": "1, 2", "answer": "b"}
    ]


def test_ragged_records_are_refused_with_their_counts(tmp_path):
    rows = read(tmp_path, "question,answer\na,b\na\na,b,c\nc,d\n")
    assert [type(row) for row in rows] == [RawRow, Refused, Refused, RawRow]
    assert (rows[1].line, rows[2].line) == (3, 4)
    assert rows[1].reason.startswith("1 fields where the header has 2 (question, answer).")
    assert rows[2].reason.startswith("3 fields where the header has 2 (question, answer).")
    assert rows[2].text == "a,b,c"


def test_a_quote_that_is_never_closed_costs_its_line_alone(tmp_path):
    rows = read(tmp_path, 'question,answer\na,"b\nc,d\ne,"f, g"\nh,i\n')
    assert [row.value["question"] for row in rows if isinstance(row, RawRow)] == ["c", "e", "h"]
    assert rows[0].line == 2
    assert rows[0].reason.startswith("its quotes do not match (")
    assert "Close every quote, and write one inside a field twice." in rows[0].reason


def test_quotes_are_only_letters_where_tabs_separate(tmp_path):
    rows = read(tmp_path, 'question\tanswer\n"Yes" he said\t"No\nc\td\n', "a.tsv")
    assert [row.value["question"] for row in rows] == ['"Yes" he said', "c"]
    assert rows[0].value["answer"] == '"No'


def test_a_field_may_be_long(tmp_path):
    (row,) = read(tmp_path, f'question,answer\na,"{"b" * 500_000}"\n')
    assert len(row.value["answer"]) == 500_000


def test_zero_bytes_are_refused(tmp_path):
    rows = read(tmp_path, "question,answer\na,b\0\nc,d\n")
    assert [type(row) for row in rows] == [Refused, RawRow]
    assert rows[0].reason == "a NUL character: remove it."


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("question,answer\n", "is empty: it holds no rows"),
        ("\n\n", "is empty: it has no header and no rows"),
        ("question,question\na,b\n", "two columns of its header are called 'question'"),
        (",\na,b\n", "its header names no column"),
        (";;;\na;b;c;d\n", "its header names no column"),
        ('"question,answer\na,b\n', "its header cannot be read: its quotes do not match"),
    ],
)
def test_a_header_is_needed(tmp_path, text, told):
    with pytest.raises(DataError, match=told):
        read(tmp_path, text)


def test_verdicts_weights_and_lists_may_be_written_as_text(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(
        "prompt,completion,label,weight,group\na,b,True,2,x\na,c,false,,\na,d,perhaps,,\n"
    )
    first, second, third = read_examples(path)
    assert (first.is_desirable, first.weight, first.group) == (True, 2.0, "x")
    assert (second.is_desirable, second.weight, second.group) == (False, 1.0, "a")
    assert third.reason.startswith("'label' must be true or false (or 1 or 0), this is text")
    turns = [{"role": "user", "content": "问"}, {"role": "assistant", "content": "答"}]
    talk = json.dumps(turns, ensure_ascii=False).replace('"', '""')
    path.write_text(f'messages\n"{talk}"\n')
    (row,) = read_examples(path)
    assert isinstance(row, Example)
    assert row.answer == "答"


TWO = [{"question": "a", "answer": "b"}, {"question": "c", "answer": "d"}]


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
@pytest.mark.parametrize("bom", ["", "\ufeff"])
@pytest.mark.parametrize(
    "lines",
    [
        [",question,answer", "0,a,b", "1,c,d"],
        ["question,answer,", "a,b,", "c,d,"],
        ["question,answer,,,", "a,b,,,", "c,d,,,"],
        ["question,answer", "a,b,", "c,d,,"],
        ["question,answer,,", "a,b", "c,d,"],
        ["question, ,answer", "a, ,b", "c,,d"],
        [",,question,answer", "0,,a,b", "1,7,c,d"],
        ['"","question","answer"', '"0","a","b"', '"1","c","d"'],
    ],
)
def test_columns_without_a_name_and_separators_at_the_end_hold_nothing(tmp_path, lines, bom, mark):
    text = bom + "\n".join(line.replace(",", mark) for line in lines) + "\n"
    for end in ("\n", "\r\n"):
        assert [row.value for row in read(tmp_path, text.replace("\n", end))] == TWO


def test_what_a_column_without_a_name_holds_is_kept_under_its_number(tmp_path):
    rows = read(tmp_path, "question,,answer\na,x,b\nc,,d\n")
    assert rows[0].value == {"question": "a", "(column 2 without a name)": "x", "answer": "b"}
    assert rows[1].value == TWO[1]


def test_fields_beyond_the_header_are_still_refused(tmp_path):
    rows = read(tmp_path, "question,answer,\na,b,,c\na\n,b,\n")
    assert [type(row) for row in rows] == [Refused, Refused, RawRow]


@pytest.mark.parametrize("first", ["sep=;", '"sep=;"', "sep=;\r"])
def test_a_first_line_may_name_the_separator(tmp_path, first):
    rows = read(tmp_path, f"{first}\nquestion;answer\na;b\nc;d\n", "a.tsv")
    assert [row.value for row in rows] == TWO


@pytest.mark.parametrize("nothing", ["", "nan", "NaN", "NaT", "<NA>", "None", "null"])
def test_what_programs_write_for_nothing_is_nothing_where_a_field_may_be_missing(tmp_path, nothing):
    header = "instruction,input,output,system,history,tools,images,kto_tag,weight,group"
    row = ["a", *[nothing] * 8]
    row.insert(2, "b")
    (tmp_path / "a.csv").write_text(f"{header}\n{','.join(row)}\n")
    (found,) = read_examples(tmp_path / "a.csv")
    assert found == replace(chat("a", "b", group="a", line=2), file="a.csv")


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_lines_of_separators_alone_are_blank(tmp_path, mark):
    lines = ["question,answer,", ",,", "a,b,", " , ,", "c,d,", ",,", ",,"]
    rows = read(tmp_path, "\n".join(lines).replace(",", mark) + "\n")
    assert [row.value for row in rows] == TWO
    assert [row.line for row in rows] == [3, 5]


def test_lists_may_be_written_as_pandas_writes_them(tmp_path):
    turns = [{"role": "user", "content": "it's"}, {"role": "assistant", "content": 'a "b"'}]
    path = tmp_path / "a.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([["messages"], [repr(turns)], ["[{'role': 'user', open('x')}]"], ["[]"]])
    good, *bad = read_examples(path)
    assert [turn.content for turn in good.messages] == ["it's", 'a "b"']
    assert all(each.reason.startswith("'messages' must be a list of at least") for each in bad)
    assert len(bad) == 2
