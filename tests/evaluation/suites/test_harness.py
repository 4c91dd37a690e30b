"""The harness: samples that people can read, runs that go on, nothing fetched.

Most tests need no lm-eval: a stand-in with the few names that the suite calls asks a task of three
rows. The last ones run the library itself, where it is installed.
"""

import importlib.machinery
import json
import socket
import sys
import tomllib
import types
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from llama_factory.core.errors import ConfigError
from llama_factory.core.progress import SILENT
from llama_factory.evaluation.settings import EvaluationSettings
from llama_factory.evaluation.suites import Bench
from llama_factory.evaluation.suites.harness import (
    MAX_CHARACTERS,
    Harness,
    _digest,
    _manager,
    _result,
    sample_to_json,
)
from llama_factory.model.adapted import adapt
from llama_factory.model.chat.encoding import EncodeOptions
from llama_factory.model.settings import ModelSettings

ROWS = [{"question": f"The sky in {place} is", "answer": 0} for place in ("Oslo", "Rome", "Xi'an")]


class StandInTask:
    """A multiple-choice task as the suite sees it."""

    def __init__(self, name, rows=ROWS):
        self.task_name, self.eval_docs = name, rows
        self.config = {"doc_to_choice": ["blue", "green"]}
        self.seed = None

    def get_config(self, name):
        return self.config.get(name)

    def set_config(self, name, value):
        self.config[name] = value

    def dump_config(self):
        return {"task": self.task_name, "show": self.get_config, **self.config}

    def set_fewshot_seed(self, seed):
        self.seed = seed

    def doc_to_choice(self, row):
        return self.config["doc_to_choice"]


class StandIn:
    """The part of lm-eval that the suite calls; `asked` tells which tasks a model was asked."""

    def __init__(self):
        self.asked, self.rows, self.fails = [], ROWS, None

    def install(self, monkeypatch):
        made = {
            "lm_eval": {"evaluate": self.evaluate, "__version__": "0.4.13"},
            "lm_eval.tasks": {"TaskManager": lambda include_path: self},
            "lm_eval.models": {},
            "lm_eval.models.huggingface": {"HFLM": lambda **settings: settings},
        }
        for name, content in made.items():
            module = types.ModuleType(name)
            module.__spec__ = importlib.machinery.ModuleSpec(name, None)
            vars(module).update(content)
            monkeypatch.setitem(sys.modules, name, module)

    all_tasks = ("sky", "sea", "colours")

    def load(self, names):
        leaves = ["sky", "sea"] if names == ["colours"] else names
        if self.fails == "load":
            socket.create_connection(("data.example.com", 80))
        return {"tasks": {name: StandInTask(name, self.rows) for name in leaves}}

    def evaluate(self, model, tasks, limit):
        ((name, task),) = tasks["tasks"].items()
        if self.fails == name:
            raise KeyboardInterrupt
        assert task.get_config("num_fewshot") == 0
        assert task.seed == 1234
        self.asked.append(name)
        rows = task.eval_docs[:limit]
        return {
            "samples": {name: [sample(row, number) for number, row in enumerate(rows)]},
            "results": {name: {"alias": name, "acc,none": 1.0, "acc_stderr,none": np.float64(0)}},
            "n-samples": {name: {"original": len(task.eval_docs), "effective": len(rows)}},
        }


def sample(row, number):
    return {
        "doc_id": number,
        "doc": row,
        "target": row["answer"],
        "arguments": [(row["question"], " blue"), (row["question"], " green")],
        "filtered_resps": [(-1.0, True), (-2.0, False)],
        "filter": "none",
        "metrics": ["acc"],
        "doc_hash": f"hash {number}",
        "acc": 1.0,
    }


@pytest.fixture
def library(monkeypatch):
    stand_in = StandIn()
    stand_in.install(monkeypatch)
    _manager.cache_clear()
    yield stand_in
    _manager.cache_clear()


def bench(folder, model=None, model_id="m"):
    model = model or SimpleNamespace(network=None, tokenizer=None)
    return Bench(model, model_id, (), EvaluationSettings(), folder, SILENT)


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_row_is_kept_with_prompt_expected_answer_and_score(library, tmp_path):
    (found,) = Harness(tasks=["sky"], number=2).measure(bench(tmp_path))
    assert (found.task, found.count) == ("sky", 2)
    assert (found.scores["acc"].value, found.scores["acc"].low) == (1.0, 1.0)
    assert lines(tmp_path / "harness/sky.jsonl") == [
        {
            "task": "sky",
            "row": number,
            "prompt": ROWS[number]["question"],
            "expected": "blue",
            "answer": "blue",
            "filter": "none",
            "scores": {"acc": 1.0},
            "key": f"hash {number}",
        }
        for number in range(2)
    ]


def test_a_stopped_run_goes_on_with_the_task_it_was_stopped_in(library, tmp_path):
    suite = Harness(tasks=["colours"])
    library.fails = "sea"
    with pytest.raises(KeyboardInterrupt):
        suite.measure(bench(tmp_path))
    assert library.asked == ["sky"]
    library.fails = None
    resumed = suite.measure(bench(tmp_path))
    assert library.asked == ["sky", "sea"]
    assert resumed == suite.measure(bench(tmp_path / "uninterrupted"))
    assert [each.task for each in resumed] == ["sky", "sea"]


