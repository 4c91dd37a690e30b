import json
import subprocess
import sys

import pytest

from llama_factory.core import files
from llama_factory.core.errors import VersionError
from llama_factory.core.types import Example, Memory, Message
from llama_factory.model.chat import prompt_format
from llama_factory.model.chat.prompt_format import PromptFormat
from llama_factory.versions import memory, releases, store
from llama_factory.versions.workspace import Workspace
from tests.tiny import make_workspace


def add_version(workspace, parent="v0000", held_out=(), retired=()):
    """A version of a few files, without any model."""
    folder = workspace.building
    (folder / "adapter").mkdir(parents=True)
    (folder / "adapter/adapter_model.safetensors").write_bytes(b"weights")
    scores = {"tasks": [], "guard_perplexity": None, "seconds": 0}
    report = {"evaluation": scores, "data": {"retired": [row.key for row in retired]}}
    (folder / "report.json").write_text(json.dumps(report))
    files.write_jsonl(folder / "data/held_out.jsonl", [row.to_json() for row in held_out])
    base = store.get(workspace, "v0000")
    changed = {"id": store.next_id(workspace), "parent": parent, "folder": folder}
    return store.publish(workspace, type(base)(**(vars(base) | changed)))


@pytest.fixture
def workspace(tmp_path):
    return make_workspace(tmp_path / "bot", tmp_path / "model")


def test_a_new_workspace_releases_the_base_version(workspace):
    base = store.get(workspace, "production")
    assert base.is_base
    assert base.adapter is None
    assert base.memory == Memory()
    assert store.lineage(base) == []


def test_versions_are_found_by_id_number_and_alias(workspace):
    version = add_version(workspace)
    releases.promote(workspace.releases, version.id, "test")
    assert {store.get(workspace, name).id for name in ("v0001", "1", "production")} == {"v0001"}
    assert store.get(workspace, "previous").id == "v0000"
    assert store.lineage(version) == [version]


def test_an_unknown_version_names_the_nearest(workspace):
    add_version(workspace)
    with pytest.raises(
        VersionError, match=r"no version 'v0011'. Did you mean 'v0001'\? There are:"
    ):
        store.get(workspace, "v0011")
    with pytest.raises(VersionError, match="no version '../x'"):
        store.get(workspace, "../x")


def question(text, answer="yes"):
    said = (Message("user", text), Message("assistant", answer))
    return Example(said, group="faq", file="faq.jsonl", line=1)


def asked(*versions):
    return {task.name: [row.prompt[0].content for row in task.rows]
            for task in store.tasks(*versions)}  # fmt: skip


def test_tasks_are_those_of_the_lineage_without_what_was_corrected_since(workspace):
    a, b = question("a?"), question("b?")
    first = add_version(workspace, held_out=[a, b])
    second = add_version(workspace, parent=first.id, retired=[a])
    # the old answer came back, and was held out again: it is asked of that round only
    third = add_version(workspace, parent=second.id, held_out=[a])
    other = add_version(workspace, parent=first.id, retired=[b])
    assert asked(first) == {"v0001 faq": ["a?", "b?"]}
    assert asked(second) == {"v0001 faq": ["b?"]}
    assert asked(third) == {"v0001 faq": ["b?"], "v0003 faq": ["a?"]}
    # of two lineages, what neither corrected
    assert asked(third, other) == {"v0003 faq": ["a?"]}
    assert asked(first, second) == {"v0001 faq": ["b?"]}


@pytest.mark.parametrize("damage", ["changed", "missing", "added"])
def test_a_damaged_version_is_refused_and_names_the_file(workspace, damage):
    version = add_version(workspace)
    path = version.folder / "adapter/adapter_model.safetensors"
    if damage == "changed":
        path.write_bytes(b"weighty")
    elif damage == "missing":
        path.unlink()
    else:
        path = version.folder / "adapter/extra.txt"
        path.write_text("x")
    with pytest.raises(VersionError, match=f"{path.name} is missing or was changed"):
        store.get(workspace, version.id)


def test_a_broken_manifest_is_refused(workspace):
    version = add_version(workspace)
    (version.folder / "manifest.json").write_text("{")
    with pytest.raises(VersionError, match="manifest.json is missing or damaged"):
        store.get(workspace, version.id)


