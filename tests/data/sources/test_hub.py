import json
from pathlib import Path

import pytest

from llama_factory.core.errors import DataError
from llama_factory.core.progress import SILENT
from llama_factory.data.formats import Layout
from llama_factory.data.intake import clean_sources
from llama_factory.data.sources.files import DataSource
from llama_factory.data.sources.hub import HubSet, hub_rows, look_up, pinned
from llama_factory.data.store import join_parts

ROW = {"instruction": "问", "output": "答"}


@pytest.fixture
def repo(tmp_path_factory):
    """A folder laid out as a repository on the hub."""
    tmp_path = tmp_path_factory.mktemp("repo")
    for folder, split, count in (("data", "train", 3), ("data", "test", 1), ("more", "train", 2)):
        (tmp_path / folder).mkdir(exist_ok=True)
        lines = (json.dumps(ROW) + "\n") * count
        (tmp_path / folder / f"{split}-00000.jsonl").write_text(lines)
    return str(tmp_path)


@pytest.fixture
def no_network(monkeypatch):
    import datasets.config
    import huggingface_hub.constants

    for module in (datasets.config, huggingface_hub.constants):
        monkeypatch.setattr(module, "HF_HUB_OFFLINE", True)


def test_rows_come_from_the_split_and_folder_named(repo):
    rows = list(hub_rows(HubSet(repo, folder="data")))
    assert [(row.line, row.value) for row in rows] == [(1, ROW), (2, ROW), (3, ROW)]
    assert len(list(hub_rows(HubSet(repo, split="test")))) == 1
    assert len(list(hub_rows(HubSet(repo, folder="more")))) == 2


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"split": "tran"}, "(split 'tran') cannot be read from Hugging Face: Bad split: tran."),
        (
            {"subset": "zh"},
            "(split 'train', subset 'zh') cannot be read from Hugging Face: Builder",
        ),
        (
            {"folder": "none"},
            "(split 'train', folder 'none') cannot be read from Hugging Face: The",
        ),
    ],
)
def test_a_part_that_is_not_there_is_named(repo, more, told):
    with pytest.raises(DataError) as caught:
        list(hub_rows(HubSet(repo, **more)))
    assert told in str(caught.value)


def test_without_a_network_it_says_what_was_tried_and_what_to_do(no_network):
    with pytest.raises(DataError) as caught:
        list(hub_rows(HubSet("no-one/nothing")))
    message = str(caught.value)
    told = "dataset 'no-one/nothing' (split 'train') cannot be read from Hugging Face: "
    assert message.startswith(told)
    assert (
        "Check the name and the network; or download it elsewhere, and name the folder" in message
    )


def test_programs_of_a_repository_are_never_run(tmp_path, no_network):
    (tmp_path / "set.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(DataError):
        list(hub_rows(HubSet(str(tmp_path))))
    assert not (tmp_path / "ran").exists()


def test_modelscope_needs_its_own_package():
    pytest.importorskip("datasets")
    try:
        import modelscope  # noqa: F401
    except ImportError:
        with pytest.raises(DataError, match="pip install modelscope"):
            list(hub_rows(HubSet("a/b", is_modelscope=True)))
    else:
        pytest.skip("the modelscope package is installed")


def sha(letter):
    return letter * 40


class Hub:
    """Stands for a hub: what it holds, and whether it can be reached."""

    def __init__(self, commit):
        self.commit = commit
        self.asked = []

    def __call__(self, hub):
        self.asked.append(hub)
        if self.commit is None:
            raise DataError("no route to host")
        return self.commit


def test_a_set_is_pinned_to_the_commit_that_it_is_at(tmp_path):
    said, there = [], Hub(sha("a"))
    for revision in (None, "main"):
        found = pinned(HubSet("a/b", revision=revision), tmp_path, said.append, there)
        assert (found.revision, found.content) == (sha("a"), sha("a"))
    there.commit = sha("b")
    assert pinned(HubSet("a/b"), tmp_path, said.append, there).revision == sha("b")
    assert said == []


def test_without_a_network_it_is_taken_as_it_was_and_that_is_said(tmp_path):
    said, there = [], Hub(sha("a"))
    known = pinned(HubSet("a/b"), tmp_path, said.append, there)
    there.commit = None
    assert pinned(HubSet("a/b"), tmp_path, said.append, there) == known
    assert said == [
        "'a/b' cannot be looked up on Hugging Face (no route to host); it is taken as it was when "
        "it was read last, at aaaaaaaaaaaa."
    ]
    for other in (HubSet("a/c"), HubSet("a/b", revision="v2"), HubSet("a/b", is_modelscope=True)):
        assert pinned(other, tmp_path, said.append, there) == other  # nothing is known of these
    assert len(said) == 1


def test_a_hash_of_files_is_no_revision(tmp_path):
    found = pinned(HubSet("a/b", is_modelscope=True), tmp_path, print, Hub(sha("a")))
    assert (found.revision, found.content) == (None, sha("a"))


def test_a_commit_needs_no_looking_up():
    assert look_up(HubSet("a/b", revision=sha("c"))) == sha("c")


def test_what_is_no_set_cannot_be_looked_up(no_network):
    for repo in ("a/b", "no/such/repo", "a b"):
        with pytest.raises(DataError):
            look_up(HubSet(repo))


def test_a_folder_is_known_by_what_its_files_hold(repo):
    first = look_up(HubSet(repo))
    assert look_up(HubSet(repo, folder="data", revision=sha("c"))) == first
    path = Path(repo) / "data/train-00000.jsonl"
    path.write_text(path.read_text() * 2)
    changed = look_up(HubSet(repo))
    path.rename(path.with_name("train-00001.jsonl"))
    assert len({first, changed, look_up(HubSet(repo))}) == 3


def test_a_set_that_changed_is_read_again(repo, tmp_path):
    def answers():
        source = DataSource("hub", hub=HubSet(repo, folder="data"), layout=Layout())
        how = {"num_workers": 1, "progress": SILENT}
        (taken,) = clean_sources([source], [], tmp_path / "cache", **how)
        table = join_parts(taken.parts, tmp_path / "joined")
        return {table.row(number).answer for number in range(len(table))}

    assert answers() == answers() == {"答"}
    path = Path(repo) / "data/train-00000.jsonl"
    path.write_text(json.dumps(ROW | {"output": "好"}) + "\n")
    assert answers() == {"好"}
