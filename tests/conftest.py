"""What all tests share."""

import os

# Tiny models gain nothing from threads, and threads that wait for each other on a busy machine
# make them a hundred times slower. Read by torch at import, and by the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("on any machine", deadline=None)
settings.load_profile("on any machine")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of a test marked `variants`, all cases but the first are slow ones."""
    begun: set[str] = set()
    for item in items:
        if item.get_closest_marker("variants"):
            name = item.nodeid.partition("[")[0]
            if name in begun:
                item.add_marker(pytest.mark.slow)
            begun.add(name)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny random model; see `tests/tiny.py`."""
    from tests.tiny import make_tiny_model

    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session", autouse=True)
def _the_same_products_on_every_processor() -> Iterator[None]:
    """`model.dtype: auto` takes what a processor is fast at; what tests compare must not change."""
    import torch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cpu, "get_capabilities", dict)
        yield
