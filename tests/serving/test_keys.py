"""Keys: made once, kept as hashes, followed by a running server; a damaged file opens nothing."""

import json
import logging
import secrets
import stat
from pathlib import Path

import pytest

from llama_factory.core.errors import ServingError
from llama_factory.serving.access import SCOPES, ApiKey, scopes_of
from llama_factory.serving.keys import KeyRing, create_key, read_keys, revoke_key


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def test_a_key_is_256_random_bits_and_only_its_hash_is_kept(path: Path) -> None:
    made = [create_key(path, ApiKey(f"web-{number}")) for number in range(3)]
    assert len(set(made)) == 3
    for secret in made:
        assert secret.startswith("lf-")
        assert len(secret) == len("lf-") + 43  # 256 bits in base 64
        assert secret not in path.read_text()
        assert secret[3:10] not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_key_gets_in_until_it_is_revoked(path: Path) -> None:
    secret = create_key(path, ApiKey("web", ("chat",), 60, 1000))
    ring = KeyRing(path)
    owner = ring.owner(secret)
    assert owner
    assert (owner.name, owner.scopes, owner.requests_a_minute) == ("web", ("chat",), 60)
    assert ring.owner(secret + "x") is ring.owner("") is ring.owner("lf-") is None
    assert revoke_key(path, "web").revoked
    assert ring.holds(owner)
    ring.look()
    assert ring.owner(secret) is None
    assert not ring.holds(owner)
    assert [key.name for key in read_keys(path)] == ["web"]


def test_a_hash_is_no_key(path: Path) -> None:
    create_key(path, ApiKey("web"))
    assert KeyRing(path).owner(read_keys(path)[0].sha256) is None


@pytest.mark.parametrize("place", ["first", "last", "none"])
def test_a_key_is_compared_with_all_hashes_in_constant_time(
    path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """Neither how much of a key is right nor whose it is can be read from the time it takes."""
    made = {name: create_key(path, ApiKey(name)) for name in ("first", "other", "last")}
    ring, compared = KeyRing(path), list[tuple[str, str]]()
    real = secrets.compare_digest
    monkeypatch.setattr(
        secrets, "compare_digest", lambda a, b: (compared.append((a, b)), real(a, b))[1]
    )
    owner = ring.owner(made.get(place, "lf-wrong"))
    assert (owner.name if owner else "none") == place
    assert [len(one) for one, _ in compared] == [64, 64, 64]


def test_a_name_is_used_once(path: Path) -> None:
    create_key(path, ApiKey("web"))
    with pytest.raises(ServingError, match="already a key 'web'"):
        create_key(path, ApiKey("web"))
    revoke_key(path, "web")
    with pytest.raises(ServingError, match="already a key 'web'"):
        create_key(path, ApiKey("web"))


@pytest.mark.parametrize("name", ["", "a b", "../x", "API_KEY", "x" * 41, "-x", "a\n"])
def test_a_name_that_would_confuse_the_log_is_refused(path: Path, name: str) -> None:
    with pytest.raises(ServingError, match="cannot name a key"):
        create_key(path, ApiKey(name))
    assert not path.exists()


def test_what_is_not_there_is_not_revoked(path: Path) -> None:
    with pytest.raises(ServingError, match="There are: none"):
        revoke_key(path, "web")
    create_key(path, ApiKey("web"))
    with pytest.raises(ServingError, match="Did you mean 'web'"):
        revoke_key(path, "webb")
    revoke_key(path, "web")
    with pytest.raises(ServingError, match="no active key 'web'"):
        revoke_key(path, "web")


GOOD = {"name": "web", "scopes": ["chat"], "sha256": "0" * 64}
DAMAGED = [
    "",
    "{",
    "[]",
    "null",
    '{"keys": 1}',
    '{"keys": [null]}',
    "\ud800",
    "[" * 100_000,
    *(
        json.dumps({"keys": [GOOD | change]})
        for change in (
            {"name": 1},
            {"name": "a b"},
            {"scopes": "chat"},
            {"scopes": ["root"]},
            {"scopes": [[]]},
            {"sha256": ""},
            {"sha256": None},
            {"requests_a_minute": "many"},
            {"tokens_a_day": 0},
            {"tokens_a_day": True},
            {"more": 1},
            {"revoked": None},
        )
    ),
    json.dumps({"keys": [GOOD, GOOD]}),
]


@pytest.mark.parametrize("text", DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_file_ends_all_of_its_keys_and_opens_nothing(
    path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    secret = create_key(path, ApiKey("web"))
    ring = KeyRing(path, "from-the-environment")
    assert ring.owner(secret)
    before = path.read_bytes()
    caplog.set_level(logging.ERROR)
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    for _ in range(3):
        ring.look()
    assert ring.owner(secret) is None
    assert ring.is_required
    assert ring.owner("from-the-environment")
    assert f"{path} cannot be read" in ring.problem
    assert len(caplog.records) == 1
    for change in (lambda: create_key(path, ApiKey("more")), lambda: revoke_key(path, "web")):
        with pytest.raises(ServingError, match="cannot be read"):
            change()
    path.write_bytes(before)
    ring.look()
    assert ring.owner(secret)
    assert ring.problem == ""


def test_a_file_that_is_damaged_from_the_start_opens_nothing(path: Path) -> None:
    path.write_text("{")
    ring = KeyRing(path)
    assert ring.is_required
    assert ring.owner("") is None
    assert ring.problem


def test_keys_are_asked_for_once_they_were_and_then_always(path: Path) -> None:
    ring = KeyRing(path)
    assert not ring.is_required
    secret = create_key(path, ApiKey("web"))
    ring.look()
    assert ring.is_required
    path.unlink()
    ring.look()
    assert ring.is_required
    assert ring.owner(secret) is None
    assert ring.owner("") is None


def test_revoking_the_last_key_opens_nothing(path: Path) -> None:
    create_key(path, ApiKey("web"))
    revoke_key(path, "web")
    assert KeyRing(path).is_required


def test_the_key_of_the_environment_may_do_everything(path: Path) -> None:
    ring = KeyRing(path, "schlüssel")
    owner = ring.owner("schlüssel".encode().decode("latin-1"))
    assert owner
    assert owner.scopes == SCOPES
    assert KeyRing(path, "").is_required is False


@pytest.mark.parametrize(
    ("path", "scopes"),
    [
        ("/v1/chat/completions", ("chat",)),
        ("/v1/feedback", ("feedback",)),
        ("/v1/feedback/", ("feedback",)),
        ("/v1/feedback/x/y", ("feedback",)),
        ("/v1/feedbacks", ("chat",)),
        ("/v1/load_lora_adapter", ("admin",)),
        ("/metrics", ("metrics", "admin")),
        ("/", ("chat",)),
        ("", ("chat",)),
        ("//v1/feedback", ("chat",)),
    ],
)
def test_each_path_needs_a_scope(path: str, scopes: tuple[str, ...]) -> None:
    assert scopes_of(path) == scopes


def test_any_key_may_read_the_description() -> None:
    assert ApiKey("x", ("feedback",)).may_ask("/openapi.json")
    assert not ApiKey("x", ("feedback",)).may_ask("/v1/models")
    assert not ApiKey("x", ()).may_ask("/v1/models")
