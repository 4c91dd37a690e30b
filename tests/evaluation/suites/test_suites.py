"""Every suite measures a model; results have counts, and intervals where rows are scored."""

import json
import math
from dataclasses import replace

import pytest
import torch

from llama_factory.core.errors import ConfigError
from llama_factory.core.progress import SILENT
from llama_factory.core.types import Example, Message, Task
from llama_factory.evaluation.drift import mean_divergence
from llama_factory.evaluation.evaluator import BUILT_IN_GUARD, load_guard
from llama_factory.evaluation.likelihood import drift_from_base, perplexity
from llama_factory.evaluation.settings import EvaluationSettings
from llama_factory.evaluation.suites import SUITES, Bench, choose_suites, run_suites
from llama_factory.evaluation.suites.canaries import check_answers, is_loop
from llama_factory.evaluation.suites.harness import Harness, _result
from llama_factory.evaluation.suites.multiple_choice import MultipleChoice
from llama_factory.evaluation.task_rows import Prediction
from llama_factory.model.adapted import adapt
from llama_factory.model.chat.encoding import EncodeOptions
from llama_factory.model.settings import ModelSettings


def row(number, answer):
    asked = f"第{number}个商品好吗？\n选项：好、不好"
    return Example((Message("user", asked), Message("assistant", answer)), "g", "f", number)


TASKS = (Task("v0001", "评价", tuple(row(n, "好" if n % 2 else "不好") for n in range(4))),)
SETTINGS = EvaluationSettings(max_new_tokens=4)


@pytest.fixture(scope="module")
def model(tiny_model):
    settings = ModelSettings(base_model=str(tiny_model), dtype="float32")
    adapted = adapt(settings, None, options=EncodeOptions(400), seed=0)
    with torch.no_grad():
        for name, weight in adapted.network.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.05, generator=torch.Generator().manual_seed(len(name)))
    adapted.network.eval()
    return adapted


def bench(model, folder):
    return Bench(model, "m", TASKS, SETTINGS, folder, SILENT)


def measure(model, folder, name, **settings):
    return SUITES.parse({"type": name, **settings}).measure(bench(model, folder))


def test_rounds_score_the_held_out_rows_of_every_round(model, tmp_path):
    (found,) = measure(model, tmp_path, "rounds")
    assert found.task == "v0001 评价"
    assert found.count == 4
    assert set(found.scores) == {"exact_match", "token_f1", "perplexity"}
    assert all(score.low <= score.value <= score.high for score in found.scores.values())


@pytest.mark.slow
def test_the_guard_tells_perplexity_its_ratio_and_the_divergence(model, tmp_path):
    (found,) = measure(model, tmp_path, "guard")
    rows = load_guard(BUILT_IN_GUARD)
    own = perplexity(model, rows, batch_tokens=2048)
    with model.network.disable_adapter():
        base = perplexity(model, rows, batch_tokens=2048)
    assert found.count == len(rows)
    assert found.scores["perplexity"].value == pytest.approx(own, rel=1e-4)
    assert found.scores["perplexity_ratio"].value == pytest.approx(own / base, rel=1e-4)
    assert found.scores["divergence"].low > 0