@pytest.mark.parametrize("damage", ["", '{"record": {', "[]"])
def test_a_task_whose_result_is_damaged_is_asked_again(library, tmp_path, damage):
    suite = Harness(tasks=["sky"])
    suite.measure(bench(tmp_path))
    (tmp_path / "harness/sky.result.json").write_text(damage)
    suite.measure(bench(tmp_path))
    assert library.asked == ["sky", "sky"]


def test_a_task_is_asked_again_when_what_its_result_depends_on_has_changed(library, tmp_path):
    suite = Harness(tasks=["sky"])
    suite.measure(bench(tmp_path))
    suite.measure(bench(tmp_path, model_id="another"))
    assert library.asked == ["sky"] * 2
    library.rows = ROWS[:2]
    (found,) = suite.measure(bench(tmp_path, model_id="another"))
    assert library.asked == ["sky"] * 3
    assert found.count == 2
    assert len(lines(tmp_path / "harness/sky.jsonl")) == 2
    Harness(tasks=["sky"], number=2).measure(bench(tmp_path, model_id="another"))
    assert library.asked == ["sky"] * 3  # the same rows as all of them
    Harness(tasks=["sky"], number=1).measure(bench(tmp_path, model_id="another"))
    assert library.asked == ["sky"] * 4


def test_functions_in_a_tasks_settings_are_the_same_in_every_process():
    ours, another = [{"show": StandInTask(name).get_config} for name in "ab"]
    assert _digest([ours]) == _digest([another])
    assert _digest([{"show": 1}]) != _digest([{"show": 2}])


def test_a_task_that_would_be_fetched_is_refused_before_a_model_is_loaded(library, monkeypatch):
    reached = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *names: reached.append(names))
    library.fails = "load"
    with pytest.raises(ConfigError) as error:
        Harness(tasks=["sky"]).check(())
    assert str(error.value) == (
        "suite 'harness': task 'sky' cannot be run with what is on this machine (ConnectionError: "
        "data.example.com was to be reached over the network, which is switched off here). "
        "Nothing is fetched here: `lm_eval --model dummy --tasks sky --limit 1` fetches its data "
        "once and names packages that it needs. Or leave the task out."
    )
    assert not reached


def test_an_unknown_task_is_told_with_the_nearest_one(library):
    with pytest.raises(ConfigError, match="lm-eval has no task 'skye'. Did you mean 'sky'?"):
        Harness(tasks=["skye"]).check(())


def test_a_missing_package_is_told_with_the_extra_that_has_it(monkeypatch):
    monkeypatch.setattr("llama_factory.evaluation.suites.harness.find_spec", lambda name: None)
    with pytest.raises(ConfigError) as error:
        Harness(tasks=["sky", "sea"]).check(())
    assert str(error.value) == (
        "suite 'harness': the tasks sky, sea need the package lm-eval, which is not installed. "
        "Install it with `pip install 'llama-factory-continual[harness]'`, or leave this suite out."
    )


