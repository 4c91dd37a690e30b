from pathlib import Path

import pytest

from llama_factory import run
from llama_factory.core import files
from llama_factory.core.errors import VersionError
from llama_factory.serving.engines import ENGINES
from llama_factory.serving.engines.vllm import Vllm
from llama_factory.serving.vllm.server import command, environment
from llama_factory.versions import store
from tests.serving.vllm.stand_in import make_proven_workspace

MANIFESTS = frozenset({"manifest.json"})


def test_the_command_has_room_for_a_rollback_and_nothing_of_the_models_own_sampling():
    settings = Vllm(
        python="/opt/vllm/bin/python",
        arguments={"max_model_len": 8192, "--enforce-eager": True, "hf-overrides": {"a": 1}},
    )
    words = command(settings, Path("/models/base"), 4321, 32)
    text = " ".join(words)
    assert text.startswith(
        "/opt/vllm/bin/python -m vllm.entrypoints.cli.main serve /models/base --max-loras 4 "
        "--max-cpu-loras 8 --max-lora-rank 32 --generation-config vllm "
    )
    assert '--max-model-len 8192 --enforce-eager --hf-overrides {"a": 1}' in text
    assert text.endswith("--host 127.0.0.1 --port 4321 --served-model-name base --enable-lora")


def test_more_room_may_be_asked_for_and_a_command_given():
    settings = Vllm(python=["docker", "exec", "vllm"], arguments={"max-loras": 6})
    words = command(settings, Path("m"), 1, 8)
    assert words[:5] == ["docker", "exec", "vllm", "serve", "m"]
    assert words[words.index("--max-loras") + 1] == "6"


def test_adapters_may_come_and_go_and_only_we_may_ask():
    variables = environment(Vllm(python="p", environment={"CUDA_VISIBLE_DEVICES": "1"}), "secret")
    assert variables == {
        "CUDA_VISIBLE_DEVICES": "1",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "VLLM_API_KEY": "secret",
    }


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "needs `python`"),
        ({"python": "p", "url": "http://a"}, "not both"),
        ({"url": "a:1"}, "no address"),
        ({"url": "http://a", "arguments": {"dtype": "half"}}, "started here"),
        ({"python": "p", "arguments": {"port": 1}}, "'port' is set by this server"),
        ({"python": "p", "arguments": {"served_model_name": "x"}}, "'served-model-name' is set"),
        ({"python": "p", "arguments": {"max-loras": 1}}, "max-loras must be 4 or more"),
        ({"python": "p", "arguments": {"max-cpu-loras": "x"}}, "max-cpu-loras must be 8"),
        ({"python": "p", "arguments": {"max-lora-rank": 24}}, "must be one of"),
        ({"python": "p", "arguments": {"a b": 1}}, "no argument of vLLM"),
    ],
)
def test_settings_name_what_is_wrong(values, message):
    with pytest.raises(ValueError, match=message):
        ENGINES.parse({"type": "vllm", **values})


def test_a_version_that_the_engine_never_takes_is_not_released_by_hand(tmp_path, tiny_model):
    workspace = make_proven_workspace(tmp_path / "bot", tiny_model)
    settings = workspace.settings.read_text()
    path = workspace.versions / "v0001" / "adapter" / "adapter_config.json"
    version = store.get(workspace, "v0001")
    files.write_json(path, files.read_json(path) | {"use_dora": True})
    files.write_json(
        version.folder / "manifest.json",
        version.to_json() | {"files": files.hash_folder(version.folder, leave_out=MANIFESTS)},
    )
    workspace.settings.write_text(f"{settings}serving:\n  engine: {{type: vllm, python: p}}\n")
    with pytest.raises(VersionError, match=r"v0001 cannot be served by vLLM.*DoRA"):
        run.promote(workspace.folder, "v0001")
    assert run.promote(workspace.folder, "v0002") == "v0002"
    assert run.rollback(workspace.folder) == ("v0002", "v0000")
    workspace.settings.write_text(
        f"{settings}serving:\n  engine: {{type: openai, url: http://a}}\n"
    )
    with pytest.raises(VersionError, match="nothing can be loaded"):
        run.promote(workspace.folder, "v0002")
