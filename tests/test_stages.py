"""LLaMA-Factory's stages on its own demonstration sets, told in its own keys."""

import json
from pathlib import Path

import pytest

from llama_factory import run
from llama_factory.core.errors import DataError
from llama_factory.core.files import read_json, read_jsonl
from llama_factory.core.progress import SILENT

SETS = Path(__file__).parents[2] / "shared" / "data" / "llamafactory"

needs_sets = pytest.mark.skipif(not SETS.is_dir(), reason="LLaMA-Factory's demo sets are not here")


@pytest.fixture
def tiny(tiny_model):
    return tiny_model


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LLAMA_FACTORY_CACHE", str(tmp_path / "cache"))


def train(tiny, output, *changes):
    usual = [
        f"model_name_or_path={tiny}",
        f"dataset_dir={SETS}",
        f"output_dir={output}",
        "cutoff_len=256",
        "max_steps=2",
        "max_samples=24",
        "per_device_train_batch_size=2",
        "max_new_tokens=4",
        "report_to=none",
    ]
    return run.train(None, [*usual, *changes], SILENT).results


@pytest.mark.variants
@needs_sets
@pytest.mark.parametrize(
    ("changes", "number"),
    [
        (["stage=pt", "dataset=c4_demo"], None),
        (["stage=sft", "dataset=identity,alpaca_zh_demo"], None),
        (["stage=dpo", "dataset=dpo_zh_demo", "val_size=0.2"], "eval_reward_accuracy"),
        pytest.param(
            ["stage=dpo", "dataset=dpo_en_demo", "pref_loss=orpo", "val_size=0.2"],
            "eval_loss",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["stage=dpo", "dataset=dpo_en_demo", "pref_loss=simpo", "val_size=0.2"],
            "eval_loss",
            marks=pytest.mark.slow,
        ),
        (["stage=kto", "dataset=kto_en_demo", "val_size=0.2"], "eval_reward_chosen"),
        pytest.param(
            ["stage=rm", "dataset=dpo_en_demo", "val_size=0.2"],
            "eval_reward_accuracy",
            marks=pytest.mark.slow,
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_the_demo_sets_train_in_every_stage(tiny, tmp_path, changes, number):
    results = train(tiny, tmp_path / "out", *changes)
    assert results["training"]["steps"] == 2
    assert (tmp_path / "out" / "adapter_model.safetensors").stat().st_size > 1000
    if number:
        assert isinstance(results["training"][number], float)
    assert (tmp_path / "out" / "value_head.safetensors").exists() == ("stage=rm" in changes)


@needs_sets
def test_a_set_of_another_kind_is_told_before_the_model_is_read(tiny, tmp_path):
    with pytest.raises(DataError) as told:
        train(tmp_path / "no-model", tmp_path / "out", "stage=dpo", "dataset=identity")
    assert "stage: dpo cannot be trained on these rows. identity.json:" in str(told.value)
    assert str(told.value).endswith("Such rows fit sft, asft, distill, eaft, pretrain.")


def rows(path, count=6):
    lines = [json.dumps({"instruction": f"问题 {i}?", "output": f"答案 {i}"}) for i in range(count)]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.mark.slow
def test_do_predict_answers_the_test_rows_after_training(tiny, tmp_path):
    named = [
        f"data_path={rows(tmp_path / 'train.jsonl')}",
        f"data.eval_path={rows(tmp_path / 'eval.jsonl', 3)}",
    ]
    train(
        tiny,
        tmp_path / "out",
        *named,
        "do_train=true",
        "do_predict=true",
        "predict_with_generate=true",
    )
    answers = list(read_jsonl(tmp_path / "out" / "generated_predictions.jsonl"))
    assert [row["label"] for row in answers] == [f"答案 {i}" for i in range(3)]
    assert set(answers[0]) == {"prompt", "predict", "label", "is_cut"}
    scores = read_json(tmp_path / "out" / "predict_results.json")
    assert {"predict_bleu-4", "predict_rouge-1", "predict_rouge-2", "predict_rouge-l"} <= set(
        scores
    )


@pytest.mark.slow
def test_do_predict_alone_answers_with_a_saved_adapter(tiny, tmp_path):
    named = [f"data_path={rows(tmp_path / 'train.jsonl')}"]
    train(tiny, tmp_path / "adapter", *named)
    results = train(
        tiny,
        tmp_path / "answers",
        *named,
        f"adapter_name_or_path={tmp_path / 'adapter'}",
        "do_predict=true",
    )
    assert results["num_rows"] == 6
    assert not (tmp_path / "answers" / "adapter_model.safetensors").exists()
    assert len(list(read_jsonl(tmp_path / "answers" / "generated_predictions.jsonl"))) == 6


def test_do_predict_alone_answers_questions_without_an_answer(tiny, tmp_path):
    asked = [{"instruction": f"问题 {i}？", "output": ""} for i in range(2)] + [
        {"instruction": "问？"}
    ]
    path = tmp_path / "asked.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in asked))
    results = train(tiny, tmp_path / "out", f"data.eval_path={path}", "do_predict=true")
    assert (results["num_rows"], results["num_open"], results["intervals"]) == (3, 3, {})
    answers = list(read_jsonl(tmp_path / "out" / "generated_predictions.jsonl"))
    assert [row["label"] for row in answers] == ["", "", ""]
    with pytest.raises(DataError, match=r"no usable row. The first reason: .*asked.jsonl:1"):
        train(tiny, tmp_path / "taught", f"data_path={path}")


@pytest.mark.slow
def test_logs_go_where_log_dir_says(tiny, tmp_path):
    named = [f"data_path={rows(tmp_path / 'train.jsonl')}", f"logging_dir={tmp_path / 'logs'}"]
    train(tiny, tmp_path / "out", *named, "report_to=tensorboard")
    assert list((tmp_path / "logs").glob("events.out.tfevents*"))
    assert not (tmp_path / "out" / "runs").exists()