def test_the_extra_that_is_named_exists():
    text = (Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8")
    extras = tomllib.loads(text)["project"]["optional-dependencies"]
    assert [each.split(">=")[0] for each in extras["harness"]] == ["lm-eval"]


def read(arguments, replies, *, target, task=None, **metrics):
    row = {
        "doc_id": 0,
        "doc": {},
        "target": target,
        "arguments": arguments,
        "filtered_resps": replies,
        "filter": "none",
        "metrics": list(metrics),
        "doc_hash": "",
        **metrics,
    }
    found = sample_to_json(task or plain_task(), row)
    return found["prompt"], found["expected"], found["answer"], found["scores"]


def plain_task(options=None, **more):
    return SimpleNamespace(
        task_name="t",
        get_config=lambda name: options,
        doc_to_choice=lambda row: options,
        **more,
    )


def test_a_generated_answer_is_the_text():
    asked = [("What is 2 + 2?", {"until": ["\n"]})]
    assert read(asked, ["4"], target="4", exact_match=1) == (
        "What is 2 + 2?",
        "4",
        "4",
        {"exact_match": 1},
    )
    assert read(asked, [["5", "4"]], target="4")[2] == "5"  # a filter that keeps both of two tries


def test_a_long_prompt_keeps_its_end():
    prompt = read([("x" * 3000 + "Why?", {})], ["so"], target="so")[0]
    assert (len(prompt), prompt[-5:]) == (MAX_CHARACTERS, "xWhy?")


def test_one_continuation_is_the_answer_where_greedy_text_equals_it():
    asked = [("Roses are", " red")]
    assert read(asked, [(-1.0, True)], target=" red")[1:3] == ("red", "red")
    assert read(asked, [(-1.0, False)], target=" red")[1:3] == ("red", "")


def test_plain_text_has_no_answer():
    pair = (np.float64(-12.0), 5)
    found = read([("A whole page.",)], [-12.0], target="A whole page.", word_perplexity=pair)
    assert found == ("A whole page.", "", "", {"word_perplexity": [-12.0, 5]})


def test_options_without_a_prompt_do_not_count():
    asked = [("Sky?", " blue"), ("Sky?", " green"), ("", " blue"), ("", " green")]
    replies = [(-3.0, False), (-2.0, False), (-0.1, True), (-9.0, False)]
    task = plain_task(["blue", "green"])
    assert read(asked, replies, target=0, task=task)[1:3] == ("blue", "green")


def test_several_right_options_are_all_expected():
    asked = [("Sky?", " blue"), ("Sky?", " green"), ("Sky?", " grey")]
    replies = [(-3.0, False), (-2.0, False), (-1.0, False)]
    assert read(asked, replies, target=[0, 2])[1:3] == ("blue, grey", "grey")


def test_options_with_prompts_of_their_own_are_the_answers():
    asked = [("Ann is", " tall."), ("Bob is", " tall.")]
    task = plain_task(["Ann is", "Bob is"], multiple_input=1, doc_to_text=lambda row: 1)
    replies = [(-1.0, False), (-2.0, False)]
    assert read(asked, replies, target="tall.", task=task)[1:3] == ("Bob is", "Ann is")


def test_a_label_is_expected_as_it_is_written():
    asked = [("Sky?", " blue"), ("Sky?", " green")]
    replies = [(-1.0, False), (-2.0, False)]
    found = read(asked, replies, target="green", brier_score=(1, np.array([0.7, 0.3])))
    assert found[1:] == ("green", "blue", {"brier_score": [1, [0.7, 0.3]]})


def test_what_was_kept_reads_as_what_was_measured():
    scores = {"perplexity,none": float("inf"), "acc,none": float("nan"), "acc_stderr,none": "N/A"}
    again = json.loads(json.dumps(scores))
    assert repr(_result("t", again, 3)) == repr(_result("t", scores, 3))


SKY = """\
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
doc_to_text: "{{{{question}}}}"
"""
CHOICE = """\
output_type: multiple_choice
doc_to_choice: [blue, green]
doc_to_target: answer
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_mutual_info, aggregation: mean, higher_is_better: true}
"""
WRITTEN = """\
output_type: generate_until
doc_to_target: "{{['blue', 'green'][answer]}}"
generation_kwargs: {until: ["."], max_gen_toks: 4}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""
PAGE = """\
output_type: loglikelihood_rolling
doc_to_target: "{{question}}"
metric_list: [{metric: word_perplexity}]
"""
GROUP = "group: colours\ntask: [chosen, written, page]\n"


@pytest.fixture
def own_tasks(tmp_path):
    pytest.importorskip("lm_eval")
    rows = tmp_path / "sky.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    for name, rest in (("chosen", CHOICE), ("written", WRITTEN), ("page", PAGE)):
        text = SKY.format(name=name, rows=rows) + rest
        (tmp_path / f"{name}.yaml").write_text(text)
    (tmp_path / "colours.yaml").write_text(GROUP)
    away = SKY.format(name="away", rows="https://data.example.com/a.jsonl") + CHOICE
    (tmp_path / "away.yaml").write_text(away)
    _manager.cache_clear()
    return tmp_path


@pytest.fixture(scope="module")
def model(tiny_model):
    settings = ModelSettings(base_model=str(tiny_model), dtype="float32")
    adapted = adapt(settings, None, options=EncodeOptions(400), seed=0)
    adapted.network.eval()
    return adapted


def test_the_library_itself_is_asked_kept_and_not_asked_again(own_tasks, model, monkeypatch):
    suite = Harness(tasks=["colours"], folder=own_tasks, number=2)
    suite.check(())
    first = suite.measure(bench(own_tasks / "out", model))
    assert [(each.task, each.count) for each in first] == [
        ("chosen", 2),
        ("written", 2),
        ("page", 2),
    ]
    chosen, written, page = (lines(own_tasks / f"out/harness/{each.task}.jsonl") for each in first)
    assert [row["prompt"] for row in chosen] == [row["question"] for row in ROWS[:2]]
    for row in chosen:
        assert row["expected"] == "blue"
        assert row["scores"]["acc"] == (row["answer"] == "blue")
    assert all(row["expected"] == "blue" and row["answer"] for row in written)
    assert first[0].scores["acc"].value == sum(row["scores"]["acc"] for row in chosen) / 2
    nats, words = map(sum, zip(*(row["scores"]["word_perplexity"] for row in page), strict=True))
    assert first[2].scores["word_perplexity"].value == pytest.approx(np.exp(-nats / words))
    monkeypatch.setattr("lm_eval.evaluator.evaluate", pytest.fail)
    _manager.cache_clear()  # as in another process
    assert suite.measure(bench(own_tasks / "out", model)) == first


def test_the_library_itself_fetches_nothing(own_tasks, monkeypatch):
    reached = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *names, **_: reached.append(names))
    with pytest.raises(ConfigError, match="task 'away' cannot be run with what is on this machine"):
        Harness(tasks=["away"], folder=own_tasks).check(())
    assert not reached
