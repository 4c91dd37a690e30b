"""`DataAugmenter`: the same kind of thing comes back, with more rows behind those there were."""

import json

import datasets
import pytest

from llama_factory.core.errors import ConfigError, DataError
from llama_factory.data.augment.augmenter import DataAugmenter
from llama_factory.data.augment.typo import Typo

ROWS = [
    {
        "instruction": "How do I quickly repair a large error?",
        "input": "",
        "output": "A large error.",
    },
    {"instruction": "请说明一个非常重要的问题。", "input": "谢谢", "output": "非常重要的问题。"},
    {"instruction": "42", "input": "", "output": "a number"},
]
TALKS = [
    {
        "messages": [
            {"role": "system", "content": "a large error"},
            {"role": "user", "content": "Explain a large error."},
            {"role": "assistant", "content": "a large error"},
        ]
    },
    {"messages": [{"role": "user", "content": "7"}, {"role": "assistant", "content": "large"}]},
]


@pytest.fixture(autouse=True)
def _no_progress_bars():
    datasets.disable_progress_bars()


def plain(rows):
    return [{name: value for name, value in row.items() if name != "augmented_by"} for row in rows]


def test_a_list_comes_back_with_the_originals_first():
    result = DataAugmenter().process(ROWS)
    assert isinstance(result, list)
    assert result[: len(ROWS)] == ROWS
    made = result[len(ROWS) :]
    assert [row["augmented_by"] for row in made] == ["synonym_replacement"] * 2
    assert [row["output"] for row in made] == [row["output"] for row in ROWS[:2]]


def test_the_list_given_stays_as_it_is():
    rows = [dict(row) for row in ROWS]
    DataAugmenter(methods=["typo"]).process(rows)
    assert rows == ROWS


@pytest.mark.parametrize("rows", [ROWS, TALKS], ids=["alpaca", "messages"])
def test_a_dataset_stays_a_dataset_with_its_features(rows):
    data = datasets.Dataset.from_list(rows)
    result = DataAugmenter().process(data)
    assert isinstance(result, datasets.Dataset)
    assert plain(result.to_list()[: len(rows)]) == rows
    assert len(result) > len(rows)
    assert {name: result.features[name] for name in data.features} == dict(data.features)
    assert result.features["augmented_by"].dtype == "string"


@pytest.mark.parametrize("rows", [ROWS, TALKS], ids=["alpaca", "messages"])
def test_a_list_and_a_dataset_give_the_same_rows(rows):
    augmenter = DataAugmenter(methods=["typo", "punctuation"], num_copies=2)
    from_list = augmenter.process(rows)
    from_data = augmenter.process(datasets.Dataset.from_list(rows)).to_list()
    assert plain(from_data) == plain(from_list)


def test_variants_do_not_depend_on_the_order_of_rows():
    def made(rows):
        found = DataAugmenter(methods=["typo"], seed=3).process(rows)
        return sorted(json.dumps(row) for row in found)

    assert made(ROWS) == made(ROWS[::-1])


def test_other_columns_keep_their_types():
    features = datasets.Features(
        {
            "text": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["bad", "good"]),
            "scores": datasets.List(datasets.Value("float32")),
        }
    )
    rows = {"text": ["a terrible movie", "一部精彩的电影"], "label": [0, 1], "scores": [[0.5], []]}
    data = datasets.Dataset.from_dict(rows, features=features)
    result = DataAugmenter(methods=["typo"]).process(data)
    assert result["label"][:] == [0, 1, 0, 1]
    assert result["scores"][:] == [[0.5], [], [0.5], []]
    assert {name: result.features[name] for name in features} == dict(features)


def test_copies_are_made_by_every_method():
    augmenter = DataAugmenter(methods=["typo", {"type": "random_swap", "rate": 0.5}], num_copies=3)
    made = augmenter.process(ROWS[:1])[1:]
    assert [row["augmented_by"] for row in made].count("typo") == 3
    assert len({row["instruction"] for row in made}) == len(made)


def test_methods_may_be_given_themselves():
    result = DataAugmenter(methods=[Typo(rate=0.5)]).process(ROWS[:1])
    assert result[1]["augmented_by"] == "typo"


def test_originals_can_be_left_out():
    result = DataAugmenter(methods=["typo"], keep_original=False).process(ROWS)
    assert [row["augmented_by"] for row in result] == ["typo", "typo"]


def test_a_second_pass_adds_nothing_to_augmented_rows():
    augmenter = DataAugmenter(methods=["typo"], keep_original=False)
    assert augmenter.process(augmenter.process(ROWS)) == []


def test_rate_zero_adds_no_row():
    assert DataAugmenter(methods=[{"type": "typo", "rate": 0}]).process(ROWS) == ROWS
    data = datasets.Dataset.from_list(ROWS)
    result = DataAugmenter(methods=[{"type": "typo", "rate": 0}]).process(data)
    assert plain(result.to_list()) == ROWS


def test_no_rows_stay_no_rows():
    assert DataAugmenter().process([]) == []
    empty = datasets.Dataset.from_list(ROWS).select([])
    assert len(DataAugmenter().process(empty)) == 0


def test_the_dictionary_given_is_used(tmp_path):
    (tmp_path / "s.txt").write_text("repair, xyzzy\n")
    result = DataAugmenter(synonym_dict=str(tmp_path / "s.txt")).process(ROWS)
    assert result[3:] == [
        ROWS[0]
        | {"instruction": "How do I quickly xyzzy a large error?"}
        | {"augmented_by": "synonym_replacement"}
    ]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"methods": ["synonym_replacment"]}, "Did you mean 'synonym_replacement'"),
        (
            {"methods": [{"type": "typo", "rat": 1}]},
            "typo: rat: no such setting. Did you mean 'rate'",
        ),
        ({"methods": [{"type": "typo", "rate": 2}]}, "less than or equal to 1"),
        ({"methods": "typo"}, r"must be a list, as in methods=\[\"typo\"\]"),
        ({"methods": []}, "no augmentation method is named. Known: paraphrase"),
        ({"num_copies": 0}, "num_copies is 0; it must be 1 or more"),
        ({"methods": ["typo"], "synonym_dict": "s.txt"}, "none of the methods reads a dictionary"),
        ({"fields": ["output"]}, "'output' is never changed"),
        ({"fields": "question"}, r"must be a list, as in fields=\['question'\]"),
    ],
)
def test_wrong_options_are_reported(options, told):
    with pytest.raises(ConfigError, match=told):
        DataAugmenter(**options)


def test_a_dictionary_that_is_not_there_is_reported_at_once():
    with pytest.raises(DataError, match=r"no\.txt: cannot be read"):
        DataAugmenter(synonym_dict="no.txt")


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ("train.json", "given a str. It takes a list of dicts"),
        ([1], "row 0 is of type int. Rows must be dicts"),
        ([{"instructon": "a"}], "no prompt to change among the fields instructon"),
        ({"trian": []}, "only the split 'train' is augmented.*Did you mean 'trian'"),
    ],
)
def test_wrong_data_is_reported(data, told):
    with pytest.raises(DataError, match=told):
        DataAugmenter().process(data)


def test_a_field_that_no_row_has_is_reported():
    with pytest.raises(DataError, match="'instruktion'. Did you mean 'instruction'"):
        DataAugmenter(fields=["instruktion"]).process(ROWS)
