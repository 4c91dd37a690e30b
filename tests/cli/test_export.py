"""`export` and `predict` as commands; their errors are those that `main` prints."""

import json

import pytest
import typer
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from llama_factory.cli.jobs import export, predict
from llama_factory.core.errors import ConfigError, DataError, ModelError, VersionError
from tests.tiny import make_tiny_model, make_workspace, publish_version, random_adapter

app = typer.Typer(pretty_exceptions_enable=False)
app.command()(export)
app.command()(predict)

METRICS = ["--metrics", "exact_match,token_f1"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("cli") / "tiny")


@pytest.fixture(scope="module")
def workspace(tiny):
    workspace = make_workspace(tiny.parent / "bot", tiny)
    for seed in (1, 2):
        publish_version(workspace, tiny, marker_seed=seed)
    return workspace.folder


@pytest.fixture(scope="module")
def rows(tiny):
    path = tiny.parent / "rows.jsonl"
    asked = ({"instruction": f"第{n}个问题？", "output": "好的"} for n in range(5))
    path.write_text("".join(json.dumps(each, ensure_ascii=False) + "\n" for each in asked))
    with path.open("a") as file:
        file.write('{"output": "no question"}\n')
    return path


def command(*args):
    return CliRunner().invoke(app, [str(arg) for arg in args], catch_exceptions=False)


def test_a_version_is_exported_and_answers_with_plain_transformers(workspace, tmp_path):
    out = tmp_path / "out"
    told = command("export", workspace, out, "--version", "v0001", "--dtype", "float32").stdout
    assert "million parameters as float32 in 1 file(s)" in told
    assert "Checked on 16 prompts: the likeliest token is the same at 100.00%" in told
    assert f"cd {out} && ollama create NAME -f Modelfile" in told
    tokenizer = AutoTokenizer.from_pretrained(out)
    ids = tokenizer("你好", return_tensors="pt")["input_ids"]
    answer = AutoModelForCausalLM.from_pretrained(out).generate(ids, max_new_tokens=3)
    assert answer.shape[1] > ids.shape[1]


@pytest.mark.slow
def test_json_tells_folder_sizes_and_parity(workspace, tmp_path):
    run = command("export", workspace, tmp_path / "out", "--version", "2", "--json")
    told = json.loads(run.stdout)
    assert told["folder"] == str(tmp_path / "out")
    assert told["num_shards"] == 1
    assert told["parity"]["holds"] is True
    assert told["num_bytes"] > 4 * told["num_parameters"]


def test_the_base_version_is_not_exported(workspace, tmp_path):
    with pytest.raises(ModelError, match="untouched base model.* name another version"):
        command("export", workspace, tmp_path / "out")


def test_what_does_not_go_together_is_told(workspace, tiny, tmp_path):
    with pytest.raises(ConfigError, match="--base: .* is a workspace, .* Leave --base out"):
        command("export", workspace, tmp_path / "out", "--base", tiny)
    with pytest.raises(VersionError, match="is not a workspace: it has no factory.yaml"):
        command("export", tiny, tmp_path / "out", "--version", "v0001")
    with pytest.raises(VersionError, match=r"no version 'v0009'\. .*There are"):
        command("export", workspace, tmp_path / "out", "--version", "v0009")


def test_a_workspace_whose_base_model_was_changed_is_refused(workspace, tmp_path):
    other = make_tiny_model(tmp_path / "other", seed=5)
    settings = workspace / "factory.yaml"
    kept = settings.read_text()
    settings.write_text(f"model:\n  base_model: {other}\n")
    try:
        with pytest.raises(ModelError, match="this version was trained on another base model"):
            command("export", workspace, tmp_path / "out", "--version", "v0001")
    finally:
        settings.write_text(kept)


