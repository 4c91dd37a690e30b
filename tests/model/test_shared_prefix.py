"""What sequences begin with in common is read once: the same states, and only where that is so."""

import pytest
import torch

from llama_factory.model.acceleration import recompute
from llama_factory.model.adapted import adapt
from llama_factory.model.chat.encoding import EncodeOptions
from llama_factory.model.chat.tokens import first_difference
from llama_factory.model.padding import LAUNCH_TOKENS, Alike, cut, cut_at_cost, is_worth_sharing
from llama_factory.model.settings import ModelSettings
from llama_factory.model.shared_prefix import SharedPrefix
from tests.tiny import ARCHITECTURES, make_tiny_model


def network_of(folder, architecture="llama", **adapter):
    given = {"adapter": {"type": "lora", "rank": 4} | adapter}
    settings = ModelSettings(
        base_model=str(make_tiny_model(folder / "m", architecture)), dtype="float32", **given
    )
    return adapt(settings, None, options=EncodeOptions(64), seed=0).network


@pytest.fixture
def ids():
    """Four sequences whose first 30 tokens are the same, padded on the right."""
    made = torch.randint(4, 200, (4, 44), generator=torch.Generator().manual_seed(0))
    made[:, :30] = made[0, :30]
    made[2, 35:] = 0
    return made


def lengths_read(network):
    """Shapes of the token ids that go through the embeddings."""
    seen = []
    embeddings = network.get_input_embeddings()
    embeddings.register_forward_hook(lambda _m, args, _o: seen.append(tuple(args[0].shape)))
    return seen


@pytest.mark.variants
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_states_and_gradients_are_those_of_whole_sequences(tmp_path, architecture, ids):
    network = network_of(tmp_path, architecture).double()
    torch.manual_seed(0)
    trained = [weight for weight in network.parameters() if weight.requires_grad]
    for weight in trained:
        weight.data.normal_(std=0.1)
    backbone = network.get_base_model().base_model
    prefix = SharedPrefix(network, is_wanted=True)
    seen = lengths_read(network)
    found = []
    for is_shared in (False, True):
        if is_shared:
            with prefix.on():
                states = backbone(input_ids=ids, use_cache=False).last_hidden_state
        else:
            states = backbone(input_ids=ids, use_cache=False).last_hidden_state
        found.append([states, *torch.autograd.grad((states**2).sum(), trained)])
    assert seen == ([(4, 44), (1, 30), (4, 14)] if prefix.is_on else [(4, 44), (4, 44)])
    assert prefix.is_on == (architecture != "mistral")  # its window pushes the first tokens out
    for whole, apart in zip(*found, strict=True):
        torch.testing.assert_close(apart, whole, rtol=1e-6, atol=1e-10)
    backbone(input_ids=ids, use_cache=False)
    assert seen[-1] == (4, 44)


def test_only_what_is_long_enough_is_read_once(tmp_path, ids):
    network = network_of(tmp_path)
    prefix = SharedPrefix(network, is_wanted=True)
    assert prefix.num_read(ids) == 4 * 44 - 3 * 30
    assert prefix.num_read(ids[:2]) == 2 * 44
    assert prefix.num_read(ids[:, 20:]) == 4 * 24
    same = ids[:1].expand(3, -1)
    assert prefix.num_read(same) == 3 + 43  # each sequence keeps a token of its own


def test_whole_rows_are_read_where_the_model_needs_them(tmp_path, ids):
    (tmp_path / "dropout").mkdir()
    random = SharedPrefix(network_of(tmp_path / "dropout", dropout=0.1), is_wanted=True)
    assert not random.is_on
    network = network_of(tmp_path)
    assert not SharedPrefix(network, is_wanted=False).is_on
    prefix = SharedPrefix(network, is_wanted=True)
    recompute(network)
    assert not prefix.is_on
    assert prefix.num_read(ids) == ids.numel()


def test_an_architecture_that_does_not_go_on_from_a_cache_reads_whole_rows(tmp_path):
    network = network_of(tmp_path)
    backbone = network.get_base_model().base_model
    plain = backbone.forward

    def counts_from_nothing(input_ids, **options):
        places = torch.arange(input_ids.shape[1])[None]
        return plain(input_ids=input_ids, position_ids=places, **options)

    backbone.forward = counts_from_nothing
    assert not SharedPrefix(network, is_wanted=True).is_on


def test_how_much_two_rows_begin_with():
    assert first_difference([1, 2, 3], [1, 2, 4, 5]) == 2
    assert first_difference([1, 2], [1, 2, 4]) == 2
    assert first_difference([], [1]) == 0


def cost(lengths, alike, start, end):
    """Tokens and launches of one run, as the model will read it."""
    count, longest = (end - start) * alike.width, max(lengths[start:end])
    shared = min([*alike.own[start:end], *alike.previous[start + 1 : end]])
    if is_worth_sharing(count, shared):
        return count * longest - (count - 1) * shared, 2
    return count * longest, 1


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("width", [1, 2])
def test_rows_that_begin_alike_are_cut_where_it_is_cheapest(seed, width):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(60, 300, (8,), generator=generator).tolist()
    previous = [0, *torch.randint(0, 60, (7,), generator=generator).tolist()]
    own = lengths if width == 1 else torch.randint(0, 60, (8,), generator=generator).tolist()
    alike = Alike(width, own, previous)
    runs, told = cut_at_cost(lengths, max_tokens=10**6, max_rows=4, alike=alike)
    assert [a for a, _ in runs] + [8] == [0] + [b for _, b in runs]
    least = [0.0]
    for end in range(1, 9):
        ways = []
        for start in range(max(0, end - 4), end):
            tokens, launches = cost(lengths, alike, start, end)
            ways.append(least[start] + tokens + launches * LAUNCH_TOKENS)
        least.append(min(ways))
    assert told == least[-1]
    assert sum(t + n * LAUNCH_TOKENS for t, n in (cost(lengths, alike, *r) for r in runs)) == told


def test_a_limit_counts_shared_tokens_once():
    lengths, alike = [100] * 6, Alike(1, [100] * 6, [0, *[80] * 5])
    assert cut(lengths, max_tokens=200, max_rows=6, alike=alike) == [(0, 6)]
    assert cut(lengths, max_tokens=200, max_rows=6) == [(0, 2), (2, 4), (4, 6)]
