import pytest
import torch
from torch import nn
from torch.nn import functional as F

from llama_factory.model import output_head
from llama_factory.model.adapted import adapt
from llama_factory.model.chat.encoding import EncodeOptions
from llama_factory.model.output_head import PAIR_ROWS, TokenLogProbs, divergence, head_log_probs
from llama_factory.model.padding import IGNORED, LAUNCH_TOKENS, cut
from llama_factory.model.settings import ModelSettings
from tests.tiny import ARCHITECTURES, make_tiny_model


@pytest.mark.parametrize("trains_head", [False, True])
@pytest.mark.parametrize("has_bias", [False, True])
def test_chunked_head_equals_the_plain_one_in_value_and_gradient(
    monkeypatch, trains_head, has_bias
):
    monkeypatch.setattr(output_head, "CHUNK_ROWS", 4)
    torch.manual_seed(0)
    hidden = torch.randn(11, 8, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(20, 8, dtype=torch.float64, requires_grad=trains_head)
    bias = torch.randn(20, dtype=torch.float64, requires_grad=trains_head) if has_bias else None
    targets = torch.randint(0, 20, (11,))
    factors = torch.rand(11)
    inputs = [hidden] + ([weight] if trains_head else [])

    def gradients(values):
        return torch.autograd.grad((values * factors).sum(), inputs)

    ours = head_log_probs(hidden, weight, bias, targets)
    logits = F.linear(hidden, weight, bias)
    plain = -F.cross_entropy(logits, targets, reduction="none")
    torch.testing.assert_close(ours.double(), plain, rtol=1e-5, atol=1e-5)
    for one, two in zip(gradients(ours), gradients(plain.float()), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


@pytest.mark.variants
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_right_padding_without_a_mask_equals_each_row_alone(tmp_path, architecture):
    folder = make_tiny_model(tmp_path / "m", architecture)
    settings = ModelSettings(base_model=str(folder), dtype="float32")
    model = adapt(settings, None, options=EncodeOptions(64), seed=0)
    kernel = TokenLogProbs(model.network)
    long, short = [7, 8, 9, 10, 11, 12], [20, 21, 22]
    ids = torch.tensor([long, [*short, 0, 0, 0]])
    targets = torch.tensor([[*long[1:], IGNORED], [*short[1:], *[IGNORED] * 4]])
    together = kernel(ids, targets)
    plain = []
    for row in (long, short):
        logits = model.network(input_ids=torch.tensor([row])).logits[0, :-1].log_softmax(-1)
        plain.append(logits.gather(1, torch.tensor(row[1:])[:, None])[:, 0])
    torch.testing.assert_close(together, torch.cat(plain), rtol=1e-4, atol=1e-5)


def test_a_head_that_scales_its_logits_is_noticed(tmp_path, caplog):
    folder = make_tiny_model(tmp_path / "m", "gemma")
    settings = ModelSettings(base_model=str(folder), dtype="float32")
    model = adapt(settings, None, options=EncodeOptions(64), seed=0)
    causal = model.network.get_base_model()
    forward = causal.forward

    def capped(*args, **options):
        out = forward(*args, **options)
        out.logits = torch.tanh(out.logits / 2) * 2
        return out

    causal.forward = capped
    kernel = TokenLogProbs(model.network)
    assert "changes its logits after the output head" in caplog.text
    ids = torch.tensor([[7, 8, 9]])
    expected = capped(input_ids=ids).logits[0, :2].log_softmax(-1)
    expected = expected.gather(1, torch.tensor([[8], [9]]))[:, 0]
    torch.testing.assert_close(kernel(ids, torch.tensor([[8, 9, IGNORED]])), expected)


def brute_force(lengths, max_tokens, max_rows):
    """Least cost over all cuts, by trying them all."""
    best = float("inf")
    for mask in range(2 ** (len(lengths) - 1)):
        runs, start = [], 0
        for end in range(1, len(lengths) + 1):
            if end == len(lengths) or mask >> (end - 1) & 1:
                runs.append(lengths[start:end])
                start = end
        fits = all(
            len(r) == 1 or (len(r) * r[-1] <= max_tokens and len(r) <= max_rows) for r in runs
        )
        if fits:
            best = min(best, sum(len(r) * r[-1] + LAUNCH_TOKENS for r in runs))
    return best


@pytest.mark.parametrize("seed", range(20))
def test_the_cut_into_micro_batches_is_the_cheapest(seed):
    generator = torch.Generator().manual_seed(seed)
    lengths = sorted(torch.randint(10, 300, (9,), generator=generator).tolist())
    runs = cut(lengths, max_tokens=600, max_rows=4)
    assert [a for a, _ in runs] + [9] == [0] + [b for _, b in runs]
    cost = sum((b - a) * lengths[b - 1] + LAUNCH_TOKENS for a, b in runs)
    assert cost == brute_force(lengths, 600, 4)


def test_a_head_that_trains_as_a_whole_is_still_a_plain_one(tmp_path, caplog):
    folder = make_tiny_model(tmp_path / "m")
    adapter = {"type": "lora", "rank": 4, "modules_to_save": ["lm_head"]}
    settings = ModelSettings(base_model=str(folder), dtype="float32", adapter=adapter)
    model = adapt(settings, None, options=EncodeOptions(64), seed=0)
    kernel = TokenLogProbs(model.network)
    assert "changes its logits" not in caplog.text
    kernel(torch.tensor([[7, 8, 9]]), torch.tensor([[8, 9, IGNORED]])).sum().backward()
    head = next(w for name, w in model.trainable().items() if "lm_head" in name)
    assert head.grad is not None
    assert head.grad.abs().sum() > 0


def directly(states, reference, head, temperature):
    soft = (head(states) / temperature).log_softmax(-1)
    goal = (head(reference) / temperature).log_softmax(-1)
    return F.kl_div(soft, goal, reduction="none", log_target=True).sum(-1)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("count", [1, PAIR_ROWS, PAIR_ROWS + 5])
def test_value_and_gradient_are_those_of_full_logits(count, has_bias, temperature):
    torch.manual_seed(0)
    head = nn.Linear(16, 50, bias=has_bias).requires_grad_(False)
    states, reference = torch.randn(count, 16), torch.randn(count, 16)
    shares = torch.rand(count)
    ours, plain = (states.clone().requires_grad_() for _ in range(2))
    apart = divergence(ours, reference, head, temperature)
    (apart * shares).sum().backward()
    wanted = directly(plain, reference, head, temperature)
    (wanted * shares).sum().backward()
    torch.testing.assert_close(apart, wanted)
    torch.testing.assert_close(ours.grad, plain.grad)


def test_it_is_zero_and_flat_where_both_agree():
    states = torch.randn(7, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
    head = nn.Linear(16, 50).requires_grad_(False)
    apart = divergence(states, states.detach().clone(), head, 1.0)
    apart.sum().backward()
    assert apart.abs().max() < 1e-6
    assert states.grad.abs().max() < 1e-6


def test_logits_go_through_as_they_are():
    torch.manual_seed(0)
    logits, goal = torch.randn(5, 50, requires_grad=True), torch.randn(5, 50)
    apart = divergence(logits, goal, nn.Identity(), 2.0)
    torch.testing.assert_close(apart, directly(logits, goal, nn.Identity(), 2.0))


def test_nothing_trained_is_an_empty_result():
    empty = torch.zeros(0, 16, requires_grad=True)
    apart = divergence(empty, empty.detach(), nn.Linear(16, 50).requires_grad_(False), 1.0)
    assert apart.shape == (0,)
