"""A version as one file: what goes in comes out the same, and nothing else comes out."""

import io
import json
import tarfile

import pytest
import zstandard

from llama_factory import upkeep
from llama_factory.core import files
from llama_factory.core.errors import VersionError
from llama_factory.core.ownership import owned
from llama_factory.versions import archive, releases, store
from llama_factory.versions.version import ModelVersion
from tests.tiny import make_workspace
from tests.versions.test_store import add_version, question

BASE = {"id": "v0000", "bytes": 10_000}


@pytest.fixture
def workspace(tmp_path):
    bot = make_workspace(tmp_path / "bot", tmp_path / "model")
    add_version(bot, held_out=[question("one?")])
    add_version(bot)  # a branch that does not belong to the next
    add_version(bot, parent="v0001", held_out=[question("two?")])
    return bot


def folder_of(workspace, version_id):
    return files.hash_folder(workspace.versions / version_id)


def test_a_version_comes_out_with_its_lineage_byte_by_byte(workspace, tmp_path):
    path = tmp_path / "bot.tar.zst"
    assert archive.pack(workspace, "v0003", path) == ["v0000", "v0001", "v0003"]
    taken = upkeep.unpack(tmp_path / "new", path)
    assert taken.version == "v0003"
    assert taken.added == ("v0001", "v0003")
    new = make_bot(tmp_path / "new")
    for version_id in taken.added:
        assert folder_of(new, version_id) == folder_of(workspace, version_id)
    assert store.ids(new) == ["v0000", "v0001", "v0003"]
    assert releases.read(new.releases).production == "v0000"
    assert [task.name for task in store.tasks(store.get(new, "v0003"))] == [
        "v0001 faq",
        "v0003 faq",
    ]


def make_bot(folder):
    from llama_factory.versions.workspace import Workspace

    return Workspace.open(folder)


def test_what_is_here_already_stays_and_a_second_time_changes_nothing(workspace, tmp_path):
    path = tmp_path / "bot.tar.zst"
    archive.pack(workspace, "v0003", path)
    assert archive.unpack(workspace, path).added == ()
    other = make_workspace(tmp_path / "other", tmp_path / "model")
    archive.unpack(other, path)
    again = archive.unpack(other, path)
    assert (again.added, again.known) == ((), ("v0000", "v0001", "v0003"))


def test_another_version_of_the_same_id_is_refused(workspace, tmp_path):
    path = tmp_path / "bot.tar.zst"
    archive.pack(workspace, "v0001", path)
    other = make_workspace(tmp_path / "other", tmp_path / "model")
    add_version(other, held_out=[question("another?")])
    before = folder_of(other, "v0001")
    with pytest.raises(VersionError, match="v0001 of the archive is another version than"):
        archive.unpack(other, path)
    assert folder_of(other, "v0001") == before
    assert store.ids(other) == ["v0000", "v0001"]


def test_another_base_model_is_refused(workspace, tmp_path):
    path = tmp_path / "bot.tar.zst"
    archive.pack(workspace, "v0001", path)
    other = make_workspace(tmp_path / "other", tmp_path / "elsewhere")
    with pytest.raises(VersionError, match=r"base model is .*elsewhere"):
        archive.unpack(other, path)
    assert store.ids(other) == ["v0000"]


