"""Files of multiple-choice questions in the forms in which MMLU, CMMLU and C-Eval are given out."""

import json
import zipfile

import pytest

from llama_factory.core.errors import ConfigError, DataError
from llama_factory.evaluation.choice_files import read_subjects


def write(path, text, encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding=encoding)


def test_files_without_names_of_columns_and_with_splits_in_their_names(tmp_path):
    write(tmp_path / "test/world_history_test.csv", '"1, or\n2?",one,two,"b,b",four,b\n')
    write(tmp_path / "dev/world_history_dev.csv", "Shown?,1,2,3,4,A\nTwice?,1,2,3,4,D\n")
    (subject,) = read_subjects(tmp_path, "test")
    assert (subject.name, subject.title, subject.category) == ("world_history", "world history", "")
    (asked,) = subject.asked
    assert (asked.text, asked.answer, asked.line) == ("1, or\n2?", "B", 2)
    assert asked.options == {"A": "one", "B": "two", "C": "b,b", "D": "four"}
    assert [each.answer for each in subject.shown] == ["A", "D"]


def test_files_with_names_of_columns_in_a_zip_and_what_is_told_of_subjects(tmp_path):
    rows = ",Question,A,B,C,D,Answer\n0,谁？,甲,乙,丙,丁,C\n"
    with zipfile.ZipFile(tmp_path / "cmmlu.zip", "w") as archive:
        archive.writestr("cmmlu/test/law.csv", rows.encode("gb18030"))
        archive.writestr("cmmlu/dev/law.csv", rows)
        archive.writestr("__MACOSX/cmmlu/test/law.csv", b"\xff")
    about = {"law": {"name": "法律", "category": "Social Science"}}
    write(tmp_path / "mapping.json", json.dumps(about))
    (subject,) = read_subjects(tmp_path, "test")
    assert (subject.title, subject.category) == ("法律", "Social Science")
    assert subject.asked[0].text == subject.shown[0].text == "谁？"
    with_more = "id,question,A,B,C,D,answer,explanation\n7,q,a,b,c,d,D,because\n"
    write(tmp_path / "val/law_val.csv", with_more)
    (subject,) = read_subjects(tmp_path, "validation")
    assert (subject.asked[0].text, subject.asked[0].answer) == ("q", "D")


def test_what_cannot_be_asked_is_told_with_its_place(tmp_path):
    with pytest.raises(ConfigError, match="none: there is no such folder"):
        read_subjects(tmp_path / "none", "test")
    with pytest.raises(ConfigError, match=r"no questions of the split 'test' \(test/NAME.csv\)"):
        read_subjects(tmp_path, "test")
    write(tmp_path / "test/law.csv", "q,a,b,c,d,A\nq,a,b,c,d,E\n")
    with pytest.raises(DataError, match=r"law.csv:2: the answer must be one of A, B, C, D; it is"):
        read_subjects(tmp_path, "test")
    write(tmp_path / "test/law.csv", "q,a,b\n")
    with pytest.raises(DataError, match="law.csv:1: a row needs a question, A, B, C, D and the"):
        read_subjects(tmp_path, "test")
    (tmp_path / "bad.zip").write_bytes(b"no")
    with pytest.raises(DataError, match="bad.zip: this ZIP file cannot be read"):
        read_subjects(tmp_path, "test")
    (tmp_path / "bad.zip").unlink()
    write(tmp_path / "test/law.csv", "q,a,b,c,d,A\n")
    write(tmp_path / "mapping.json", "[]")
    with pytest.raises(DataError, match="mapping.json: must hold"):
        read_subjects(tmp_path, "test")
