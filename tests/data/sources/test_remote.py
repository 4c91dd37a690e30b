"""`dataset_dir: ONLINE` and `REMOTE:`, and models of ModelScope; no hub is asked."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest

from llama_factory.core.errors import ConfigError, ModelError
from llama_factory.data.sources.named import named_sources
from llama_factory.model import source


def test_online_names_are_those_of_a_hub(monkeypatch):
    monkeypatch.delenv("USE_MODELSCOPE_HUB", raising=False)
    (found,) = named_sources(["owner/rows"], Path("ONLINE"))
    assert (found.hub.repo, found.hub.is_modelscope) == ("owner/rows", False)
    monkeypatch.setenv("USE_MODELSCOPE_HUB", "1")
    (found,) = named_sources(["owner/rows"], Path("ONLINE"))
    assert found.hub.is_modelscope


@pytest.fixture
def repository(monkeypatch, tmp_path):
    """A repository of two sets; which of its files were fetched is kept."""
    there = {
        "dataset_info.json": json.dumps(
            {"a": {"file_name": "a.json"}, "b": {"file_name": "b.json"}}
        ),
        "a.json": json.dumps([{"instruction": "Hi?", "output": "Yes."}]),
        "b.json": "[]",
    }
    fetched = []

    def snapshot_download(name, *, repo_type, allow_patterns, local_dir):
        assert (name, repo_type) == ("owner/sets", "dataset")
        Path(local_dir).mkdir(parents=True, exist_ok=True)
        for file in set(allow_patterns) & there.keys():
            (Path(local_dir) / file).write_text(there[file])
            fetched.append(file)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setenv("LLAMA_FACTORY_CACHE", str(tmp_path / "cache"))
    return there, fetched


def test_a_remote_folder_is_fetched_as_far_as_it_is_needed(repository):
    (found,) = named_sources(["a"], Path("REMOTE:owner/sets"))
    assert json.loads(found.path.read_text())[0]["output"] == "Yes."
    assert repository[1] == ["dataset_info.json", "a.json"]


def test_a_remote_folder_that_is_none_says_so(repository, monkeypatch):
    with pytest.raises(ConfigError, match="dataset 'c' is not in .* It has: a, b"):
        named_sources(["c"], Path("REMOTE:owner/sets"))
    repository[0]["dataset_info.json"] = "nonsense"
    with pytest.raises(ConfigError, match="REMOTE:owner/sets has no dataset_info.json that can"):
        named_sources(["a"], Path("REMOTE:owner/sets"))

    def unreachable(*args, **options):
        raise OSError("no route")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(ConfigError, match="REMOTE:owner/sets could not be fetched .OSError"):
        named_sources(["a"], Path("REMOTE:owner/sets"))


def test_models_come_from_modelscope_where_that_is_preferred(monkeypatch, tmp_path):
    asked = []

    def snapshot_download(name, *, allow_patterns):
        asked.append((name, "*.safetensors" in allow_patterns))
        return str(tmp_path)

    monkeypatch.setenv("USE_MODELSCOPE_HUB", "true")
    module = SimpleNamespace(snapshot_download=snapshot_download)
    monkeypatch.setitem(sys.modules, "modelscope", module)
    assert source.resolve("Qwen/Qwen3-4B") == tmp_path
    assert source.resolve_tokenizer("Qwen/Qwen3-4B") == tmp_path
    assert asked == [("Qwen/Qwen3-4B", True), ("Qwen/Qwen3-4B", False)]
    module.snapshot_download = unreachable
    with pytest.raises(ModelError, match="could not be fetched from ModelScope .RuntimeError"):
        source.resolve("Qwen/Qwen3-4B")
    monkeypatch.setitem(sys.modules, "modelscope", None)
    with pytest.raises(ModelError, match="pip install modelscope"):
        source.resolve("Qwen/Qwen3-4B")


def unreachable(*args, **options):
    raise RuntimeError("no route")