def test_a_damaged_version_is_not_packed_and_no_file_is_replaced(workspace, tmp_path):
    (tmp_path / "there").write_text("mine")
    with pytest.raises(VersionError, match="exists"):
        archive.pack(workspace, "v0001", tmp_path / "there")
    (workspace.versions / "v0001/report.json").write_text("{}")
    with pytest.raises(VersionError, match=r"report.json is missing or was changed"):
        archive.pack(workspace, "v0003", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def written(path, members, header=None):
    """An archive by hand: `members` are (TarInfo, bytes)."""
    header = header or {
        "format": 1,
        "version": "v0001",
        "base_model": "x",
        "versions": [BASE, {"id": "v0001", "bytes": 10}],
    }
    first = (tarfile.TarInfo("archive.json"), json.dumps(header).encode())
    with (
        path.open("wb") as file,
        zstandard.ZstdCompressor().stream_writer(file) as packed,
        tarfile.open(fileobj=packed, mode="w|") as tar,
    ):
        for info, content in [first, *members]:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def linked(name, kind, target):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    ("info", "content", "reason"),
    [
        (tarfile.TarInfo("../evil"), b"x", "which is no file of its versions"),
        (tarfile.TarInfo("v0001/../../evil"), b"x", "which is no file of its versions"),
        (tarfile.TarInfo("/evil"), b"x", "which is no file of its versions"),
        (tarfile.TarInfo("v0002/evil"), b"x", "which is no file of its versions"),
        (tarfile.TarInfo("v0001\\evil"), b"x", "which is no file of its versions"),
        (linked("v0001/link", tarfile.SYMTYPE, "/etc/passwd"), b"", "no plain file"),
        (linked("v0001/link", tarfile.LNKTYPE, "../../evil"), b"", "no plain file"),
        (linked("v0001/pipe", tarfile.FIFOTYPE, ""), b"", "no plain file"),
        (tarfile.TarInfo("v0001/big"), b"0" * 11, "holds more than announced"),
    ],
)
def test_tricks_are_refused_and_nothing_is_left(workspace, tmp_path, info, content, reason):
    path = written(tmp_path / "evil", [(info, content)])
    before = files.hash_folder(tmp_path)
    with pytest.raises(VersionError, match=reason):
        archive.unpack(workspace, path)
    after = files.hash_folder(tmp_path)
    assert {name for name in after if name not in before} <= {"bot/.round.lock"}


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({"format": 2}, "its format is 2"),
        ({"versions": [{"id": "../x", "bytes": 1}]}, "it announces the versions"),
        ({"versions": []}, "it announces the versions"),
        ({"versions": [{"id": "v0001", "bytes": 1}, BASE]}, "it announces"),
        ({"versions": [BASE, {"id": "v0001", "bytes": "many"}]}, "invalid literal"),
        ({"versions": [BASE, {"id": "v0001", "bytes": 10**18}]}, "needs about"),
    ],
)
def test_a_header_that_cannot_be_is_refused(workspace, tmp_path, header, reason):
    usual = {"format": 1, "version": "v0001", "base_model": "x", "versions": [BASE]}
    path = written(tmp_path / "evil", [], usual | header)
    with pytest.raises(VersionError, match=reason):
        archive.unpack(workspace, path)


def test_files_that_are_no_archives_and_cut_ones_are_told(workspace, tmp_path):
    (tmp_path / "text").write_text("no archive")
    path = tmp_path / "bot.tar.zst"
    archive.pack(workspace, "v0003", path)
    (tmp_path / "cut").write_bytes(path.read_bytes()[:-40])
    other = make_workspace(tmp_path / "other", tmp_path / "model")
    for name in ("text", "cut"):
        with pytest.raises(VersionError, match="is damaged or no archive|is missing or"):
            archive.unpack(other, tmp_path / name)
    with pytest.raises(VersionError, match="there is no such file"):
        archive.unpack(other, tmp_path / "nothing")
    assert store.ids(other) == ["v0000"]


def test_a_changed_file_in_an_archive_is_noticed(workspace, tmp_path):
    version = ModelVersion.read(workspace.versions / "v0001")
    manifest = (version.folder / "manifest.json").read_bytes()
    report = b'{"evaluation": {"tasks": [], "guard_perplexity": 1.0, "seconds": 0}}'
    sizes = [BASE, {"id": "v0001", "bytes": 100_000}]
    base = workspace.versions / "v0000"
    whole = [
        (tarfile.TarInfo(f"v0000/{path.name}"), path.read_bytes())
        for path in base.iterdir()
        if path.is_file()
    ]
    members = [
        *whole,
        (tarfile.TarInfo("v0001/manifest.json"), manifest),
        (tarfile.TarInfo("v0001/report.json"), report),
    ]
    header = {"format": 1, "version": "v0001", "base_model": "x", "versions": sizes}
    other = make_workspace(tmp_path / "other", tmp_path / "model")
    with pytest.raises(VersionError, match="is missing or was changed"):
        archive.unpack(other, written(tmp_path / "evil", members, header))
    assert store.ids(other) == ["v0000"]


@pytest.mark.slow
def test_a_round_in_progress_and_an_archive_name_each_other(workspace, tmp_path):
    path = tmp_path / "bot.tar.zst"
    archive.pack(workspace, "v0003", path)
    with (
        owned(workspace.lock, what="running a round here"),
        pytest.raises(VersionError, match=r"process \d+ is already running a round here \(on"),
    ):
        archive.unpack(workspace, path)
