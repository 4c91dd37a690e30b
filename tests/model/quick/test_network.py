"""Quick layers: states and gradients of the layers they stand for, and only where that is so."""

import copy
import statistics

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from llama_factory.model.acceleration import recompute
from llama_factory.model.adapted import adapt
from llama_factory.model.chat.encoding import EncodeOptions
from llama_factory.model.padding import IGNORED
from llama_factory.model.quick.attention import BLOCK
from llama_factory.model.quick.network import QuickNetwork, of_lengths
from llama_factory.model.settings import ModelSettings
from llama_factory.model.wrapping import switched_off, switches
from tests.tiny import make_tiny_model

LENGTHS = (41, 7, BLOCK + 40, 38)
SHARED = 30
"""Tokens that the first and the last row begin with in common."""


def network_of(folder, architecture="llama", dtype="float32", **adapter):
    plain = {} if "type" in adapter else {"type": "lora", "rank": 4}
    given = {"adapter": plain | adapter}
    base = str(make_tiny_model(folder / "m", architecture))
    settings = ModelSettings(base_model=base, dtype=dtype, **given)
    network = adapt(settings, None, options=EncodeOptions(64), seed=0).network
    torch.manual_seed(0)
    for weight in network.parameters():
        if weight.requires_grad and adapter.get("type") not in ("full", "freeze"):
            weight.data.normal_(std=0.1)
    return network.eval()


def in_float64(network):
    """The network in float64, normalisations included, which Transformers makes in float32."""
    for module in network.double().modules():
        if hasattr(module, "variance_epsilon"):
            module.forward = exact_norm(module)
    return network


def exact_norm(module):
    def forward(x):
        size = x.pow(2).mean(-1, keepdim=True) + module.variance_epsilon
        return module.weight * (x * size.rsqrt())

    return forward


def rows(order=(0, 3, 1, 2)):
    """Token ids and targets of rows of LENGTHS, those that begin alike side by side."""
    made = torch.randint(4, 200, (4, max(LENGTHS)), generator=torch.Generator().manual_seed(0))
    made[3, :SHARED] = made[0, :SHARED]
    targets = torch.full_like(made, IGNORED)
    for number, length in enumerate(LENGTHS):
        made[number, length:] = 0
        targets[number, length - 4 : length - 1] = made[number, length - 3 : length]
    return made[list(order)], targets[list(order)]


def gradients(network, ids, targets, quick=None):
    """Of the states that matter, weighted and added up; and the states."""
    backbone = network.get_base_model().base_model if hasattr(network, "get_base_model") else None
    backbone = backbone or network.base_model
    if quick is None:
        states = backbone(input_ids=ids, use_cache=False).last_hidden_state
    else:
        with quick.on(), of_lengths(targets):
            states = backbone(input_ids=ids, use_cache=False).last_hidden_state
    states = states[targets != IGNORED]
    trained = [weight for weight in network.parameters() if weight.requires_grad]
    # squares of normalised states have a gradient of zero: nothing but rounding
    pulls = torch.linspace(-1, 1, states.shape[-1], dtype=states.dtype)
    found = torch.autograd.grad((states * pulls).sum(), trained, allow_unused=True)
    return [states, *(each for each in found if each is not None)]


def one_by_one(network, ids, targets):
    found = None
    for number in range(len(ids)):
        length = int((targets[number] != IGNORED).nonzero().max()) + 2
        some = gradients(
            network, ids[number : number + 1, :length], targets[number : number + 1, :length]
        )
        found = (
            some
            if found is None
            else [
                torch.cat([found[0], some[0]]),
                *(one + other for one, other in zip(found[1:], some[1:], strict=True)),
            ]
        )
    return found


ADAPTERS = {
    "lora": {},
    "rslora": {"use_rslora": True, "rank": 8},
    "some layers": {"targets": ["q_proj", "down_proj"]},
    "pissa": {"init": "pissa"},
    "full": {"type": "full"},
}


