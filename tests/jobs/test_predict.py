import json
import math
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace

import pytest

from llama_factory.core.errors import ConfigError, DataError
from llama_factory.core.progress import SILENT
from llama_factory.core.types import TEXT, Example, Message
from llama_factory.evaluation import statistics
from llama_factory.evaluation.answering import answer_rows, greedy_answers
from llama_factory.evaluation.likelihood import perplexity
from llama_factory.evaluation.metrics import METRICS, require_package
from llama_factory.evaluation.metrics.custom import Custom
from llama_factory.evaluation.metrics.exact_match import ExactMatch
from llama_factory.evaluation.metrics.f1 import MacroF1
from llama_factory.evaluation.metrics.perplexity import Perplexity
from llama_factory.evaluation.metrics.termination import Termination
from llama_factory.evaluation.metrics.token_f1 import TokenF1
from llama_factory.evaluation.settings import EvaluationSettings
from llama_factory.jobs import predict as module
from llama_factory.jobs.predict import PredictOptions, predict, usual_metrics
from llama_factory.model.adapted import adapt
from llama_factory.model.chat.encoding import EncodeOptions
from llama_factory.model.settings import ModelSettings
from tests.tiny import make_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = make_tiny_model(tmp_path_factory.mktemp("tiny"))
    settings = ModelSettings(base_model=str(folder), dtype="float32")
    return adapt(settings, None, options=EncodeOptions(200), seed=0)


def row(number, answer="好的"):
    asked = f"第{number}个问题？" * (1 + number % 3)
    return Example((Message("user", asked), Message("assistant", answer)), "g", "f", number)


ROWS = [row(number) for number in range(7)]


METRICS_ASKED = (ExactMatch(), TokenF1())


def run(model, output, rows=ROWS, model_id="m", limit=6, metrics=METRICS_ASKED):
    options = PredictOptions(metrics, limit, model_id)
    return predict(model, rows, output, options=options, progress=SILENT)


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


class Silence:
    def advance(self, steps=1, note=""):
        """Nothing is shown."""


class Interrupted:
    """Progress that ends like Ctrl-C after the fourth row."""

    done = 0

    def bar(self, title, total, done=0):
        return nullcontext(self)

    def advance(self, steps=1, note=""):
        self.done += steps
        if self.done > 4:
            raise KeyboardInterrupt


def test_every_row_is_answered_in_the_order_of_the_file(model, tmp_path):
    report = run(model, tmp_path / "out/p.jsonl")
    written = read(tmp_path / "out/p.jsonl")
    assert [each["label"] for each in written] == ["好的"] * 7
    assert written[2]["prompt"] == (
        "<|im_start|>user\n第2个问题？第2个问题？第2个问题？<|im_end|>\n<|im_start|>assistant\n"
    )
    expected = greedy_answers(model, ROWS, max_new_tokens=6, bar=Silence())
    assert [each["predict"] for each in written] == [each.text for each in expected]
    assert [each["is_cut"] for each in written] == [each.is_cut for each in expected]
    assert report.num_rows == 7
    assert report.num_refused == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["p.jsonl"]


def test_scores_are_means_times_100_with_the_names_people_know(model, tmp_path):
    first = run(model, tmp_path / "first.jsonl")
    given = [each["predict"] for each in read(tmp_path / "first.jsonl")]
    rows = [row(n, given[n] if n < 2 else "不是") for n in range(7)]
    told = run(model, tmp_path / "p.jsonl", rows).to_json()
    right = sum(given[n] == rows[n].answer for n in range(7))
    assert right >= 2
    assert told["predict_exact_match"] == pytest.approx(100 * right / 7, abs=1e-4)
    assert told["num_rows"] == 7
    assert told["predict_runtime"] > 0
    assert told["predict_samples_per_second"] > 0
    assert first.scores["exact_match"] == 0


