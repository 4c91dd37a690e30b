import json
import shutil

import pytest

from llama_factory.core.types import Example
from llama_factory.data.cleaning_report import DataReport
from llama_factory.data.prepare import load
from llama_factory.data.row_columns import hash_of
from llama_factory.data.seen import open_seen
from tests.data.rows import as_numpy_files, prepared, write


def numbered(count, start=0):
    return [
        {"instruction": f"Question {i}?", "output": f"Answer {i}."}
        for i in range(start, start + count)
    ]


def test_exact_duplicates_are_dropped_and_counted(tmp_path):
    data = prepared(tmp_path, write(tmp_path / "faq.jsonl", numbered(3) + numbered(2)))
    assert len(data.train) == 3
    assert data.report.dropped == {"twice in this round": 2}


def test_what_was_taught_or_tested_before_is_dropped(tmp_path):
    first = write(tmp_path / "faq.jsonl", numbered(40))
    before = prepared(tmp_path / "one", first, held_out_fraction=0.2)
    seen = open_seen({"v0001": before.folder}, tmp_path / "cache")
    again = prepared(tmp_path / "two", write(tmp_path / "faq2.jsonl", numbered(45)), seen=seen)
    assert [row.line for row in again.train] == [41, 42, 43, 44, 45]
    assert again.report.dropped == {
        "taught before in v0001": len(before.train),
        "held out for testing in v0001": len(before.held_out),
    }


def test_columns_that_a_version_lacks_are_made_again(tmp_path):
    before = prepared(tmp_path / "one", write(tmp_path / "faq.jsonl", numbered(4)))
    (before.folder / "columns" / "train" / "columns.arrow").unlink()
    seen = open_seen({"v0001": before.folder}, tmp_path / "cache")
    again = prepared(tmp_path / "two", write(tmp_path / "b.jsonl", numbered(5)), seen=seen)
    assert [row.line for row in again.train] == [5]


@pytest.mark.parametrize("keeps_rows", [True, False])
def test_columns_of_versions_that_earlier_programs_made_are_read(tmp_path, keeps_rows):
    before = prepared(tmp_path / "one", write(tmp_path / "faq.jsonl", numbered(4)))
    columns = before.folder / "columns" / "train"
    shutil.rmtree(columns)
    as_numpy_files(columns, list(before.train))
    if not keeps_rows:
        (before.folder / "train.jsonl").unlink()
    for _ in range(2):  # converted, then from the cache
        seen = open_seen({"v0001": before.folder}, tmp_path / "cache")
        again = prepared(tmp_path / "two", write(tmp_path / "b.jsonl", numbered(5)), seen=seen)
        assert [row.line for row in again.train] == [5]
        shutil.rmtree(tmp_path / "two")
    assert sorted(path.name for path in columns.iterdir())[0] == "about.json"  # left as it was


def test_columns_in_the_cache_that_are_not_whole_are_made_again(tmp_path):
    before = prepared(tmp_path / "one", write(tmp_path / "faq.jsonl", numbered(4)))
    (before.folder / "columns" / "train" / "columns.arrow").unlink()
    cached = tmp_path / "cache" / "columns" / "v0001" / "train"
    cached.mkdir(parents=True)
    (cached / "columns.arrow").write_bytes(b"ARROW1\0\0")
    (seen,) = open_seen({"v0001": before.folder}, tmp_path / "cache")
    assert [seen.taught.row(number) for number in range(4)] == list(before.train)
    assert sorted(seen.taught.keys) == sorted(hash_of(row.key) for row in before.train)


def test_a_test_file_is_held_out_whole_and_its_questions_are_never_taught(tmp_path):
    train = write(tmp_path / "faq.jsonl", [*numbered(20), {"instruction": "T?", "output": "other"}])
    test = write(tmp_path / "faq.test.jsonl", [{"instruction": "T?", "output": "right"}])
    data = prepared(tmp_path, train, test, held_out_fraction=0.5)
    assert len(data.train) == 20
    assert [row.answer for row in data.held_out] == ["right"]
    assert data.held_out[0].group == "faq"
    assert data.report.dropped == {"its question is held out for testing in this round": 1}


