"""LLaMA-Factory's own commands: a model named by its YAML, `key=value` and flags."""

import pytest
from typer.testing import CliRunner

from llama_factory.cli.app import app
from llama_factory.cli.peer import is_theirs, names_model
from llama_factory.config.dialects.answering import answer_request
from llama_factory.core.errors import ConfigError

INFERENCE = """\
model_name_or_path: Qwen/Qwen3-4B-Instruct-2507
adapter_name_or_path: saves/qwen3-4b/lora/sft
template: qwen3_nothink
infer_backend: huggingface  # choices: [huggingface, vllm, sglang, ktransformers]
trust_remote_code: true
"""


def command(*words, **options):
    return CliRunner().invoke(app, list(map(str, words)), catch_exceptions=False, **options)


def test_a_file_for_answers_names_the_model_and_how_it_is_asked(tmp_path):
    path = tmp_path / "chat.yaml"
    path.write_text(INFERENCE)
    asked = answer_request(path, ["default_system=Be kind.", "serving.port=1"])
    assert asked.source == "saves/qwen3-4b/lora/sft"
    assert asked.base == "Qwen/Qwen3-4B-Instruct-2507"
    assert set(asked.changes) == {
        "model.template=qwen3_nothink",
        "model.trust_remote_code=True",
        "data.enable_thinking=False",
        "data.default_system=Be kind.",
        "serving.port=1",
    }


def test_a_whole_model_is_its_own_source_and_wrong_keys_are_told():
    assert answer_request(None, ["model_name_or_path=tiny"]).source == "tiny"
    with pytest.raises(ConfigError, match="settings: templat: no such key. Did you mean 'templa"):
        answer_request(None, ["model_name_or_path=tiny", "templat=qwen"])
    with pytest.raises(ConfigError, match="model_name_or_path: not given. Name the base model"):
        answer_request(None, ["template=qwen"])


@pytest.mark.parametrize(
    ("given", "sampling"),
    [
        ([], {}),
        (["max_new_tokens=8"], {"max_tokens": 8}),
        (["temperature=0.5", "top_k=3"], {"temperature": 0.5, "top_k": 3}),
        (["top_p=0.9"], {"temperature": 0.95, "top_p": 0.9}),
        (["do_sample=true"], {"temperature": 0.95}),
        (["do_sample=false", "temperature=0.5"], {"temperature": 0.0}),
        (["repetition_penalty=1.2"], {"repetition_penalty": 1.2}),
    ],
)
def test_keys_say_how_chat_draws_its_answers(given, sampling):
    asked = answer_request(None, ["model_name_or_path=tiny", *given])
    assert asked.sampling == sampling
    longest = [each for each in asked.changes if each.startswith("serving.max_tokens")]
    assert longest == (["serving.max_tokens=8"] if "max_tokens" in sampling else [])


def test_an_answer_of_chat_is_as_long_as_the_keys_allow(tiny_model):
    flags = ("--model_name_or_path", tiny_model, "--max_new_tokens", "1", "--temperature", "2.0")
    done = command("chat", *flags, input="hello\n/exit\n")
    assert done.exit_code == 0
    answer = done.stdout.split("you> ")[1].strip()
    assert len(answer) < 40


def test_a_workspace_is_told_from_their_files_and_flags(tmp_path):
    assert not is_theirs([str(tmp_path)])
    assert is_theirs(["chat.yaml"])
    assert is_theirs(["--model_name_or_path", "tiny"])
    assert is_theirs(["model_name_or_path=tiny"])


def test_a_page_is_of_a_model_or_of_a_workspace():
    assert names_model(["chat.yaml", "template=qwen"])
    assert names_model(["--model_name_or_path", "tiny"])
    assert not names_model([])
    assert not names_model(["my-bot", "--port", "0"])


def test_one_talks_to_a_model_that_flags_name(tiny_model):
    done = command("chat", "--model_name_or_path", tiny_model, input="/exit\n")
    assert done.exit_code == 0
    assert "/new begins again, /exit leaves." in done.stdout


def test_the_commands_are_known_by_their_names():
    told = command("help").stdout
    for name in ("train", "chat", "api", "export", "env", "evaluate", "version"):
        assert f" {name} " in told
    assert "Python version" in command("env").stdout
    assert command("webui", "--help").exit_code == 0


def test_tests_of_the_harness_are_known_by_their_names(tmp_path):
    path = tmp_path / "eval.yaml"
    path.write_text("model_name_or_path: smollm2\ntask: mlu_test\nlang: en\nn_shot: 5\n")
    with pytest.raises(ConfigError, match="task: 'mlu' is not known. Known: mmlu, cmmlu, ceval."):
        command("eval", path)
    with pytest.raises(ConfigError, match="templat: no such key"):
        command("eval", path, "task=mmlu_test", "templat=qwen")


def test_questions_in_task_dir_are_asked(tiny_model, tmp_path):
    for split in ("test", "dev"):
        (tmp_path / "evaluation/mmlu" / split).mkdir(parents=True)
        rows = "Which is it?,one,two,three,four,A\n" * 2
        (tmp_path / "evaluation/mmlu" / split / f"law_{split}.csv").write_text(rows)
    path = tmp_path / "eval.yaml"
    asked = f"model_name_or_path: {tiny_model}\ntask: mmlu_test\nlang: en\nn_shot: 1\n"
    path.write_text(asked + f"task_dir: {tmp_path / 'evaluation'}\nbatch_size: 4\n")
    done = command("eval", path, f"save_dir={tmp_path / 'scores'}")
    assert done.exit_code == 0
    assert "all subjects" in done.stdout
    kept = (tmp_path / "scores/multiple_choice/law.jsonl").read_text().splitlines()
    assert len(kept) == 2
    with pytest.raises(ConfigError, match="holds no questions of the split 'validation'"):
        command("eval", path, "task=mmlu_validation")


def test_an_export_may_be_asked_for_with_changes(tmp_path, monkeypatch):
    path = tmp_path / "merge.yaml"
    path.write_text("model_name_or_path: none-such-model\nexport_dir: a\n")
    with pytest.raises(ConfigError, match="nonsense: no such key"):
        command("export", path, "export_dir=b", "nonsense=1")
    from llama_factory.cli.jobs import _export_request

    assert _export_request([str(path), "export_dir=b"]).output == "b"
    assert _export_request([str(path), "--export_dir", "c"]).output == "c"
    assert _export_request([str(path), "d"]).output == "d"
    assert _export_request([str(path)]).output == "a"
