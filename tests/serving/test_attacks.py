"""Attacks on a real server: each gets what docs/serving_attacks.md says, and harms nobody else."""

import re
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.serving import attacks_by_request, attacks_on_files  # noqa: F401  # they list attacks
from tests.serving.attacked import Attacked, attacked
from tests.serving.attacks import ATTACKS, Attack
from tests.serving.running import make_released_workspace

PAGE = Path(__file__).parents[2] / "docs" / "serving_attacks.md"
MOST_BYTES = 500_000_000
"""What all attacks together may add to the server's memory."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Attacked]:
    folder = tmp_path_factory.mktemp("attacked") / "my-bot"
    with attacked(make_released_workspace(folder, tiny_model), tiny_model) as server:
        yield server


@pytest.fixture(scope="module")
def memory(server: Attacked) -> int:
    return psutil.Process(server.process.pid).memory_info().rss


def written(title: str) -> str:
    """What the page says that an attack got."""
    rows = re.findall(r"^\| (.*) \| (.*) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return dict(rows)[title]


@pytest.mark.slow
@pytest.mark.parametrize("attack", ATTACKS, ids=[each.title for each in ATTACKS])
def test_an_attack_gets_what_the_page_says_and_harms_nobody(
    server: Attacked, memory: int, attack: Attack
) -> None:
    assert attack.run(server) == written(attack.title)
    assert server.chat() == "200"
    assert server.health()["version"] == "v0001"
    assert psutil.Process(server.process.pid).memory_info().rss < memory + MOST_BYTES


def test_the_page_has_exactly_these_attacks() -> None:
    titles = [each.title for each in ATTACKS]
    rows = re.findall(r"^\| (.*) \| .* \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert [row for row in rows if row != "what is done"] == titles


def test_every_attack_has_a_title_of_its_own() -> None:
    titles = [each.title for each in ATTACKS]
    assert len(set(titles)) == len(titles)


@pytest.mark.slow
def test_the_log_has_no_traceback_and_nothing_that_was_said(server: Attacked) -> None:
    log = (server.workspace.folder / "server.log").read_text()
    assert "Traceback" not in log
    assert "hello" not in log
    assert server.key not in log