def test_a_killed_run_goes_on_with_what_it_has_answered(model, tmp_path):
    run(model, tmp_path / "whole.jsonl")
    whole = (tmp_path / "whole.jsonl").read_bytes()
    lines = whole.splitlines(keepends=True)
    changed = json.dumps(json.loads(lines[1]) | {"predict": "kept"}, ensure_ascii=False)
    kept = lines[0] + changed.encode() + b"\n"
    part = tmp_path / "p.jsonl.part"
    part.write_bytes(kept + lines[2][:20])  # the third line was being written
    asked = {"model": "m", "max_new_tokens": 6, "prompts": repr(model.options)}
    (tmp_path / "p.jsonl.part.json").write_text(json.dumps(asked))
    run(model, tmp_path / "p.jsonl")
    assert (tmp_path / "p.jsonl").read_bytes() == kept + b"".join(lines[2:])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.jsonl", "whole.jsonl"]


@pytest.mark.slow
def test_rows_are_on_disk_while_the_others_are_still_answered(model, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "ROWS_AT_A_TIME", 2)
    options = PredictOptions([ExactMatch()], 6, "m")
    with pytest.raises(KeyboardInterrupt):
        predict(model, ROWS, tmp_path / "p.jsonl", options=options, progress=Interrupted())
    assert not (tmp_path / "p.jsonl").exists()
    assert len(read(tmp_path / "p.jsonl.part")) == 4
    run(model, tmp_path / "p.jsonl")
    run(model, tmp_path / "whole.jsonl")
    assert read(tmp_path / "p.jsonl") == read(tmp_path / "whole.jsonl")


@pytest.mark.parametrize("change", [{"model_id": "another"}, {"limit": 3}])
def test_answers_of_another_model_or_limit_are_not_kept(model, tmp_path, change):
    run(model, tmp_path / "whole.jsonl", **change)
    line = {"prompt": read(tmp_path / "whole.jsonl")[0]["prompt"], "predict": "x", "label": "好的"}
    (tmp_path / "p.jsonl.part").write_text(json.dumps(line) + "\n")
    asked = {"model": "m", "max_new_tokens": 6, "prompts": repr(model.options)}
    (tmp_path / "p.jsonl.part.json").write_text(json.dumps(asked))
    run(model, tmp_path / "p.jsonl", **change)
    assert read(tmp_path / "p.jsonl") == read(tmp_path / "whole.jsonl")


def test_answers_to_other_rows_are_not_kept(model, tmp_path):
    run(model, tmp_path / "whole.jsonl")
    (tmp_path / "p.jsonl.part").write_text(json.dumps({"prompt": "x", "predict": "y"}) + "\n[]\n")
    asked = {"model": "m", "max_new_tokens": 6, "prompts": repr(model.options)}
    (tmp_path / "p.jsonl.part.json").write_text(json.dumps(asked))
    run(model, tmp_path / "p.jsonl")
    assert read(tmp_path / "p.jsonl") == read(tmp_path / "whole.jsonl")


def test_a_row_that_the_template_refuses_gets_an_empty_answer(tmp_path):
    folder = make_tiny_model(tmp_path / "m")
    settings = ModelSettings(base_model=str(folder), dtype="float32")
    strict = adapt(settings, None, options=EncodeOptions(200), seed=0)
    strict.tokenizer.chat_template = (
        "{% if messages[0].content == 'no' %}{{ raise_exception('not this') }}{% endif %}"
        + strict.tokenizer.chat_template
    )
    refused = Example((Message("user", "no"), Message("assistant", "a")), "g", "f", 1)
    report = run(strict, tmp_path / "p.jsonl", [refused, *ROWS])
    assert read(tmp_path / "p.jsonl")[0] == {
        "prompt": "",
        "predict": "",
        "label": "a",
        "is_cut": False,
    }
    assert (report.num_rows, report.num_refused) == (8, 1)


def test_a_file_that_exists_is_left_alone(model, tmp_path):
    (tmp_path / "p.jsonl").write_text("mine")
    with pytest.raises(DataError, match=r"p\.jsonl exists already. Give a new file's name"):
        run(model, tmp_path / "p.jsonl")
    assert (tmp_path / "p.jsonl").read_text() == "mine"