@pytest.mark.parametrize("shares", [False, True])
@pytest.mark.parametrize("kind", ADAPTERS)
def test_states_and_gradients_are_those_of_one_row_at_a_time(tmp_path, kind, shares):
    network = in_float64(network_of(tmp_path, **ADAPTERS[kind]))
    quick = QuickNetwork(network, is_wanted=True, shares=shares)
    assert quick.is_possible
    ids, targets = rows()
    assert quick.num_read(ids, targets) == sum(LENGTHS) - (SHARED if shares else 0)
    ours = gradients(network, ids, targets, quick)
    for one, other in zip(ours, one_by_one(network, ids, targets), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("architecture", ["qwen2", "mistral", "bloom", "gpt_neox", "phi", "gemma"])
def test_networks_of_other_kinds_are_left_alone(tmp_path, architecture):
    network = in_float64(network_of(tmp_path, architecture))
    quick = QuickNetwork(network, is_wanted=True, shares=True)
    assert quick.is_possible == (architecture == "qwen2")
    ids, targets = rows()
    ours = gradients(network, ids, targets, quick)
    for one, other in zip(ours, one_by_one(network, ids, targets), strict=True):
        assert (one - other).norm() < 1e-6 * other.norm()


@pytest.mark.parametrize("adapter", [{"dropout": 0.1}, {"use_dora": True}, {"type": "ia3"}])
def test_adapters_that_compute_more_keep_their_layers(tmp_path, adapter):
    assert not QuickNetwork(
        network_of(tmp_path, **adapter), is_wanted=True, shares=True
    ).is_possible


def test_nothing_is_quick_that_is_not_wanted(tmp_path):
    quick = QuickNetwork(network_of(tmp_path), is_wanted=False, shares=True)
    assert not quick.is_possible


def test_weights_of_another_kind_are_left_to_the_layers_that_know_them(tmp_path):
    class Packed(torch.nn.Parameter):
        pass

    network = network_of(tmp_path)
    layer = network.get_base_model().model.layers[0].mlp.up_proj.base_layer
    layer.weight = Packed(layer.weight.data, requires_grad=False)
    assert not QuickNetwork(network, is_wanted=True, shares=True).is_possible


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_layers_that_compute_something_else_are_found_out(tmp_path, dtype):
    network = network_of(tmp_path, dtype=dtype)
    layers = network.get_base_model().model.layers
    assert layers[0].mlp.up_proj.weight.dtype == getattr(torch, dtype)
    assert QuickNetwork(network, is_wanted=True, shares=True).is_possible
    assert not layers[0]._forward_hooks
    layers[-1].mlp.act_fn = torch.nn.GELU()
    assert not QuickNetwork(network, is_wanted=True, shares=True).is_possible


def test_activations_may_be_computed_again(tmp_path):
    network = in_float64(network_of(tmp_path))
    quick = QuickNetwork(network, is_wanted=True, shares=True)
    ids, targets = rows()
    kept = gradients(network, ids, targets, quick)
    recompute(network.train())
    quick = QuickNetwork(network, is_wanted=True, shares=True)
    for one, other in zip(kept, gradients(network, ids, targets, quick), strict=True):
        torch.testing.assert_close(one, other)


def test_an_adapter_that_is_switched_off_is_not_computed(tmp_path):
    network = in_float64(network_of(tmp_path))
    quick = QuickNetwork(network, is_wanted=True, shares=True)
    ids, _ = rows()
    backbone = network.get_base_model().model
    with torch.no_grad(), switched_off(switches(network)):
        plain = backbone(input_ids=ids, use_cache=False).last_hidden_state
        with quick.on():
            ours = backbone(input_ids=ids, use_cache=False).last_hidden_state
    torch.testing.assert_close(ours, plain, rtol=1e-6, atol=1e-10)


def test_whoever_looks_into_a_layer_sees_it_run(tmp_path):
    network = network_of(tmp_path)
    quick = QuickNetwork(network, is_wanted=True, shares=True)
    seen = []
    backbone = network.get_base_model().model
    backbone.layers[1].mlp.up_proj.register_forward_hook(lambda *_: seen.append(1))
    with quick.on():
        backbone(input_ids=rows()[0], use_cache=False)
    assert seen == [1]


def test_half_precision_is_as_near_as_that_of_the_layers_themselves(tmp_path):
    network = network_of(tmp_path, dtype="float32")
    ids, targets = rows()
    exact = one_by_one(copy.deepcopy(network).double(), ids, targets)
    network = network.to(torch.bfloat16)
    quick = QuickNetwork(network, is_wanted=True, shares=False)
    assert quick.is_possible
    theirs = one_by_one(network, ids, targets)
    ours = gradients(network, ids, targets, quick)
    ratios = [
        float((one.double() - right).norm().detach() / (other.double() - right).norm().detach())
        for one, other, right in zip(ours, theirs, exact, strict=True)
    ]
    assert max(ratios) < 2
    assert statistics.mean(ratios) < 1.25


def test_layers_in_bfloat16_that_compute_something_else_are_found_out(tmp_path):
    network = network_of(tmp_path, dtype="bfloat16")
    layers = network.get_base_model().model.layers
    assert QuickNetwork(network, is_wanted=True, shares=True).is_possible
    layers[1].mlp.act_fn = torch.nn.GELU()
    assert not QuickNetwork(network, is_wanted=True, shares=True).is_possible


class Calls(TorchDispatchMode):
    """Counts the operations that torch is asked for, views aside."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += not function.is_view
        return function(*args, **(kwargs or {}))


def test_a_layer_takes_no_more_operations_than_it_did(tmp_path):
    """A bound on purpose just above today's number: more calls are to be meant."""
    network = network_of(tmp_path)
    quick = QuickNetwork(network, is_wanted=True, shares=False)
    ids, targets = rows(order=(0,))
    gradients(network, ids, targets, quick)
    with Calls() as calls:
        gradients(network, ids, targets, quick)
    num_layers = len(network.get_base_model().model.layers)
    assert calls.count / num_layers < MOST_CALLS


MOST_CALLS = 200
"""Operations forward and backward, for each layer of a pass of one short row."""
