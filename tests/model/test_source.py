import multiprocessing

import pytest

from llama_factory.core.errors import ModelError
from llama_factory.core.files import hash_folder
from llama_factory.model import source
from llama_factory.model.source import HUB_IDS


def test_a_folder_resolves_to_itself(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert source.resolve(str(tmp_path)) == tmp_path.resolve()


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ModelError, match="holds no config.json"):
        source.resolve(str(tmp_path))


def test_unknown_names_suggest_the_nearest():
    with pytest.raises(ModelError, match=r"Did you mean 'smollm2'\? Known names: smollm2"):
        source.check_name("smolm2")


def test_names_in_the_table_are_hub_ids():
    for name, hub_id in HUB_IDS.items():
        source.check_name(name)
        assert hub_id.count("/") == 1


def test_an_unreachable_hub_is_a_clear_error(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="'nobody/nothing' is no folder here and could not be"):
        source.resolve("nobody/nothing")


@pytest.mark.slow
def test_a_tokenizer_is_found_without_converting_the_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("LLAMA_FACTORY_CACHE", str(tmp_path))
    folder = source.resolve_tokenizer("smollm2")
    assert {path.name for path in folder.iterdir()} >= {"tokenizer.json", "chat_template.jinja"}
    assert not list(tmp_path.rglob("*.safetensors"))
    assert source.resolve_tokenizer("smollm2") == folder


def convert(cache, folders):
    import os

    os.environ["LLAMA_FACTORY_CACHE"] = cache
    folders.put(str(source.resolve("smollm2")))


@pytest.mark.slow
def test_two_processes_convert_the_embedded_model_once_and_damage_is_mended(tmp_path, monkeypatch):
    context = multiprocessing.get_context("spawn")
    folders = context.Queue()
    both = [context.Process(target=convert, args=(str(tmp_path), folders)) for _ in range(2)]
    for process in both:
        process.start()
    first, second = folders.get(timeout=300), folders.get(timeout=300)
    for process in both:
        process.join()
    assert first == second
    monkeypatch.setenv("LLAMA_FACTORY_CACHE", str(tmp_path))
    folder = source.resolve("smollm2")
    whole = hash_folder(folder)
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(10**6)
        file.write(b"damage")
    assert hash_folder(source.resolve("smollm2")) == whole