def test_nothing_to_answer_is_told(model, tmp_path):
    with pytest.raises(DataError, match="there is no row to answer"):
        run(model, tmp_path / "p.jsonl", [])


def nothing_is_written(folder):
    return not any(folder.iterdir())


def test_a_metric_that_does_not_fit_the_rows_is_told_before_any_answer(model, tmp_path):
    rows = [row(number, f"答案{number}") for number in range(21)]
    with pytest.raises(DataError) as told:
        run(model, tmp_path / "new" / "p.jsonl", rows, metrics=[ExactMatch(), MacroF1()])
    assert str(told.value) == (
        "task 'predict': metric 'macro_f1' does not fit: its 21 rows have 21 different expected "
        "answers, so these are no labels. Give the rows options, or use exact_match."
    )
    assert nothing_is_written(tmp_path)


def test_plain_text_has_no_answer_to_judge(model, tmp_path):
    text = Example((Message(TEXT, "从前有座山。"),), "g", "book.txt", 3)
    with pytest.raises(DataError, match=r"'exact_match' does not fit: book\.txt:3 is plain text"):
        run(model, tmp_path / "p.jsonl", [ROWS[0], text])
    assert nothing_is_written(tmp_path)


def test_options_that_no_row_has_are_told_before_any_answer(model, tmp_path):
    metrics = [METRICS.parse("label_likelihood")]
    with pytest.raises(DataError, match="'label_likelihood' does not fit: f:0 has no options"):
        run(model, tmp_path / "p.jsonl", metrics=metrics)
    assert nothing_is_written(tmp_path)


def test_a_metric_that_looks_into_the_model_is_measured(model, tmp_path):
    report = run(model, tmp_path / "p.jsonl", metrics=[Perplexity()])
    expected = perplexity(model, ROWS, batch_tokens=512)
    assert report.scores["perplexity"] == pytest.approx(expected, rel=1e-5)
    assert report.estimates["perplexity"].count == 7


def test_termination_is_the_share_of_answers_that_ended_by_themselves(model, tmp_path):
    ended = next(
        answer.text for _, answer in answer_rows(model, ROWS[:1], max_new_tokens=1) if answer.text
    )
    settings = model.network.generation_config
    declared = settings.eos_token_id
    assert run(model, tmp_path / "cut.jsonl", metrics=[Termination()]).scores["termination"] == 0
    try:
        ids = model.tokenizer(ended, add_special_tokens=False)["input_ids"]
        settings.eos_token_id = [declared, *ids]
        report = run(model, tmp_path / "p.jsonl", metrics=[Termination()])
    finally:
        settings.eos_token_id = declared
    cut = [each["is_cut"] for each in read(tmp_path / "p.jsonl")]
    assert cut[0] is False
    assert report.scores["termination"] == pytest.approx(100 * cut.count(False) / 7, abs=1e-4)


def test_answers_that_do_not_say_whether_they_were_cut_are_not_kept(model, tmp_path):
    run(model, tmp_path / "whole.jsonl")
    line = read(tmp_path / "whole.jsonl")[0] | {"predict": "kept?"}
    del line["is_cut"]
    (tmp_path / "p.jsonl.part").write_text(json.dumps(line, ensure_ascii=False) + "\n", "utf-8")
    asked = {"model": "m", "max_new_tokens": 6, "prompts": repr(model.options)}
    (tmp_path / "p.jsonl.part.json").write_text(json.dumps(asked))
    run(model, tmp_path / "p.jsonl")
    assert read(tmp_path / "p.jsonl") == read(tmp_path / "whole.jsonl")


