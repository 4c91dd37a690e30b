"""Sets of the `datasets` library come back as they were, with rows added."""

import json

import datasets
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, IterableDataset, Value

from llama_factory.core.errors import DataError
from llama_factory.data_utils import DataAugmenter

ROWS = [
    {"instruction": "Explain an important error.", "input": "", "output": "An important error."},
    {"instruction": "请说明", "input": "一个非常重要的问题", "output": "非常重要的问题"},
    {"instruction": "zzz", "input": "", "output": "nothing to replace"},
]
TALKS = [
    {
        "conversations": [
            {"from": "human", "value": "Explain an important error."},
            {"from": "gpt", "value": "Important error."},
        ],
        "chosen": {"from": "gpt", "value": "important"},
        "rejected": {"from": "gpt", "value": "error"},
    }
]


@pytest.fixture(autouse=True)
def _quiet(tmp_path, monkeypatch):
    datasets.disable_progress_bars()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def from_file(tmp_path, rows, **options):
    path = tmp_path / "train.json"
    path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    cache = str(tmp_path / "cache")
    return datasets.load_dataset("json", data_files=str(path), cache_dir=cache, **options)


def unmarked(dataset):
    return dataset.filter(lambda row: row["augmented_by"] == "").remove_columns("augmented_by")


@pytest.mark.parametrize("rows", [ROWS, TALKS], ids=["alpaca", "sharegpt pairs"])
def test_a_dataset_dict_stays_one_and_its_originals_come_first(tmp_path, rows):
    data = from_file(tmp_path, rows)
    made = DataAugmenter(methods=["synonym_replacement"]).process(data)
    assert type(made) is DatasetDict
    train = made["train"]
    assert train.features == Features({**data["train"].features, "augmented_by": Value("string")})
    assert train.remove_columns("augmented_by").select(range(len(rows))).to_list() == rows
    marks = train["augmented_by"][:]
    assert marks[: len(rows)] == [""] * len(rows)
    assert set(marks[len(rows) :]) == {"synonym_replacement"}


def test_a_table_gives_the_same_rows_as_a_list(tmp_path):
    augmenter = DataAugmenter(["typo", "synonym_replacement"], num_copies=2, seed=3)
    from_table = augmenter.process(from_file(tmp_path, ROWS)["train"]).to_list()
    from_list = [
        {**row, "augmented_by": row.get("augmented_by", "")} for row in augmenter.process(ROWS)
    ]
    assert from_table == from_list


def test_only_the_train_split_is_augmented():
    rows = Dataset.from_list(ROWS)
    data = DatasetDict(train=rows, validation=rows, test=rows)
    made = DataAugmenter(["typo"]).process(data)
    assert made["validation"] is rows
    assert made["test"] is rows
    assert len(made["train"]) == 6


def test_splits_without_one_for_training_are_reported():
    data = DatasetDict(train_sft=Dataset.from_list(ROWS))
    with pytest.raises(DataError) as told:
        DataAugmenter(["typo"]).process(data)
    assert "only the split 'train' is augmented, and there is none among train_sft." in str(
        told.value
    )
    assert "process(data['train_sft'])" in str(told.value)


def test_a_stream_stays_one_and_is_read_only_once(tmp_path):
    read = []

    def source():
        for row in ROWS:
            read.append(row)
            yield row

    made = DataAugmenter(["typo"]).process(IterableDataset.from_generator(source))
    assert isinstance(made, IterableDataset)
    assert read == []
    marks = [row["augmented_by"] for row in made]
    assert marks == ["", "typo"] * 3
    assert len(read) == 3
    stream = DataAugmenter(["typo"]).process(from_file(tmp_path, ROWS, streaming=True))
    assert type(stream) is datasets.IterableDatasetDict
    assert [row["augmented_by"] for row in stream["train"]] == marks


def test_pictures_and_classes_are_copied_as_they_are_stored(tmp_path):
    from PIL import Image as Picture

    path = tmp_path / "a.png"
    Picture.new("RGB", (3, 3), (1, 2, 3)).save(path)
    features = Features(
        {"image": Image(), "prompt": Value("string"), "label": ClassLabel(names=["no", "yes"])}
    )
    rows = {"image": [str(path)] * 2, "prompt": ["what is it", "这是什么"], "label": [0, 1]}
    made = DataAugmenter(["typo"]).process(Dataset.from_dict(rows, features=features))
    assert made.features == Features({**features, "augmented_by": Value("string")})
    assert made["label"][:] == [0, 1, 0, 1]
    stored = made.cast_column("image", Image(decode=False))["image"][:]
    assert stored == [{"bytes": None, "path": str(path)}] * 4


def test_messages_of_mixed_shapes_are_changed_and_kept_as_json(tmp_path):
    call = {"function": {"name": "f", "arguments": {"a": 1}}}
    rows = [
        {"messages": [{"role": "user", "content": "hello there"}]},
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "hello there"}]},
                {"role": "assistant", "content": "hello there", "tool_calls": [call]},
            ]
        },
    ]
    data = from_file(tmp_path, rows)["train"]
    made = DataAugmenter(["typo"]).process(data)
    assert {**made.features, "messages": None} == {
        "messages": None,
        "augmented_by": Value("string"),
    }
    assert made.features["messages"] == data.features["messages"]
    assert made[2]["messages"][0]["content"] != "hello there"
    assert made[3]["messages"][0]["content"][0]["text"] != "hello there"
    assert made[3]["messages"][1] == rows[1]["messages"][1]


def test_a_set_without_rows_has_the_column_all_the_same():
    features = Features({"instruction": Value("string"), "output": Value("string")})
    none = Dataset.from_dict({"instruction": [], "output": []}, features=features)
    made = DataAugmenter(["typo"]).process(none)
    assert (len(made), made.features["augmented_by"]) == (0, Value("string"))


def test_augmented_rows_are_not_augmented_again():
    once = DataAugmenter(["typo"]).process(Dataset.from_list(ROWS))
    twice = DataAugmenter(["random_swap", "punctuation"]).process(once)
    assert twice.select(range(6)).to_list() == once.to_list()
    assert twice["augmented_by"][:].count("typo") == 3
    assert len(twice) > 6


def test_without_originals_there_are_only_new_rows():
    made = DataAugmenter(["typo"], keep_original=False).process(Dataset.from_list(ROWS))
    assert made["augmented_by"][:] == ["typo"] * 3


def test_a_changed_dictionary_is_not_answered_from_the_cache(tmp_path):
    data = from_file(tmp_path, [{"prompt": "a big dog", "completion": "big"}])["train"]
    words = tmp_path / "words.txt"

    def prompts():
        made = DataAugmenter(["synonym_replacement"], words, keep_original=False).process(data)
        return made["prompt"][:]

    words.write_text("big, large\n")
    assert prompts() == ["a large dog"]
    words.write_text("big, giant\n")
    assert prompts() == ["a giant dog"]


def test_a_format_is_kept():
    made = DataAugmenter(["typo"]).process(Dataset.from_list(ROWS).with_format("numpy"))
    assert made.format["type"] == "numpy"


def test_unknown_fields_and_sets_without_prompts_are_reported():
    data = Dataset.from_list([{"body": "text", "sort": "a"}])
    with pytest.raises(DataError, match="no row has the field 'bodi'. Did you mean 'body'?"):
        DataAugmenter(["typo"], fields=["bodi"]).process(data)
    with pytest.raises(DataError, match="no prompt to change among the fields body, sort. Name"):
        DataAugmenter(["typo"]).process(data)
    made = DataAugmenter(["typo"], fields=["body"]).process(data)
    assert made[1]["body"] != "text"