def test_what_is_tested_is_taught_too_where_that_is_wanted(tmp_path):
    train = write(tmp_path / "faq.jsonl", [*numbered(4), *numbered(1)])
    test = write(tmp_path / "faq.test.jsonl", numbered(4))
    data = prepared(tmp_path, train, test, teach_tests=True)
    assert (len(data.train), len(data.held_out)) == (4, 4)
    assert data.report.dropped == {"twice in this round": 1}


def test_the_most_rows_of_a_set_hold_for_tests_too(tmp_path):
    train = write(tmp_path / "faq.jsonl", numbered(6, start=10))
    test = write(tmp_path / "faq.test.jsonl", numbered(5))
    data = prepared(tmp_path, train, test, mix={"max_samples": 2})
    assert [row.line for row in data.held_out] == [1, 2]
    assert len(data.train) == 2
    assert data.report.dropped["beyond data.mix.max_samples of a set to test"] == 3


def test_about_so_many_rows_are_held_out(tmp_path):
    data = prepared(tmp_path, write(tmp_path / "faq.jsonl", numbered(200)), held_out_rows=50)
    assert 30 <= len(data.held_out) <= 70
    half = prepared(tmp_path / "half", tmp_path / "faq.jsonl", held_out_rows=500)
    assert len(half.train) >= 80


def test_a_row_never_changes_sides_as_data_grows(tmp_path):
    few, many = (
        prepared(
            tmp_path / str(count),
            write(tmp_path / str(count) / "a.jsonl", numbered(count)),
            held_out_fraction=0.2,
        )
        for count in (100, 400)
    )
    side = {row.key: "test" for row in many.held_out} | {row.key: "train" for row in many.train}
    assert all(side[row.key] == "test" for row in few.held_out)
    assert all(side[row.key] == "train" for row in few.train)
    assert 0.1 < len(many.held_out) / 400 < 0.3


def test_every_group_of_a_file_is_split_on_its_own(tmp_path):
    red, blue = numbered(100), numbered(100, start=100)
    rows = [row | {"group": "red"} for row in red] + [row | {"group": "blue"} for row in blue]
    data = prepared(tmp_path, write(tmp_path / "a.jsonl", rows), held_out_fraction=0.2)
    assert set(data.report.held_out) == set(data.report.kept) == {"red", "blue"}


def test_every_label_can_give_up_its_share(tmp_path):
    rows = [
        {"instruction": f"Is {i} rare?", "output": "yes" if i % 20 else "no"} for i in range(200)
    ]
    path = write(tmp_path / "a.jsonl", rows)
    data = prepared(tmp_path, path, held_out_fraction=0.001, held_out_by="answer")
    assert sorted(row.answer for row in data.held_out) == ["no", "yes"]


def test_bad_answers_are_never_held_out(tmp_path):
    rows = [{"prompt": f"Q{i}?", "completion": f"A{i}", "label": i % 2 == 0} for i in range(100)]
    data = prepared(tmp_path, write(tmp_path / "a.jsonl", rows), held_out_fraction=0.5)
    assert {row.is_desirable for row in data.held_out} == {True}


def test_a_small_group_still_gives_one_test_row(tmp_path):
    path = write(tmp_path / "a.jsonl", numbered(8))
    assert len(prepared(tmp_path, path, held_out_fraction=0.0001).held_out) == 1


def test_augmented_rows_are_never_held_out(tmp_path):
    rows = [row | {"augmented_by": "typo"} for row in numbered(100)]
    path = write(tmp_path / "a.jsonl", rows)
    assert prepared(tmp_path, path, held_out_fraction=0.5).held_out == ()


def test_bad_files_and_rows_are_named_and_the_rest_goes_on(tmp_path):
    good = write(tmp_path / "good.jsonl", [*numbered(2), {"x": 1}])
    bad = tmp_path / "bad.parquet"
    bad.write_bytes(b"PAR1 and nothing more")
    data = prepared(tmp_path, good, bad)
    assert len(data.train) == 2
    assert sorted((r.file, r.line) for r in data.refused()) == [
        ("bad.parquet", 0),
        ("good.jsonl", 3),
    ]
    assert data.report.num_refused == 2


