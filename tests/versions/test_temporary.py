import pytest

from llama_factory.core.errors import VersionError
from llama_factory.model.chat import prompt
from llama_factory.model.chat.prompt import PromptFormat
from llama_factory.versions import releases, store, temporary
from llama_factory.versions.workspace import Workspace


def adapter_folder(folder):
    folder.mkdir()
    for name in temporary.ADAPTER_FILES:
        (folder / name).write_text(name)
    return folder


def test_the_adapter_is_the_released_version_and_is_copied(tmp_path):
    adapter = adapter_folder(tmp_path / "适配器")
    temporary.make(tmp_path / "made", "tiny", adapter)
    workspace = Workspace.open(tmp_path / "made")
    version = store.get(workspace, releases.PRODUCTION)
    assert (version.id, version.base_model) == ("v0001", "tiny")
    assert version.adapter is not None
    assert sorted(path.name for path in version.adapter.iterdir()) == sorted(
        temporary.ADAPTER_FILES
    )
    assert (adapter / temporary.ADAPTER_FILES[0]).is_file()


def test_without_an_adapter_the_base_model_answers(tmp_path):
    workspace = temporary.make(tmp_path / "made", 'a "quoted" 模型', None)
    assert store.get(workspace, releases.PRODUCTION).base_model == 'a "quoted" 模型'


def test_a_folder_without_an_adapter_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(VersionError, match=r"empty: no adapter_config.json is there"):
        temporary.make(tmp_path / "made", "tiny", tmp_path / "empty")


def test_the_adapter_is_asked_as_it_was_taught(tmp_path):
    adapter = adapter_folder(tmp_path / "a")
    how = PromptFormat(False, ("<x>",), "{{ messages }}", "</s>")
    how.save(adapter)
    workspace = temporary.make(tmp_path / "made", "tiny", adapter)
    version = store.get(workspace, releases.PRODUCTION)
    assert version.adapter is not None
    assert prompt.kept(version.adapter) == how