def test_a_judge_that_fails_does_not_cost_the_answers(model, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def score(expected, answer):\n    return 1 / 0\n", "utf-8")
    with pytest.raises(ConfigError, match="ZeroDivisionError"):
        run(model, tmp_path / "p.jsonl", metrics=[Custom(path=file)])
    kept = (tmp_path / "p.jsonl.part").read_bytes()
    assert kept.count(b"\n") == 7
    assert run(model, tmp_path / "p.jsonl").num_rows == 7
    assert (tmp_path / "p.jsonl").read_bytes() == kept


def test_every_score_has_its_count_and_interval(model, tmp_path):
    first = run(model, tmp_path / "first.jsonl")
    given = [each["predict"] for each in read(tmp_path / "first.jsonl")]
    rows = [row(n, given[n] if n < 2 else "不是") for n in range(7)]
    report = run(model, tmp_path / "p.jsonl", rows)
    found = report.estimates["exact_match"]
    right = round(7 * found.value / 100)
    wilson = statistics.proportion(right, 7)
    assert (found.low, found.high) == (
        pytest.approx(100 * wilson.low, abs=1e-4),
        pytest.approx(100 * wilson.high, abs=1e-4),
    )
    assert first.estimates["exact_match"].high == pytest.approx(
        100 * statistics.proportion(0, 7).high, abs=1e-4
    )
    told = report.to_json()
    assert told["intervals"]["predict_exact_match"] == found.to_json()
    assert told["intervals"]["predict_token_f1"]["count"] == 7
    assert told["predict_exact_match"] == found.value


def test_a_score_without_a_judged_row_is_null(model, tmp_path):
    small = replace(model, options=EncodeOptions(12))
    long = Example((Message("user", "什么？" * 50), Message("assistant", "a")), "g", "f", 1)
    report = run(small, tmp_path / "p.jsonl", [long], metrics=[Perplexity()])
    assert math.isnan(report.scores["perplexity"])
    assert report.to_json()["predict_perplexity"] is None


def test_a_metric_without_its_library_is_told_before_anything_is_answered():
    with pytest.raises(ConfigError, match=r"'rouge-1' needs the package no-such-thing, .* `pip"):
        require_package("no_such_thing", metric="rouge-1")


def test_bleu_and_rouge_come_with_the_metrics_of_the_settings():
    named = [METRICS.name_of(each) for each in usual_metrics(EvaluationSettings())]
    assert named == ["exact_match", "token_f1", "bleu-4", "rouge-1", "rouge-2", "rouge-l"]
    chosen = EvaluationSettings(metrics=["rouge-l"])
    named = [METRICS.name_of(each) for each in usual_metrics(chosen)]
    assert named == ["rouge-l", "bleu-4", "rouge-1", "rouge-2"]


@pytest.mark.slow
def test_metrics_load_no_library_until_they_score():
    code = "import sys; from llama_factory.evaluation.settings import EvaluationSettings as E\n"
    code += "E(metrics=['bleu-4', 'rouge-l'])\n"
    code += "print({'sacrebleu', 'nltk', 'jieba', 'torch'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout == "set()\n", run.stderr


def test_rows_that_expect_no_answer_are_answered_and_not_judged(model, tmp_path):
    mixed = [row(0), row(1, ""), row(2), row(3, "")]
    report = run(model, tmp_path / "p.jsonl", mixed)
    alone = run(model, tmp_path / "q.jsonl", [row(0), row(2)])
    assert (report.num_rows, report.num_open) == (4, 2)
    assert report.estimates == alone.estimates
    assert [each["label"] for each in read(tmp_path / "p.jsonl")] == ["好的", "", "好的", ""]
    assert all(each["predict"] for each in read(tmp_path / "p.jsonl"))


def test_without_any_expected_answer_there_are_no_scores(model, tmp_path):
    # Macro F1 would refuse such rows, and perplexity could not be measured on them
    metrics = (*METRICS_ASKED, MacroF1(), Perplexity())
    report = run(model, tmp_path / "p.jsonl", [row(1, ""), row(2, "")], metrics=metrics)
    assert (report.num_open, report.estimates) == (2, {})
    values = report.to_json()
    assert (values["num_rows"], values["num_open"], values["intervals"]) == (2, 2, {})
    assert not any(name.startswith("predict_e") for name in values)