def test_multiple_choice_takes_the_likeliest_letter(model, tmp_path):
    for name, answers in (("law", "AB"), ("logic", "C")):
        for split in ("test", "dev"):
            path = tmp_path / "questions" / split / f"{name}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = [f"Which is it {n}?,one,two,three,four,{a}\n" for n, a in enumerate(answers)]
            path.write_text("".join(lines))
    about = {"law": {"name": "law", "category": "Humanities"}}
    (tmp_path / "questions/mapping.json").write_text(json.dumps(about))
    suite = MultipleChoice(folder=tmp_path / "questions", examples=1)
    found = suite.measure(bench(model, tmp_path / "out"))
    assert [(each.task, each.count) for each in found] == [
        ("law", 2),
        ("logic", 1),
        ("Humanities", 2),
        ("all subjects", 3),
    ]
    lines = (tmp_path / "out/multiple_choice/law.jsonl").read_text().splitlines()
    rows = list(map(json.loads, lines))
    beginning = "The following are multiple choice questions (with answers) about law.\n\n"
    asked = "Which is it {}?\nA. one\nB. two\nC. three\nD. four\nAnswer:"
    turns = [Message("user", beginning + asked.format(0)), Message("assistant", "A")]
    turns.append(Message("user", asked.format(1)))
    by_hand = {
        letter: perplexity_of_last(model, [*turns, Message("assistant", letter)])
        for letter in "ABCD"
    }
    assert rows[1]["answer"] == min(by_hand, key=by_hand.__getitem__)
    right = [row["answer"] == row["expected"] for row in rows]
    assert found[0].scores["accuracy"].value == pytest.approx(sum(right) / 2)


def perplexity_of_last(model, turns):
    turns = [*(replace(turn, weight=0.0) for turn in turns[:-1]), turns[-1]]
    return perplexity(model, [Example(tuple(turns), "g", "f", 1)], batch_tokens=2048)


def test_divergence_is_that_of_two_softmaxes(model):
    rows = [row(1, "好"), row(2, "不好，非常不好")]
    drift = drift_from_base(model, rows, batch_tokens=10_000)
    total, count = 0.0, 0
    for each in rows:
        turns = [{"role": t.role, "content": t.content} for t in each.messages]
        kind = {"return_dict": True}
        ask = model.tokenizer.apply_chat_template(turns[:1], add_generation_prompt=True, **kind)
        ids = torch.tensor([model.tokenizer.apply_chat_template(turns, **kind)["input_ids"][:-1]])
        with torch.no_grad():
            own = model.network(input_ids=ids).logits[0].softmax(-1)
            with model.network.disable_adapter():
                base = model.network(input_ids=ids).logits[0].softmax(-1)
        for place in range(len(ask["input_ids"]) - 1, ids.shape[1] - 1):
            total += float((own[place] * (own[place] / base[place]).log()).sum())
            count += 1
    assert sum(each.tokens for each in drift) == count
    assert mean_divergence(drift) == pytest.approx(total / count, rel=1e-4)


def test_a_model_that_did_not_move_has_no_divergence(tiny_model):
    settings = ModelSettings(base_model=str(tiny_model), dtype="float32")
    fresh = adapt(settings, None, options=EncodeOptions(400), seed=0)
    drift = drift_from_base(fresh, [row(1, "好")], batch_tokens=100)
    assert mean_divergence(drift) == pytest.approx(0, abs=1e-6)
    assert drift[0].nats == pytest.approx(drift[0].base_nats)


def test_canaries_check_every_answer(model, tmp_path):
    (found,) = measure(model, tmp_path, "canaries", max_new_tokens=8)
    assert found.count >= 20
    assert list(found.scores) == ["terminates", "not_empty", "no_repetition", "format_kept"]
    assert all(0 <= s.low <= s.value <= s.high <= 1 for s in found.scores.values())
    assert found.scores["format_kept"].count < found.count


def test_canaries_by_hand():
    answers = [
        Prediction("c", "p", "e", "yes", is_cut=False),
        Prediction("c", "p", "e", "", is_cut=False),
        Prediction("c", "p", "e", "好的好的好的好的好的好的好的好的", is_cut=True),
        Prediction("c", "p", "e", "maybe", is_cut=False),
    ]
    found = check_answers(answers, ["^yes$", "", "", "^no$"])
    values = {name: score.value for name, score in found.scores.items()}
    assert values == {
        "terminates": 0.75,
        "not_empty": 0.75,
        "no_repetition": 0.75,
        "format_kept": 0.5,
    }


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("the cat and the cat and the cat and the cat and the cat", True),
        ("我想我想我想我想我想我想我想", True),
        ("好的", False),
        ("The train leaves at nine and the bus leaves at ten, so take the early one.", False),
        ("一年有十二个月，一个星期有七天，一天有二十四个小时。", False),
        ("", False),
    ],
)
def test_loops_are_told_from_speech(text, told):
    assert is_loop(text) is told


