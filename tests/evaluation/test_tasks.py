import json
from dataclasses import replace

import pytest
import torch

from llama_factory.core.errors import DataError
from llama_factory.core.progress import SILENT
from llama_factory.core.types import TEXT, Example, Message, Task
from llama_factory.evaluation import answering
from llama_factory.evaluation.evaluator import evaluate
from llama_factory.evaluation.metrics import METRICS
from llama_factory.evaluation.scoring import score_task
from llama_factory.evaluation.settings import EvaluationSettings
from llama_factory.evaluation.task_rows import TaskRow
from llama_factory.evaluation.tasks import EvalTask, file_name
from llama_factory.model.adapted import adapt
from llama_factory.model.chat.encoding import EncodeOptions
from llama_factory.model.settings import ModelSettings


@pytest.fixture(scope="module")
def model(tiny_model):
    settings = ModelSettings(base_model=str(tiny_model), dtype="float32")
    return adapt(settings, None, options=EncodeOptions(200), seed=0)


class Counter:
    done = 0

    def advance(self, steps=1, note=""):
        self.done += steps


def talk(number, answer="好的"):
    asked = f"第{number}个问题？" * (1 + number % 3)
    return Example((Message("user", asked), Message("assistant", answer)), "g", "f", number)


def text(number):
    words = f"第{number}天，天气很好。 The fox jumps."
    return Example((Message(TEXT, words),), "g", "wiki.txt", number)


def task_of(rows, metrics=("exact_match",)):
    parts = tuple(map(METRICS.parse, metrics))
    return EvalTask("售后 a/b", tuple(map(TaskRow, rows)), parts, 6, 512)


ROWS = [talk(number) for number in range(5)]


def test_rows_that_were_answered_are_not_asked_again(model, tmp_path):
    task, path, bar = task_of(ROWS), tmp_path / "a.jsonl", Counter()
    whole = answering.predict_resumable(model, task, path, model_id="m", bar=bar)
    lines = path.read_bytes().splitlines(keepends=True)
    kept = json.dumps(json.loads(lines[0]) | {"answer": "kept"}, ensure_ascii=False).encode()
    path.write_bytes(kept + b"\n" + lines[1] + lines[2][:30])  # the third was being written
    again = answering.predict_resumable(model, task, path, model_id="m", bar=bar)
    assert [each.answer for each in again] == ["kept", *(each.answer for each in whole[1:])]
    assert bar.done == 2 * len(ROWS)
    written = [json.loads(line)["answer"] for line in path.read_text().splitlines()]
    assert written == [each.answer for each in again]


@pytest.mark.variants
@pytest.mark.parametrize(
    ("changes", "model_id"),
    [({"max_new_tokens": 4}, "m"), ({}, "another"), ({"rows": tuple(map(TaskRow, ROWS[1:]))}, "m")],
)
def test_answers_to_something_else_are_not_kept(model, tmp_path, changes, model_id):
    path = tmp_path / "a.jsonl"
    answering.predict_resumable(model, task_of(ROWS), path, model_id="m", bar=Counter())
    marked = [json.loads(line) | {"answer": "old"} for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(line) + "\n" for line in marked))
    task = replace(task_of(ROWS), **changes)
    found = answering.predict_resumable(model, task, path, model_id=model_id, bar=Counter())
    assert "old" not in [each.answer for each in found]
    assert len(found) == len(task.rows)


def test_rows_are_on_disk_while_others_are_still_asked(model, tmp_path, monkeypatch):
    monkeypatch.setattr(answering, "ROWS_PER_WRITE", 2)
    path = tmp_path / "a.jsonl"

    class Interrupted(Counter):
        def advance(self, steps=1, note=""):
            super().advance(steps)
            if self.done > 3:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        answering.predict_resumable(model, task_of(ROWS), path, model_id="m", bar=Interrupted())
    assert len(path.read_text().splitlines()) == 2


