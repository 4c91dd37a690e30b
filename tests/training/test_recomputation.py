from types import SimpleNamespace

import pytest

from llama_factory.model.base import load_network
from llama_factory.model.settings import ModelSettings
from llama_factory.training.device_memory import (
    MemoryEstimate,
    describe_choice,
    needs_recomputation,
    with_recomputation,
)


@pytest.mark.parametrize(
    ("choice", "to_come", "is_needed"),
    [
        ("auto", 89, False),
        ("auto", 91, True),
        (True, 1, True),
        (False, 1000, False),
    ],
)
def test_activations_are_computed_again_where_they_do_not_fit(choice, to_come, is_needed):
    estimate = SimpleNamespace(to_come=to_come)
    assert needs_recomputation(choice, estimate, free=100) is is_needed


def test_the_input_of_each_layer_and_one_whole_layer_remain(tiny):
    network = load_network(tiny, ModelSettings(dtype="float32"))
    kept = MemoryEstimate(weights=1, gradients=2, optimizer=3, activations=1_000_000)
    found = with_recomputation(kept, network, num_tokens=10)
    assert found.activations == 2 * 10 * 32 * 4 + 500_000
    assert (found.weights, found.gradients, found.optimizer) == (1, 2, 3)


def test_people_are_told_what_was_chosen_and_why():
    assert describe_choice("auto", is_needed=False) == "Activations are kept: they fit."
    assert describe_choice(False, is_needed=False) == "Activations are kept: as set."
    assert describe_choice(True, is_needed=True).endswith("(about a third slower): as set.")
    assert describe_choice("auto", is_needed=True).endswith("they would not fit into memory.")
