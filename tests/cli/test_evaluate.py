"""Suites and cross-validation, as a user asks for them."""

import json
from pathlib import Path

import pytest
from typer.main import get_command

from llama_factory import run, use
from llama_factory.cli.app import app
from llama_factory.core.errors import ConfigError
from llama_factory.core.progress import SILENT
from llama_factory.evaluation.suites import SUITES
from llama_factory.jobs.model_reference import ModelReference
from tests.cli.taught import invoke, write_rows

SHORT = ("--set", "evaluation.max_new_tokens=4")
SUITE = """
tasks:
  - name: 售后
    rows: shop.jsonl
    prompt: "{question}\\n选项：{options}"
    options: [可以, 不行]
    metrics: [accuracy, label_likelihood]
    max_new_tokens: 4
    noise: [options]
"""


@pytest.fixture
def suite(tmp_path):
    rows = [{"question": f"第{i}件能退吗？", "answer": ["可以", "不行"][i % 2]} for i in range(6)]
    write_rows(tmp_path / "shop.jsonl", rows)
    (tmp_path / "shop.yaml").write_text(SUITE, encoding="utf-8")
    return tmp_path / "shop.yaml"


@pytest.mark.slow
def test_a_version_is_measured_by_suites_of_ones_own(bot, suite, tmp_path):
    output = tmp_path / "out"
    told = invoke(
        "evaluate", bot, "--suite", suite, "--suite", "rounds", "--output", output, *SHORT
    )
    for words in ("售后 + options", "label_likelihood kept", "v0002 售后", "95 %"):
        assert words in told
    saved = json.loads((output / "results.json").read_text(encoding="utf-8"))
    assert [each["suite"] for each in saved["suites"]] == ["shop", "rounds"]
    kept = [path.relative_to(output).parts[0] for path in output.rglob("*.jsonl")]
    assert sorted(set(kept)) == ["rounds", "shop"]


def test_every_suite_is_named_in_the_help_and_in_the_guide():
    (option,) = [p for p in get_command(app).commands["evaluate"].params if p.name == "suite"]
    guide = (Path(__file__).parents[2] / "docs/evaluation.md").read_text(encoding="utf-8")
    for name in set(SUITES.parts) - {"file"}:
        assert name in option.help
        assert f"| `{name}` |" in guide


@pytest.mark.slow
def test_a_version_without_suites_named_gets_the_usual_ones(bot):
    found = json.loads(invoke("evaluate", bot, "--version", "v0001", *SHORT, "--json"))
    assert [each["suite"] for each in found] == ["rounds", "guard", "canaries"]
    assert [task["task"] for task in found[0]["tasks"]] == ["v0001 faq"]
    assert (bot / "evaluations/v0001/results.json").is_file()


@pytest.mark.slow
def test_a_plain_adapter_is_measured_too(bot, suite, tmp_path):
    source = ModelReference(str(bot / "versions/v0002/adapter"))
    (found,) = use.evaluate(source, [str(suite)], tmp_path / "out", SILENT)
    assert found.tasks[0].count == 6


@pytest.mark.slow
def test_folds_train_and_test_every_row_once(bot, tmp_path):
    rows = [
        {"instruction": f"第{i}件能退吗？", "output": ["可以", "不行"][i % 2]} for i in range(6)
    ]
    write_rows(tmp_path / "rows.jsonl", rows)
    base = run.store.get(run.Workspace(bot), "v0000").base_model
    settings = tmp_path / "sft.yaml"
    settings.write_text(
        f"model: {{base_model: {base}, lora_rank: 4}}\n"
        f"data: {{train_path: {tmp_path / 'rows.jsonl'}}}\n"
        "training: {max_steps: 1}\nevaluation: {max_new_tokens: 3}\n"
    )
    output = tmp_path / "folds"
    command = ("evaluate", settings, "--folds", 2, "--output", output)
    told = invoke(*command)
    assert "all folds" in told
    assert "Standard deviation between the folds: exact_match" in told
    saved = json.loads((output / "cross_validation.json").read_text(encoding="utf-8"))
    assert saved["all"]["count"] == 6
    assert [each["count"] for each in saved["folds"]] == [3, 3]
    weights = output / "fold-1/model/adapter_model.safetensors"
    before = weights.stat().st_mtime_ns
    assert json.loads(invoke(*command, "--json")) == saved
    assert weights.stat().st_mtime_ns == before  # a finished fold is not taught again
    with pytest.raises(ConfigError, match="fold-1 was begun with other rows, settings or number"):
        run.cross_validate(settings, 3, output, [], SILENT)


@pytest.mark.parametrize(
    ("suites", "told"),
    [
        (["canarys"], "--suite: there is no suite 'canarys'. Did you mean 'canaries'?"),
        (["nothing.yaml"], "nothing.yaml: this suite file cannot be read"),
    ],
)
def test_an_unknown_suite_is_told_with_the_nearest(bot, suites, told):
    with pytest.raises(ConfigError) as error:
        use.evaluate(ModelReference(str(bot)), suites, None, SILENT)
    assert told in str(error.value)