def test_plain_text_is_judged_by_its_likelihood_alone(model):
    tasks = [Task("v0001", "wiki", (text(1), text(2))), Task("v0002", "mixed", (text(3), talk(4)))]
    settings = EvaluationSettings(max_new_tokens=4)
    report, predictions = evaluate(model, tasks, settings, title="t", progress=SILENT)
    assert set(report.tasks["v0001 wiki"].scores) == {"perplexity"}
    assert report.tasks["v0001 wiki"].scores["perplexity"] > 1
    assert set(report.tasks["v0002 mixed"].scores) == {"exact_match", "token_f1", "perplexity"}
    assert [each.answer for each in predictions[:3]] == ["", "", ""]
    assert [bool(each.scores) for each in predictions] == [False, False, False, True]
    assert all(each.tokens > 5 for each in predictions[:3])


@pytest.mark.slow
def test_an_evaluation_of_a_round_goes_on_where_it_was_killed(model, tmp_path):
    tasks = [Task("v0001", "售后", tuple(ROWS))]
    settings = EvaluationSettings(max_new_tokens=4)
    first, _ = evaluate(model, tasks, settings, title="t", progress=SILENT, folder=tmp_path)
    path = tmp_path / file_name("v0001 售后")
    kept = [json.loads(line) | {"answer": "好的"} for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in kept))
    again, _ = evaluate(model, tasks, settings, title="t", progress=SILENT, folder=tmp_path)
    assert first.tasks["v0001 售后"].scores["exact_match"] == 0
    assert again.tasks["v0001 售后"].scores["exact_match"] == 1


@pytest.mark.slow
def test_an_evaluation_never_goes_on_with_other_weights(model, tmp_path):
    tasks = [Task("v0001", "售后", tuple(ROWS))]
    settings = EvaluationSettings(max_new_tokens=4)
    evaluate(model, tasks, settings, title="t", progress=SILENT, folder=tmp_path)
    path = tmp_path / file_name("v0001 售后")
    kept = [json.loads(line) | {"answer": "好的"} for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in kept))
    weight = next(iter(model.trainable().values()))
    with torch.no_grad():
        weight += 0.5
    again, _ = evaluate(model, tasks, settings, title="t", progress=SILENT, folder=tmp_path)
    with torch.no_grad():
        weight -= 0.5
    assert again.tasks["v0001 售后"].scores["exact_match"] == 0


def test_scores_are_computed_anew_when_metrics_change(model):
    task = task_of(ROWS)
    predictions = answering.predict_task(model, task, Counter())
    given = [replace(each, answer="好的 吗") for each in predictions]
    scored = score_task(replace(task, metrics=(METRICS.parse("token_f1"),)), given)
    assert set(scored.result.scores) == {"token_f1", "perplexity"}
    assert scored.predictions[0].scores == {"token_f1": pytest.approx(0.8)}


def test_scores_that_are_no_mean_are_totals_with_an_interval(model):
    rows = [talk(number, "是" if number % 4 else "不是") for number in range(8)]
    task = task_of(rows, metrics=("macro_f1",))
    predictions = [
        replace(each, answer="是") for each in answering.predict_task(model, task, Counter())
    ]
    found = score_task(task, predictions).result.scores["macro_f1"]
    # "是" is right 6 times of 8: F1 12/14; "不是" never: 0
    assert found.value == pytest.approx((12 / 14) / 2)
    assert found.low <= found.value <= found.high


def test_a_metric_that_does_not_fit_is_refused_before_anything_is_asked(model):
    names = "task 'v0001 g': metric 'accuracy' does not fit"
    rows = tuple(talk(number, f"答案{number}") for number in range(60))
    settings = EvaluationSettings(metrics=["accuracy"], max_rows=60)
    with pytest.raises(DataError, match=names):
        evaluate(model, [Task("v0001", "g", rows)], settings, title="t", progress=SILENT)


def test_files_of_tasks_have_names_that_differ():
    names = ["faq", "v0001 faq", "v0001-faq", "售后", "a/b", "../x", "长" * 300]
    made = [file_name(name) for name in names]
    assert len(set(made)) == len(names)
    assert made[0] == "faq.jsonl"
    assert made[3] == "售后.jsonl"
    assert all("/" not in name and len(name.encode()) < 255 for name in made)


def test_a_task_takes_the_first_rows_that_the_settings_allow():
    task = EvalTask.from_task(Task("v0001", "g", tuple(ROWS)), EvaluationSettings(max_rows=2))
    assert [row.example for row in task.rows] == ROWS[:2]
