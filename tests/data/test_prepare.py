import json

from llama_factory.core.types import Example
from llama_factory.data.prepare import Seen, load, prepare, save


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def numbered(count, start=0):
    return [
        {"instruction": f"Question {i}?", "output": f"Answer {i}."}
        for i in range(start, start + count)
    ]


def test_exact_duplicates_are_dropped_and_counted(tmp_path):
    path = write(tmp_path / "faq.jsonl", numbered(3) + numbered(2))
    data = prepare([path], Seen(), held_out_fraction=0)
    assert len(data.train) == 3
    assert data.report.dropped == {"twice in this round": 2}


def test_what_was_taught_or_tested_before_is_dropped(tmp_path):
    path = write(tmp_path / "faq.jsonl", numbered(4))
    rows = prepare([path], Seen(), held_out_fraction=0).train
    seen = Seen(taught={rows[0].key: "v0001"}, tested={rows[1].prompt_key: "v0002"})
    data = prepare([path], seen, held_out_fraction=0)
    assert [row.line for row in data.train] == [3, 4]
    assert data.report.dropped == {"taught before in v0001": 1, "held out for testing in v0002": 1}


def test_a_test_file_is_held_out_whole_and_its_questions_are_never_taught(tmp_path):
    train = write(tmp_path / "faq.jsonl", [*numbered(20), {"instruction": "T?", "output": "other"}])
    test = write(tmp_path / "faq.test.jsonl", [{"instruction": "T?", "output": "right"}])
    data = prepare([train, test], Seen(), held_out_fraction=0.5)
    assert len(data.train) == 20
    assert [row.answer for row in data.held_out] == ["right"]
    assert data.held_out[0].group == "faq"
    assert data.report.dropped == {"its question is held out for testing in this round": 1}


def test_a_row_never_changes_sides_as_data_grows(tmp_path):
    few = prepare([write(tmp_path / "a.jsonl", numbered(100))], Seen(), held_out_fraction=0.2)
    many = prepare([write(tmp_path / "a.jsonl", numbered(400))], Seen(), held_out_fraction=0.2)
    side = {row.key: "test" for row in many.held_out} | {row.key: "train" for row in many.train}
    assert all(side[row.key] == "test" for row in few.held_out)
    assert all(side[row.key] == "train" for row in few.train)
    assert 0.1 < len(many.held_out) / 400 < 0.3


def test_a_small_group_still_gives_one_test_row(tmp_path):
    data = prepare([write(tmp_path / "a.jsonl", numbered(8))], Seen(), held_out_fraction=0.0001)
    assert len(data.held_out) == 1


def test_bad_files_and_rows_are_named_and_the_rest_goes_on(tmp_path):
    good = write(tmp_path / "good.jsonl", [*numbered(2), {"x": 1}])
    bad = tmp_path / "bad.jsonl"
    bad.write_bytes(b"\xff\xfe")
    data = prepare([good, bad], Seen(), held_out_fraction=0)
    assert len(data.train) == 2
    assert sorted((r.file, r.line) for r in data.report.refused) == [
        ("bad.jsonl", 0),
        ("good.jsonl", 3),
    ]


def test_saving_and_loading_is_the_identity(tmp_path):
    path = write(tmp_path / "a.jsonl", [*numbered(30), {"x": 1}])
    data = prepare([path], Seen(), held_out_fraction=0.2)
    save(data, tmp_path / "data")
    again = load(tmp_path / "data")
    assert again.train == data.train
    assert again.held_out == data.held_out
    assert again.fingerprint == data.fingerprint
    assert again.report.to_json() == data.report.to_json()
    assert isinstance(again.train[0], Example)