@pytest.mark.slow
def test_rows_are_answered_by_a_version(workspace, rows, tmp_path):
    answered = {}
    for version in ("v0000", "v0001"):
        out = tmp_path / f"{version}.jsonl"
        run = command("predict", workspace, rows, out, "--version", version, *METRICS)
        assert f"{out}: 5 rows" in run.stdout
        # Wilson for 0 of 5: 1.96^2 / (5 + 1.96^2) = 0.4345
        assert "predict_exact_match  0.00 (0.00 – 43.45)  n = 5" in run.stdout
        assert "Left out: rows.jsonl:6" in run.stderr
        answered[version] = [json.loads(line) for line in out.read_text().splitlines()]
    keys = {"prompt", "predict", "label", "is_cut"}
    assert all(set(row) == keys for row in answered["v0001"])
    assert answered["v0000"] != answered["v0001"]


@pytest.mark.slow
def test_questions_without_an_answer_are_answered_and_not_judged(workspace, tmp_path):
    (tmp_path / "asked.csv").write_text("question\nWhich gate?\nWhat time?\n")
    words = ["predict", workspace, tmp_path / "asked.csv", tmp_path / "out", "--version", "v0001"]
    run = command(*words)
    assert "out: 2 rows" in run.stdout
    assert "2 rows expect no answer; theirs are not judged." in run.stdout
    assert "predict_" not in run.stdout
    written = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert [row["label"] for row in written] == ["", ""]
    assert all("gate" in row["prompt"] or "time" in row["prompt"] for row in written)


@pytest.mark.slow
def test_an_exported_model_answers_as_its_version_does(workspace, rows, tmp_path):
    command("export", workspace, tmp_path / "out", "--version", "v0001", "--dtype", "float32")
    flags = [*METRICS, "--max-new-tokens", "5", "--json"]
    first = command("predict", workspace, rows, tmp_path / "a", "--version", "v0001", *flags)
    command("predict", tmp_path / "out", rows, tmp_path / "b", *flags)
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text()
    told = json.loads(first.stdout)
    assert told["num_rows"] == 5
    assert set(told) > {"predict_exact_match", "predict_token_f1", "predict_runtime"}


@pytest.mark.slow
def test_plain_adapters_answer_and_are_exported(tiny, rows, tmp_path):
    random_adapter(tiny, 3).save_pretrained(tmp_path / "adapter")
    command("predict", tmp_path / "adapter", rows, tmp_path / "a", *METRICS)
    command("export", tmp_path / "adapter", tmp_path / "out", "--dtype", "float32")
    command("predict", tmp_path / "out", rows, tmp_path / "b", *METRICS)
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text()


def test_prompts_of_ones_own_are_compared(workspace, rows, tmp_path):
    flags = ["--version", "v0001", "--prompts", rows]
    with pytest.raises(ModelError, match="needs 8 prompts and 5 of 5 rows can be used"):
        command("export", workspace, tmp_path / "out", *flags)
    with pytest.raises(DataError, match=r"none\.jsonl"):
        command("export", workspace, tmp_path / "out", "--prompts", tmp_path / "none.jsonl")


@pytest.mark.slow
def test_a_tokenizer_without_a_template_gets_a_named_one(tmp_path, rows):
    base = make_tiny_model(tmp_path / "base")
    (base / "chat_template.jinja").unlink()
    config = LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM")
    network = AutoModelForCausalLM.from_pretrained(base)
    get_peft_model(network, config).save_pretrained(tmp_path / "adapter")
    with pytest.raises(ModelError, match="has no chat template"):
        command("export", tmp_path / "adapter", tmp_path / "out")
    command("export", tmp_path / "adapter", tmp_path / "out", "--set", "model.template=vicuna")
    assert "ASSISTANT" in (tmp_path / "out/chat_template.jinja").read_text()
    command("predict", tmp_path / "out", rows, tmp_path / "p", *METRICS)
    first = json.loads((tmp_path / "p").read_text().splitlines()[0])
    assert first["prompt"].endswith("ASSISTANT:")


def test_an_unknown_metric_is_told(workspace, rows, tmp_path):
    with pytest.raises(ConfigError, match="'rogue-l' is not a metric. Did you mean 'rouge-l'"):
        command("predict", workspace, rows, tmp_path / "p", "--metrics", "rogue-l")