def test_robustness_tells_the_share_of_each_score_that_is_kept(model, tmp_path):
    folder = tmp_path / "robustness"
    first = measure(model, tmp_path, "robustness", noises=["homophones", "options", "typos"])
    names = [each.task for each in first]
    assert names == ["v0001 评价", "v0001 评价 + homophones", "v0001 评价 + options"]
    for path in folder.glob(
        "*.jsonl"
    ):  # as if every clean answer and half of the others were right
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for number, line in enumerate(lines):
            is_clean = "+" not in line["task"]
            line["answer"] = line["expected"] if is_clean or number % 2 else "?"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    again = measure(model, tmp_path, "robustness", noises=["homophones", "options", "typos"])
    kept = again[2].scores["exact_match kept"]
    assert kept.value == 0.5
    assert 0 <= kept.low <= 0.5 <= kept.high <= 1
    assert "exact_match kept" not in first[2].scores  # nothing was right, so nothing was lost


def test_efficiency_measures_a_fixed_length(model, tmp_path):
    found = measure(
        model, tmp_path, "efficiency", prompt_tokens=12, new_tokens=3, batch_sizes=[1, 2], repeats=2
    )
    assert [each.task for each in found] == ["1 at once", "2 at once"]
    for each in found:
        assert each.scores["tokens_per_second"].value > 0
        assert each.scores["first_token_seconds"].value > 0
        assert each.details["peak_memory_gib"] > 0
        assert each.details["new_tokens"] == 3


def test_the_harness_is_read_with_its_standard_errors():
    scores = {
        "alias": "hellaswag",
        "acc,none": 0.4,
        "acc_stderr,none": 0.1,
        "exact_match,strict-match": 0.2,
        "exact_match_stderr,strict-match": "N/A",
    }
    found = _result("hellaswag", scores, 24).scores
    assert set(found) == {"acc", "exact_match strict-match"}
    assert found["acc"].low == pytest.approx(0.4 - 0.196, abs=1e-4)
    assert found["exact_match strict-match"].low is None


SKY = """\
task: sky
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: [blue, green]
doc_to_target: answer
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""


def test_the_harness_scores_tasks_of_ones_own(model, tmp_path):
    pytest.importorskip("lm_eval")
    rows = tmp_path / "sky.jsonl"
    rows.write_text('{"question": "The sky is", "answer": 0}\n' * 3)
    (tmp_path / "sky.yaml").write_text(SKY.format(rows=rows))
    suite = Harness(tasks=["sky"], folder=tmp_path)
    suite.check(())
    (found,) = suite.measure(bench(model, tmp_path / "out"))
    assert (found.task, found.count) == ("sky", 3)
    assert 0 <= found.scores["acc"].value <= 1
    with pytest.raises(ConfigError, match="lm-eval has no task 'skye'. Did you mean 'sky'"):
        Harness(tasks=["skye"], folder=tmp_path).check(())


@pytest.mark.slow
def test_results_are_on_disk_as_valid_json(model, tmp_path):
    suites = choose_suites(["rounds", "canaries"], TASKS)
    found = run_suites(suites, bench(model, tmp_path))
    text = (tmp_path / "results.json").read_text(encoding="utf-8")
    saved = json.loads(text, parse_constant=pytest.fail)
    assert [each["suite"] for each in saved["suites"]] == ["rounds", "canaries"]
    assert saved["suites"][0] == found[0].to_json()
    assert not math.isnan(found[0].tasks[0].scores["perplexity"].value)
    assert len(list(tmp_path.glob("*/*.jsonl"))) == 2