def test_promotion_keeps_the_previous_and_the_history(workspace):
    for _ in range(2):
        add_version(workspace)
    releases.promote(workspace.releases, "v0001", "one")
    releases.hold(workspace.releases, "v0002", "held")
    assert releases.read(workspace.releases).aliases == {
        "production": "v0001",
        "previous": "v0000",
        "candidate": "v0002",
    }
    after = releases.promote(workspace.releases, "v0002", "two")
    assert after.aliases == {"production": "v0002", "previous": "v0001"}
    assert [entry.why for entry in after.history] == ["one", "held", "two"]


def test_a_damaged_release_file_says_what_to_do(workspace):
    workspace.releases.write_text("{")
    with pytest.raises(VersionError, match="releases.json is damaged"):
        releases.read(workspace.releases)


MOVES = """
import sys
from pathlib import Path
from llama_factory.versions import releases
for _ in range(20):
    releases.promote(Path(sys.argv[1]), sys.argv[2], sys.argv[2])
"""


def test_two_writers_lose_no_move(workspace):
    command = [sys.executable, "-c", MOVES, str(workspace.releases)]
    writers = [subprocess.Popen([*command, name]) for name in ("v0001", "v0002")]
    assert [writer.wait() for writer in writers] == [0, 0]
    history = releases.read(workspace.releases).history
    assert sorted(entry.why for entry in history) == ["v0001"] * 20 + ["v0002"] * 20


def test_a_folder_that_is_no_workspace_names_the_nearest(workspace):
    with pytest.raises(VersionError, match=r"does not exist. Did you mean 'bot'\? Make one with"):
        Workspace.open(workspace.folder.parent / "bott")
    with pytest.raises(VersionError, match="has no factory.yaml"):
        Workspace.open(workspace.inbox)


def test_memory_survives_saving_and_loading(tmp_path):
    import torch

    rows = tuple(
        Example((Message("user", f"{i}"), Message("assistant", "答")), "g", "f", i)
        for i in range(3)
    )
    kept = Memory({"replay": rows}, {"ewc.w": torch.arange(3.0)}, {"ewc.rounds": 2})
    memory.save(kept, tmp_path / "memory")
    again = memory.load(tmp_path / "memory")
    assert again.rows == kept.rows
    assert torch.equal(again.tensors["ewc.w"], kept.tensors["ewc.w"])
    assert again.numbers == kept.numbers
    assert memory.load(tmp_path / "none") == Memory()
    assert json.loads((tmp_path / "memory/numbers.json").read_text()) == {"ewc.rounds": 2}


def adapter_folder(folder):
    folder.mkdir()
    for name in store.ADAPTER_FILES:
        (folder / name).write_text(name)
    return folder


def test_the_adapter_is_the_released_version_and_is_copied(tmp_path):
    adapter = adapter_folder(tmp_path / "适配器")
    store.create_temporary(tmp_path / "made", "tiny", adapter)
    workspace = Workspace.open(tmp_path / "made")
    version = store.get(workspace, releases.PRODUCTION)
    assert (version.id, version.base_model) == ("v0001", "tiny")
    assert version.adapter is not None
    assert sorted(path.name for path in version.adapter.iterdir()) == sorted(store.ADAPTER_FILES)
    assert (adapter / store.ADAPTER_FILES[0]).is_file()


def test_without_an_adapter_the_base_model_answers(tmp_path):
    workspace = store.create_temporary(tmp_path / "made", 'a "quoted" 模型', None)
    assert store.get(workspace, releases.PRODUCTION).base_model == 'a "quoted" 模型'


def test_a_folder_without_an_adapter_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(VersionError, match=r"empty: no adapter_config.json is there"):
        store.create_temporary(tmp_path / "made", "tiny", tmp_path / "empty")


def test_the_adapter_is_asked_as_it_was_taught(tmp_path):
    adapter = adapter_folder(tmp_path / "a")
    how = PromptFormat(False, ("<x>",), "{{ messages }}", "</s>")
    how.save(adapter)
    workspace = store.create_temporary(tmp_path / "made", "tiny", adapter)
    version = store.get(workspace, releases.PRODUCTION)
    assert version.adapter is not None
    assert prompt_format.kept(version.adapter) == how
