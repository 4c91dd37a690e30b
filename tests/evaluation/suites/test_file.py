"""Suite files: what they may say, and what a wrong one is told."""

import json
import re
from pathlib import Path

import pytest

from llama_factory.core.errors import ConfigError, DataError
from llama_factory.evaluation.suites import SUITES, choose_suites
from llama_factory.evaluation.suites.file import read_suite
from llama_factory.evaluation.tasks import RowSource, read_task_rows

CHAT = [{"instruction": f"第{i}个问题？", "output": "是" if i % 2 else "不是"} for i in range(8)]
PLAIN = [
    {"question": f"Is {i} odd?", "label": ["no", "yes"][i % 2], "all": ["yes", "no"]}
    for i in range(4)
]


@pytest.fixture
def folder(tmp_path):
    for name, rows in (("chat.jsonl", CHAT), ("plain.jsonl", PLAIN), ("empty.jsonl", [])):
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (tmp_path / name).write_text(lines, encoding="utf-8")
    (tmp_path / "broken.jsonl").write_text('{"nothing": 1}\n')
    (tmp_path / "wiki.txt").write_text("今天的天气很好。\nThe fox jumps.\n", encoding="utf-8")
    return tmp_path


def check(folder, text):
    path = folder / "suite.yaml"
    path.write_text(text, encoding="utf-8")
    SUITES.parse({"type": "file", "path": path}).check(())


def source(prompt="", answer="", options=(), number=200):
    return RowSource(prompt, answer, options, number)


def test_a_task_asks_what_its_rows_ask(folder):
    rows = read_task_rows(folder / "chat.jsonl", source(), task="t")
    assert [row.example.prompt[-1].content for row in rows] == [r["instruction"] for r in CHAT]
    assert [row.expected for row in rows] == [r["output"] for r in CHAT]


def test_a_template_asks_with_the_fields_of_any_row(folder):
    asked = source("{question} ({options})\nAnswer:", options="all")
    rows = read_task_rows(folder / "plain.jsonl", asked, task="t")
    assert rows[1].example.prompt[-1].content == "Is 1 odd? (yes, no)\nAnswer:"
    assert rows[1].expected == "yes"
    assert rows[1].options == ("yes", "no")
    named = read_task_rows(folder / "plain.jsonl", source("{label}", answer="question"), task="t")
    assert named[0].expected == "Is 0 odd?"


def test_of_many_rows_the_same_ones_are_asked_every_time(folder):
    few, more = (
        read_task_rows(folder / "chat.jsonl", source(number=number), task="t") for number in (3, 5)
    )
    assert len(few) == 3
    assert set(few) < set(more)
    lines = [row.example.line for row in more]
    assert lines == sorted(lines)


def test_a_suite_file_may_name_tasks_metrics_noise_and_other_suites(folder):
    path = folder / "suite.yaml"
    path.write_text(
        "tasks:\n"
        "  - {name: 是否, rows: chat.jsonl, options: [是, 不是], noise: [typos, options],\n"
        "     metrics: [accuracy, {type: regex, pattern: ^是}], number: 5, max_new_tokens: 3}\n"
        "suites:\n  - {type: efficiency, new_tokens: 4}\n",
        encoding="utf-8",
    )
    settings = read_suite(path)
    assert settings.tasks[0].metrics[1].pattern == "^是"
    assert settings.suites[0].new_tokens == 4
    choose_suites([str(path)], ())


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("taks: []", "line 1: taks: no such setting. Did you mean 'tasks'?"),
        (
            "tasks:\n  - name: a\n    rows: chat.jsonl\n    metricks: [accuracy]\n",
            "line 4: tasks.0.metricks: no such setting. Did you mean 'metrics'?",
        ),
        (
            "tasks:\n- {name: a, rows: chat.jsonl, metrics: [acuracy]}\n",
            "'acuracy' is not a metric. Did you mean 'accuracy'?",
        ),
        ("tasks:\n- {rows: chat.jsonl}\n", "line 2: tasks.0.name: Field required"),
        (
            "tasks:\n- {name: a, rows: chat.jsonl, noise: [typo]}\n",
            "tasks.0.noise.0: must be 'typos', 'homophones'",
        ),
        ("suites: [efficency]", "'efficency' is not a suite. Did you mean 'efficiency'?"),
        ("suites:\n- {type: efficiency, new_token: 2}\n", "Did you mean 'new_tokens'?"),
        ("{}", "there is no task. List them under `tasks:`."),
        ("tasks: [", "not valid YAML"),
        (
            "tasks:\n- {name: a, rows: chat.jsonl}\n- {name: a, rows: plain.jsonl}\n",
            "two tasks are called 'a'. Give each its own name.",
        ),
        (
            "tasks:\n- {name: a, rows: chats.jsonl}\n",
            "chats.jsonl does not exist. Did you mean 'chat.jsonl'?",
        ),
        (
            "tasks:\n- {name: a, rows: chat.jsonl, answer: output}\n",
            "which only a `prompt` of your own makes use of",
        ),
    ],
)
def test_a_wrong_suite_file_is_told_what_is_wrong(folder, text, told):
    with pytest.raises(ConfigError) as error:
        check(folder, text)
    assert told in str(error.value)


