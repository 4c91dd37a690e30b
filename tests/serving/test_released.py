"""Releases are followed whatever goes wrong, and the version released before goes on answering."""

import asyncio
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from llama_factory.core import files
from llama_factory.core.errors import VersionError
from llama_factory.core.types import Message
from llama_factory.inference.question import Options, Question
from llama_factory.serving import released as following
from llama_factory.serving.engines.local import LocalEngine
from llama_factory.serving.outcome import Asked, Caller
from llama_factory.serving.released import ReleasedVersions
from llama_factory.serving.service import Gateway
from llama_factory.serving.settings import ServingSettings
from llama_factory.versions import releases, store
from llama_factory.versions.version import MANIFEST
from llama_factory.versions.workspace import Workspace
from tests.serving.running import make_engine, without_numbers
from tests.tiny import publish_adapter, publish_version

ERRORS = (OSError(28, "no space left"), ValueError("a"), KeyError("b"), RuntimeError("c"))
ASKED = Question((Message("user", "hello"),))


@pytest.fixture(scope="module")
def shared_engine(tiny_model: Path) -> LocalEngine:
    return make_engine(tiny_model)


@pytest.fixture
def engine(shared_engine: LocalEngine) -> LocalEngine:
    async def empty() -> None:
        for version_id in shared_engine.loaded - {"v0000"}:
            await shared_engine.unload(version_id)

    asyncio.run(empty())
    return shared_engine


class Followed:
    """A workspace's releases, looked at by hand."""

    def __init__(self, workspace: Workspace, engine: LocalEngine) -> None:
        self.gateway = Gateway(workspace, ServingSettings(max_versions=1), engine)
        self.released = self.gateway.released

    async def look(self) -> str:
        """Look, let what is loading end, and look again; gives the version that answers."""
        await self.released.begin()
        await self.released.look()
        loading = [attempt.loading for attempt in self.released._attempts.values()]
        if loading:
            await asyncio.wait(loading)
        await self.released.look()
        return self.released.production

    async def answered_by(self) -> str:
        """The version that answers a request now."""
        options = Options(max_tokens=1, temperature=0)
        answering = self.gateway.ask(Asked("1", "production", Caller(), ((ASKED, options),)))
        assert [event async for event in self.gateway.events(answering)]
        return answering.version_id


def follow(
    workspace: Workspace,
    engine: LocalEngine,
    spoil: Callable[[], object],
    mend: Callable[[], object],
) -> list[str]:
    """Who answers before v0002 is promoted, while something is wrong with it, and once mended."""

    async def run() -> list[str]:
        followed = Followed(workspace, engine)
        told = [await followed.look()]
        releases.promote(workspace.releases, "v0002", "test")
        spoil()
        told += [await followed.look(), await followed.answered_by()]
        mend()
        told += [await followed.look(), await followed.answered_by()]
        return told

    return asyncio.run(run())


def begun(workspace: Workspace, engine: LocalEngine) -> ReleasedVersions:
    followed = Followed(workspace, engine)
    asyncio.run(followed.released.begin())
    return followed.released


MENDED = ["v0001", "v0001", "v0001", "v0002", "v0002"]


def touched(workspace: Workspace) -> None:
    """The operator writes the release again."""
    releases.promote(workspace.releases, "v0002", "again")


