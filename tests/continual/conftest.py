"""Runs that several tests compare with."""

import pytest

from tests.continual.small import fit, flat, make, rows


@pytest.fixture(scope="session")
def plain(tiny_model, tmp_path_factory):
    """All trained weights after a first and a second round without any strategy."""
    model, path = make(tiny_model), tmp_path_factory.mktemp("plain")
    return [flat(fit(model, path / group, rows(group, 6)).model) for group in "ab"]