@pytest.mark.parametrize(
    ("task", "told"),
    [
        ("rows: empty.jsonl", "empty.jsonl is empty: it holds no rows."),
        ("rows: broken.jsonl", "broken.jsonl holds no row that can be asked. The first: broken"),
        (
            "rows: wiki.txt, metrics: [exact_match]",
            "metric 'exact_match' does not fit: wiki.txt:1 is plain text",
        ),
        (
            "rows: chat.jsonl, metrics: [label_likelihood]",
            "metric 'label_likelihood' does not fit: chat.jsonl:1 has no options",
        ),
        (
            "rows: chat.jsonl, options: [好, 不是吗]",
            "chat.jsonl:1 expects '不是', which is not among its options (好, 不是吗)."
            " Did you mean '不是吗'? Mend the row, or add the option.",
        ),
        (
            'rows: plain.jsonl, prompt: "{qestion}"',
            "prompt: line 1 has no field 'qestion'. Did you mean 'question'? "
            "Fields: question, label, all.",
        ),
        (
            'rows: plain.jsonl, prompt: "{question}", answer: lable',
            "answer: line 1 has no field 'lable'. Did you mean 'label'?",
        ),
        (
            'rows: plain.jsonl, prompt: "{question}", options: label',
            "plain.jsonl:1: 'label' must be a list of options; it is 'no'.",
        ),
        (
            'rows: broken.jsonl, prompt: "{nothing}"',
            "line 1 has no field with an expected answer among nothing. Name it with `answer:`.",
        ),
    ],
)
def test_rows_that_cannot_be_asked_are_told_before_a_model_is_loaded(folder, task, told):
    with pytest.raises(DataError) as error:
        check(folder, f"tasks:\n- {{name: a, {task}}}\n")
    assert told in str(error.value)
    assert str(error.value).startswith("task 'a': ")


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["canary"], "--suite: there is no suite 'canary'. Did you mean 'canaries'?"),
        (["rounds"], "suite 'rounds': this model was taught no round with held-out rows."),
        (["robustness"], "suite 'robustness': this model was taught no round"),
        (["harness"], "--suite harness: tasks: Field required. Give its settings in a suite file"),
        (["none.yaml"], "none.yaml: this suite file cannot be read"),
    ],
)
def test_suites_that_cannot_be_run_are_told_before_a_model_is_loaded(names, told):
    with pytest.raises(ConfigError) as error:
        choose_suites(names, ())
    assert told in str(error.value)


def test_the_harness_is_asked_for_by_name_of_its_package(monkeypatch):
    monkeypatch.setattr("llama_factory.evaluation.suites.harness.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="hellaswag need the package lm-eval, which is not"):
        SUITES.parse({"type": "harness", "tasks": ["hellaswag"]}).check(())


def test_the_suite_file_of_the_guide_is_valid(tmp_path):
    guide = (Path(__file__).parents[3] / "docs/evaluation.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```yaml\n(.*?)```", guide, flags=re.DOTALL)
    (block,) = (each for each in blocks if "tasks:" in each)
    (tmp_path / "shop.yaml").write_text(block, encoding="utf-8")
    settings = read_suite(tmp_path / "shop.yaml")
    assert settings.tasks[0].options == ["refund", "exchange", "none"]
    assert len(settings.suites) == 2