@pytest.mark.variants
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("step", ["releases.read", "store.get", "engine.load", "state", "ids"])
def test_whatever_fails_the_old_version_answers_and_a_later_release_arrives(
    own_workspace: Workspace,
    engine: LocalEngine,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    error: Exception,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    places = {
        "releases.read": (releases, "read"),
        "store.get": (store, "get"),
        "engine.load": (engine, "load"),
        "state": (following, "_state"),
        "ids": (store, "ids"),
    }

    def spoil() -> None:
        monkeypatch.setattr(*places[step], fail)

    def mend() -> None:
        monkeypatch.undo()
        touched(own_workspace)

    assert follow(own_workspace, engine, spoil, mend) == MENDED


def _no_manifest(folder: Path) -> None:
    (folder / MANIFEST).unlink()


def _half_a_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_text("{", encoding="utf-8")


def _a_list_as_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_text("[1]", encoding="utf-8")


def _no_weights(folder: Path) -> None:
    (folder / "adapter/adapter_model.safetensors").unlink()


def _half_the_weights(folder: Path) -> None:
    path = folder / "adapter/adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    _sealed(folder)


def _weights_of_another_shape(folder: Path) -> None:
    path = folder / "adapter/adapter_model.safetensors"
    weights = load_file(path)
    save_file({name: weight[:1, :1].clone() for name, weight in weights.items()}, path)
    _sealed(folder)


def _weights_that_are_no_numbers(folder: Path) -> None:
    path = folder / "adapter/adapter_model.safetensors"
    save_file({name: weight * float("inf") for name, weight in load_file(path).items()}, path)
    _sealed(folder)


def _a_config_that_is_no_json(folder: Path) -> None:
    (folder / "adapter/adapter_config.json").write_bytes(b"\xff\xfe{")
    _sealed(folder)


def _a_config_of_another_kind(folder: Path) -> None:
    (folder / "adapter/adapter_config.json").write_text('{"peft_type": "NONE"}', encoding="utf-8")
    _sealed(folder)


def _no_adapter(folder: Path) -> None:
    shutil.rmtree(folder / "adapter")
    _sealed(folder)


def _no_folder(folder: Path) -> None:
    shutil.rmtree(folder)


def _a_file_for_a_folder(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("", encoding="utf-8")


def _sealed(folder: Path) -> None:
    """The checksums fit, as if the version had been made like this."""
    manifest = files.read_json(folder / MANIFEST)
    manifest["files"] = files.hash_folder(folder, leave_out=frozenset({MANIFEST}))
    files.write_json(folder / MANIFEST, manifest)


DAMAGES = (
    _no_manifest,
    _half_a_manifest,
    _a_list_as_manifest,
    _no_weights,
    _half_the_weights,
    _weights_of_another_shape,
    _weights_that_are_no_numbers,
    _a_config_that_is_no_json,
    _a_config_of_another_kind,
    _no_adapter,
    _no_folder,
    _a_file_for_a_folder,
)


@pytest.mark.variants
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__.strip("_"))
def test_a_damaged_version_does_not_take_over_until_its_files_are_mended(
    own_workspace: Workspace,
    engine: LocalEngine,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Path], None],
) -> None:
    folder, kept = own_workspace.versions / "v0002", tmp_path / "kept"
    shutil.copytree(folder, kept)

    def mend() -> None:
        folder.unlink() if folder.is_file() else shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(kept, folder)

    assert follow(own_workspace, engine, lambda: damage(folder), mend) == MENDED
    said = [record for record in caplog.records if record.levelname == "ERROR"]
    assert len(said) == 1
    assert "v0001 goes on answering: v0002 cannot be served" in said[0].getMessage()


@pytest.mark.variants
@pytest.mark.parametrize(
    "text",
    [
        b"{half",
        b"\xff\xfe\x00",
        b"[]",
        b"5",
        b"null",
        b"{}",
        b'{"aliases": 5, "history": []}',
        b'{"aliases": {}, "history": []}',
        b'{"aliases": {"production": null}, "history": []}',
        b'{"aliases": {"production": ["v0001"]}, "history": []}',
        b'{"aliases": {"production": "../../v0002"}, "history": []}',
        b'{"aliases": {"production": "v0001", "previous": 7}, "history": []}',
        b'{"aliases": {"production": "v0001"}, "history": [{"time": 1}]}',
        b'{"aliases": {"production": "v0001"}, "history": 7}',
        b"[" * 100_000,
    ],
)
def test_damaged_releases_leave_the_old_version_answering(
    own_workspace: Workspace, engine: LocalEngine, text: bytes
) -> None:
    path = own_workspace.releases

    def mend() -> None:
        path.unlink()
        releases.promote(path, "v0002", "mended")

    assert follow(own_workspace, engine, lambda: path.write_bytes(text), mend) == MENDED


