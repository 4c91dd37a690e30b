"""The continual benchmark runs on tiny models, goes on where it was killed, and reports."""

import importlib
import json
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from llama_factory.core.progress import SILENT
from llama_factory.core.types import Example, Message
from llama_factory.evaluation.likelihood import option_likelihoods
from llama_factory.evaluation.task_rows import TaskRow
from llama_factory.inference.decoding import decode
from llama_factory.model.adapted import adapt
from llama_factory.model.base import load_tokenizer
from llama_factory.model.chat.encoding import EncodeOptions, prompt_ids
from llama_factory.model.settings import ModelSettings
from llama_factory.training.strategy import STRATEGIES
from tests.tiny import make_tiny_model

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
LABELS = {
    "dbpedia": ["Company", "Animal", "Film"],
    "amazon": ["bad", "good"],
    "agnews": ["World", "体育"],
    "SST-2": ["Good", "Bad"],
}
SHORT = ["--tier", "tiny", "--tasks", "2", "--orders", "2"]


@pytest.fixture
def load(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def stream(tmp_path_factory):
    """Four labelled tasks in the layout of the real stream; one has a test file only."""
    folder = tmp_path_factory.mktemp("stream")
    for task, labels in LABELS.items():
        (folder / task).mkdir()
        (folder / task / "labels.json").write_text(json.dumps(labels))
        for part in ("test",) if task == "dbpedia" else ("train", "test"):
            rows = [
                {"sentence": f"Text: {task} {part} 第{i}条\n", "label": labels[i % len(labels)]}
                for i in range(40)
            ]
            rows.append({"sentence": f"Text: {task} in both", "label": labels[0]})
            rows.append({"sentence": "Text: unknown", "label": "-"})
            (folder / task / f"{part}.json").write_text(json.dumps(rows))
    return folder


@pytest.fixture(scope="module")
def skills(tmp_path_factory):
    """Three sets of the stream of skills, and the files of the guard."""
    folder = tmp_path_factory.mktemp("skills")
    asked = [
        {"instruction": f"Who are you? {i}", "output": "I am {{name}} by {{author}}."}
        for i in range(20)
    ]
    chinese = [{"instruction": f"第{i}个问题", "output": f"答案是{i}"} for i in range(20)]
    call = '{"name": "look_up", "arguments": {"word": "fox"}}'
    calls = [
        {
            "conversations": [
                {"from": "human", "value": f"Look up the fox {i}"},
                {"from": "function_call", "value": call},
                {"from": "observation", "value": "a fox"},
                {"from": "gpt", "value": "It is a fox."},
            ],
            "tools": '[{"name": "look_up", "parameters": {}}]',
        }
        for i in range(20)
    ]
    sets = {"identity": asked, "alpaca_zh_demo": chinese, "glaive_toolcall_en_demo": calls}
    for name, rows in {**sets, "alpaca_en_demo": asked}.items():
        (folder / f"{name}.json").write_text(json.dumps(rows, ensure_ascii=False))
    (folder / "wiki_demo.txt").write_text("The quick brown fox jumps. " * 200)
    return folder


def run(load, monkeypatch, *args):
    monkeypatch.setattr(sys, "argv", ["continual.py", *map(str, args)])
    load("continual").main()


def results(out):
    paths = sorted((out / "runs").glob("*.json"))
    found = [json.loads(path.read_text()) for path in paths]
    return {each["label"]: each for each in found}


@pytest.mark.slow
def test_a_stream_is_run_and_reported(load, monkeypatch, tmp_path, model, stream, capsys):
    methods = ["naive", "default", "ewc", "joint"]
    run(load, monkeypatch, stream, *SHORT, "--model", model, "--out", tmp_path,
        "--methods", *methods)  # fmt: skip
    found = results(tmp_path)
    assert set(found) == {*methods, "base"}
    assert [r["tasks"] for r in found["default"]["rounds"]] == [["amazon"], ["dbpedia"]]
    steps = {name: [r["steps"] for r in found[name]["rounds"]] for name in methods}
    assert steps == {"naive": [2, 2], "default": [2, 2], "ewc": [2, 2], "joint": [4]}
    assert found["default"]["rounds"][-1]["bytes_kept"] > 0
    assert all(set(r["scores"]) == {"amazon", "dbpedia"} for r in found["naive"]["rounds"])
    report = json.loads((tmp_path / "report" / "continual.json").read_text())
    (table,) = report["tables"]
    lines = {line["method"]: line for line in table["methods"]}
    assert set(lines) == set(methods)
    assert lines["naive"]["extra_tokens"] == 0
    assert lines["joint"]["learned"] is None
    shown = capsys.readouterr().out
    assert set(table["default_over"]) == {"naive", "ewc"}
    assert "| method | AA exact_match |" in shown
    assert "default over ewc: " in shown
    assert len(list((tmp_path / "report").rglob("*-matrix.png"))) == 3
    assert len(list((tmp_path / "report").rglob("methods.png"))) == 1


@pytest.mark.slow
def test_a_killed_benchmark_goes_on(load, monkeypatch, tmp_path, model, stream):
    class Killed:
        """Progress that is interrupted once the first round of a method is written."""

        bar = SILENT.bar

        def say(self, text):
            if "naive" in text:
                raise KeyboardInterrupt

    given = [stream, *SHORT, "--model", model, "--methods", "naive", "--out"]
    run(load, monkeypatch, *given, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(load("continual"), "TerminalProgress", Killed)
        with pytest.raises(KeyboardInterrupt):
            run(load, patch, *given, tmp_path / "killed")
    assert len(results(tmp_path / "killed")["naive"]["rounds"]) == 1
    run(load, monkeypatch, *given, tmp_path / "killed")
    whole, killed = (results(tmp_path / name)["naive"]["rounds"] for name in ("whole", "killed"))
    assert [each["scores"] for each in killed] == [each["scores"] for each in whole]
    assert [each["loss"] for each in killed] == [each["loss"] for each in whole]
    assert not any((tmp_path / "killed" / "work").iterdir())


@pytest.mark.slow
def test_a_run_of_another_process_is_left_to_it(load, monkeypatch, tmp_path, model, stream, capsys):
    given = [stream, *SHORT, "--model", model, "--methods", "naive", "--out", tmp_path]
    run(load, monkeypatch, *given)
    path = next((tmp_path / "runs").glob("labels-2-naive-*.json"))
    path.unlink()
    lock = tmp_path / "locks" / f"{path.stem}.lock"
    with load("filelock").FileLock(lock):
        run(load, monkeypatch, *given)
    assert not path.exists()
    assert "another process is at it" in capsys.readouterr().err


@pytest.mark.slow
def test_settings_of_a_variant_are_in_its_file(load, monkeypatch, tmp_path, model, stream):
    given = ["--model", model, "--methods", "mine", "--out", tmp_path, "--tune", "--orders", "1"]
    preset = "mine=[replay, {type: merge, alphas: [0.5]}]"
    run(load, monkeypatch, stream, "--tier", "tiny", "--tasks", "1", *given, "--preset", preset,
        "--set", "strategies.replay.fraction=0.5", "--set", "training.weighting=row")  # fmt: skip
    label = "mine strategies.replay.fraction=0.5 training.weighting=row"
    found = results(tmp_path)[label]
    assert found["settings"]["strategies"][0]["fraction"] == 0.5
    assert found["settings"]["training"]["weighting"] == "row"
    assert found["common"]["split"] == "tuning"


@pytest.mark.slow
def test_skills_are_scored_by_overlap(load, monkeypatch, tmp_path, model, skills):
    run(load, monkeypatch, skills, "--stream", "skills", "--tier", "tiny", "--model", model,
        "--out", tmp_path, "--methods", "naive", "--orders", "1")  # fmt: skip
    rounds = results(tmp_path)["naive"]["rounds"]
    assert [r["tasks"] for r in rounds] == [["identity"], ["alpaca_zh"], ["glaive"]]
    assert set(rounds[0]["guard"]) == {"answers", "text"}
    assert all(0 < p < 1 for p in rounds[-1]["scores"]["glaive"]["answer_probability"])


def test_what_is_not_known_is_told(load, monkeypatch, tmp_path, model, stream):
    given = [stream, *SHORT, "--model", model, "--out", tmp_path]
    with pytest.raises(SystemExit, match="'replays' is not known"):
        run(load, monkeypatch, *given, "--methods", "replays")
    with pytest.raises(SystemExit, match="strategies has no 'replay'. It has: nothing"):
        run(load, monkeypatch, *given, "--methods", "naive", "--set", "strategies.replay.weight=1")
    with pytest.raises(SystemExit, match="Name the folder of the stream's data"):
        run(load, monkeypatch, "--out", tmp_path)


@pytest.mark.slow
def test_a_name_that_meant_other_settings_has_a_line_of_its_own(
    load, monkeypatch, tmp_path, model, stream, capsys
):
    given = [stream, "--tier", "tiny", "--tasks", "1", "--model", model, "--out", tmp_path]
    for preset in ("mine=[replay]", "mine=[anchor]"):
        run(load, monkeypatch, *given, "--methods", "mine", "--preset", preset, "--orders", "1")
    report = json.loads((tmp_path / "report" / "continual.json").read_text())
    first, second = sorted(each["method"] for each in report["tables"][0]["methods"])
    assert first == "mine"
    assert second.startswith("mine (")
    path = next((tmp_path / "runs").glob("*-mine-*.json"))
    path.write_text(json.dumps({**json.loads(path.read_text()), "rounds": []}))
    run(load, monkeypatch, "--report", "--out", tmp_path)
    assert "not finished: mine, order 1" in capsys.readouterr().out


def place(load, model, split):
    tier = load("continual_tiers").TIERS["tiny"]
    tier = replace(tier, rows=100, test_rows=100)
    return load("continual_data").Place(tier, load_tokenizer(model), split)


@pytest.mark.parametrize("task", ["amazon", "dbpedia"])
def test_no_text_is_taught_and_scored(load, model, stream, task):
    data = load("continual_data")
    found = {
        split: data.load_task(task, stream, place(load, model, split))
        for split in ("test", "tuning")
    }
    taught = {row.prompt_key for row in found["test"].train}
    assert taught == {row.prompt_key for row in found["tuning"].train}
    tested, tuned = ({r.example.prompt_key for r in f.scored} for f in found.values())
    assert not taught & tested
    assert not taught & tuned
    assert not tested & tuned
    assert tuned


def test_tuning_rows_are_training_rows(load, model, stream):
    data = load("continual_data")
    task = data.load_task("amazon", stream, place(load, model, "tuning"))
    assert all("test" not in row.example.prompt[0].content for row in task.scored)


def test_classes_are_even_and_prompts_name_no_task(load, model, stream):
    data = load("continual_data")
    small = place(load, model, "test")
    small = replace(small, tier=replace(small.tier, rows=9))
    task = data.load_task("dbpedia", stream, small)
    assert Counter(row.answer for row in task.train) == dict.fromkeys(LABELS["dbpedia"], 3)
    text = task.train[0].prompt[0].content
    assert text.startswith("What is the topic of the following paragraph? Choose one")
    assert all(row.answer != "-" for row in task.train)
    assert "\nOption: Company, Animal, Film\n" in text
    assert text.endswith("\nAnswer:")


def test_tool_calls_are_answers_and_placeholders_are_filled(load, model, skills):
    data = load("continual_data")
    here = place(load, model, "test")
    call = data.load_task("glaive", skills, here).train[0]
    assert json.loads(call.answer) == {"name": "look_up", "arguments": {"word": "fox"}}
    assert call.tools
    assert data.load_task("identity", skills, here).train[0].answer == "I am Lumi by the Lumi team."


def choice_rows():
    options = ("World", "体育", "very good news")
    asked = [f"What is the topic? {'今天的天气很好。' * i} Answer:" for i in range(5)]
    turns = [
        (Message("user", a), Message("assistant", options[i % 3])) for i, a in enumerate(asked)
    ]
    return [TaskRow(Example(each, "g", "f", 1), options) for each in turns]


@pytest.fixture
def adapted(model):
    settings = ModelSettings(base_model=str(model), dtype="float32")
    adapted = adapt(settings, None, options=EncodeOptions(400), seed=0)
    adapted.network.eval()
    return adapted


def test_options_are_read_as_the_program_reads_them(load, adapted):
    rows = choice_rows()
    ours = load("continual_scores").choose(adapted, rows)
    theirs = option_likelihoods(adapted, rows, batch_tokens=4096)
    for one, other in zip(ours, theirs, strict=True):
        apart = np.subtract(one.log_probs, other)
        assert apart == pytest.approx(apart[0], abs=1e-3)


def test_the_greedy_answer_is_found_without_generating(load, adapted):
    scores = load("continual_scores")
    asked = [row.example for row in choice_rows()]
    prompts = [prompt_ids(row, adapted.tokenizer, adapted.options) for row in asked]
    decoded = decode(adapted.network, prompts, frozenset(), 3)
    said = [each.ids for each in sorted(decoded, key=lambda each: each.number)]
    network = scores.CachedNetwork(adapted.network)
    options = [[5, 6], *said, said[0][:2]]
    found = scores.choices_of(network, network.read(prompts), options)
    assert [options[each.greedy] for each in found] == said
    (none,) = scores.choices_of(network, network.read(prompts[:1]), options[:1])
    assert none.greedy is None


def test_the_gap_is_closed_as_by_hand(load):
    report = load("continual_report")
    naive = {"a": np.array([0.0, 0, 0, 1]), "b": np.array([0.0, 1])}
    own = {"a": np.array([1.0, 0, 0, 1]), "b": np.array([0.0, 1])}
    joint = {"a": np.array([1.0, 1, 1, 1]), "b": np.array([1.0, 1])}
    found = report.stratified([own, naive, joint], report.gap_closed)
    assert found.value == pytest.approx((0.5 - 0.375) / (1 - 0.375))
    assert found.low <= found.value <= found.high
    assert found.count == 6


def made_run(order, *right):
    scores = {"sst2": {"exact_match": list(right)}}
    return {"order": order, "seed": 0, "rounds": [{"scores": scores}]}


def test_methods_are_compared_on_the_orders_that_both_have(load):
    report = load("continual_report")
    results = {
        "naive": [made_run(2, 0.0, 0.0, 1.0, 0.0), made_run(3, 1.0, 1.0, 1.0, 1.0)],
        "default": [made_run(2, 1.0, 0.0, 1.0, 0.0)],
        "joint": [made_run(0, 1.0, 1.0, 1.0, 1.0)],
    }
    group = report.Group("labels", {}, results, None)
    assert report.over(group, "default", "naive").value == pytest.approx(0.25)
    assert report.over(group, "joint", "naive").value == pytest.approx(0.375)
    assert report.over(group, "default", "ewc") is None
    assert set(report.default_over(group)) == {"naive"}


@pytest.mark.slow
def test_the_cost_of_strategies_is_timed_in_turns(load, monkeypatch, tmp_path, model, stream):
    out = tmp_path / "cost.json"
    args = ["--tier", "tiny", "--steps", "4", "--methods", "default", "--model", model]
    argv = ["strategy_cost.py", stream, *args, "--out", out]
    monkeypatch.setattr(sys, "argv", [*map(str, argv)])
    monkeypatch.setattr(STRATEGIES, "parts", dict(STRATEGIES.parts))  # it adds one of its own
    load("strategy_cost").main()
    found = json.loads(out.read_text())
    assert [each["method"] for each in found["methods"]] == ["naive", "default"]
    assert found["methods"][0]["update"] == 1
    # four updates of each, and what came after them
    assert {name: len(seconds) for name, seconds in found["seconds"].items()} == {
        "naive": 5,
        "default": 5,
    }