def test_all_refused_rows_are_kept_with_their_text_and_the_report_lists_the_first(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"x": i} for i in range(500)] + numbered(1))
    data = prepared(tmp_path, path)
    assert data.report.num_refused == 500
    assert len(data.report.refused) == 200
    assert [json.loads(row.text)["x"] for row in data.refused()] == list(range(500))


def test_loading_gives_what_was_prepared(tmp_path):
    path = write(tmp_path / "a.jsonl", [*numbered(30), {"x": 1}])
    data = prepared(tmp_path, path, held_out_fraction=0.2)
    again = load(tmp_path / "data")
    assert again.train == data.train
    assert again.held_out == data.held_out
    assert again.report == data.report
    assert isinstance(again.train[0], Example)


def test_the_fingerprint_follows_the_rows(tmp_path):
    one, same, other = (
        prepared(tmp_path / name, write(tmp_path / name / "a.jsonl", numbered(count)))
        for name, count in (("1", 5), ("2", 5), ("3", 6))
    )
    assert one.report.fingerprint == same.report.fingerprint != other.report.fingerprint


def test_an_empty_round_is_no_error(tmp_path):
    data = prepared(tmp_path)
    assert list(data.train) == []
    assert data.report.sets == ()


def test_a_step_for_single_rows_after_one_that_compares_them_is_refused():
    from llama_factory.data.settings import DataSettings

    with pytest.raises(ValueError, match=r"'length' looks at single rows and must come before"):
        DataSettings(cleaning=["near_duplicates", "length"])


class TestFieldsThatNothingReads:
    ROWS = (
        {"text": "Which gate is open? The north gate.", "label": "pos", "id": 1},
        {"text": "How tall is the mill? Eleven metres.", "label": "neg", "id": 2},
        {"text": "When does the ferry leave?", "label": None, "id": 3},
        {"label": "pos"},
    )

    def test_are_counted_by_set_in_good_rows(self, tmp_path):
        paths = [write(tmp_path / "a.jsonl", self.ROWS), write(tmp_path / "b.jsonl", self.ROWS[2:])]
        for _ in range(2):  # also from the cache
            data = prepared(tmp_path, *paths, cleaning=[])
            assert [each.unread for each in data.report.sets] == [{"label": 2}, {}]
        assert load(data.folder).report == data.report

    def test_are_told_with_what_to_do(self, tmp_path):
        data = prepared(tmp_path, write(tmp_path / "a.jsonl", self.ROWS), cleaning=[])
        (each,) = data.report.sets
        assert each.unread_warning == (
            "a.jsonl: nothing reads 'label' (2 rows). To teach one, call a question `instruction`, "
            "what it is about `input`, an answer `output`; or name them under `columns` in "
            "dataset_info.json."
        )

    def test_are_silent_where_there_are_none(self, tmp_path):
        rows = [{"text": f"Sentence {i} of many.", "id": i} for i in range(3)]
        data = prepared(tmp_path, write(tmp_path / "a.jsonl", rows), cleaning=[])
        assert data.report.sets[0].unread_warning == ""

    def test_many_are_told_in_one_line(self, tmp_path):
        row = {"text": "t"} | {f"field {i}": "x" for i in range(5000)}
        data = prepared(tmp_path, write(tmp_path / "a.jsonl", [row]), cleaning=[])
        told = data.report.sets[0].unread_warning
        assert told.count("(1 rows)") == 8
        assert "992 more." in told

    def test_a_report_of_an_older_program_is_read(self, tmp_path):
        data = prepared(tmp_path, write(tmp_path / "a.jsonl", self.ROWS), cleaning=[])
        values = data.report.to_json()
        del values["sets"][0]["unread"]
        assert DataReport.from_json(values).sets[0].unread == {}