def test_a_version_that_fails_is_tried_and_told_once_until_something_changes(
    own_workspace: Workspace,
    engine: LocalEngine,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried: list[str] = []

    async def run() -> None:
        followed = Followed(own_workspace, engine)
        await followed.look()
        prepare = followed.gateway.versions.prepare

        async def counting(version_id: str) -> None:
            tried.append(version_id)
            await prepare(version_id)

        monkeypatch.setattr(followed.gateway.versions, "prepare", counting)
        _no_weights(own_workspace.versions / "v0002")
        releases.promote(own_workspace.releases, "v0002", "test")
        for _ in range(5):
            assert await followed.look() == "v0001"
        assert tried == ["v0002"]
        assert len(caplog.records) == 1
        touched(own_workspace)
        assert await followed.look() == "v0001"
        assert tried == ["v0002", "v0002"]

    asyncio.run(run())


def test_what_went_wrong_for_a_moment_is_tried_again_after_a_while(
    own_workspace: Workspace, engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def failing(_: object) -> None:
        raise ZeroDivisionError

    def spoil() -> None:
        monkeypatch.setattr(engine, "load", failing)

    def mend() -> None:
        monkeypatch.undo()
        monkeypatch.setattr(following, "RETRY_SECONDS", 0.0)

    assert follow(own_workspace, engine, spoil, mend) == MENDED


def test_a_rollback_during_a_failing_release_is_obeyed(
    own_workspace: Workspace, engine: LocalEngine
) -> None:
    async def run() -> None:
        followed = Followed(own_workspace, engine)
        _no_weights(own_workspace.versions / "v0002")
        releases.promote(own_workspace.releases, "v0002", "test")
        assert await followed.look() == "v0001"
        releases.promote(own_workspace.releases, "v0000", "rolled back")
        assert await followed.look() == "v0000"

    asyncio.run(run())


def test_the_version_that_a_rollback_would_bring_back_is_loaded_before(
    own_workspace: Workspace, engine: LocalEngine, caplog: pytest.LogCaptureFixture
) -> None:
    releases.promote(own_workspace.releases, "v0002", "test")

    async def run() -> None:
        followed = Followed(own_workspace, engine)
        await followed.released.begin()
        assert engine.loaded == {"v0000", "v0002"}
        await followed.look()
        assert engine.loaded == {"v0000", "v0001", "v0002"}
        _no_weights(own_workspace.versions / "v0001")
        releases.promote(own_workspace.releases, "v0001", "rolled back")
        assert await followed.look() == "v0001"

    asyncio.run(run())
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


def test_releases_are_logged(
    own_workspace: Workspace, engine: LocalEngine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    assert follow(own_workspace, engine, lambda: None, lambda: None)[1] == "v0002"
    assert caplog.messages == ["v0002 is released and answers instead of v0001"]


@pytest.mark.variants
@pytest.mark.parametrize(
    ("broken", "expected"),
    [((), "v0003"), (("v0003",), "v0002"), (("v0003", "v0002"), "v0001")],
)
def test_a_server_starts_with_the_last_released_version_that_answers(
    own_workspace: Workspace,
    engine: LocalEngine,
    tiny_model: Path,
    caplog: pytest.LogCaptureFixture,
    broken: tuple[str, ...],
    expected: str,
) -> None:
    publish_version(own_workspace, tiny_model, marker_seed=3)
    for version in ("v0002", "v0003"):
        releases.promote(own_workspace.releases, version, "test")
    for version in broken:
        _no_weights(own_workspace.versions / version)
    found = begun(own_workspace, engine)
    assert (found.production, found.released) == (expected, "v0003")
    assert found.version_named("production") == found.version_named("my-bot") == expected
    assert all(f"{version} cannot be served" in caplog.text for version in broken)


def test_a_server_does_not_start_where_no_released_version_answers(
    own_workspace: Workspace, engine: LocalEngine, tiny_model: Path
) -> None:
    broken = publish_adapter(own_workspace, tiny_model, without_numbers(tiny_model)).id
    entry = {"time": "", "aliases": {"production": broken}, "why": ""}
    text = json.dumps({"aliases": {"production": broken}, "history": [entry]})
    own_workspace.releases.write_text(text, encoding="utf-8")
    with pytest.raises(VersionError, match="no numbers"):
        begun(own_workspace, engine)
