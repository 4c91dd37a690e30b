"""The Fisher information against calculations by hand."""

import pytest
import torch

from llama_factory.continual.fisher import (
    EMPIRICAL,
    SAMPLED,
    Fisher,
    diagonal,
    draw,
    measure,
)
from llama_factory.continual.low_rank import low_rank_layers
from llama_factory.continual.strategy_rows import encoded, padded
from llama_factory.model.padding import IGNORED
from tests.continual.small import make, rows, shake


def softmax_scores(weight, inputs, labels):
    return ((weight @ x).log_softmax(0)[y] for x, y in zip(inputs, labels, strict=True))


def test_the_fisher_of_softmax_regression_is_its_closed_form():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 4, generator=generator, requires_grad=True)
    inputs = torch.randn(50, 4, generator=generator)
    labels = torch.randint(3, (50,), generator=generator)
    (measured,) = diagonal(softmax_scores(weight, inputs, labels), {"w": weight}).values()
    p = (inputs @ weight.detach().T).softmax(1)
    error = torch.nn.functional.one_hot(labels, 3) - p  # [rows, classes]
    expected = (error.square()[:, :, None] * inputs.square()[:, None, :]).mean(0)
    torch.testing.assert_close(measured, expected)


@pytest.mark.slow
def test_with_drawn_labels_it_tends_to_the_true_fisher_information():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 2, generator=generator, requires_grad=True)
    inputs = torch.randn(2, generator=generator).expand(5_000, 2)
    p = (weight.detach() @ inputs[0]).softmax(0)
    labels = torch.multinomial(p, 5_000, replacement=True, generator=generator)
    (measured,) = diagonal(softmax_scores(weight, inputs, labels), {"w": weight}).values()
    expected = (p * (1 - p))[:, None] * inputs[0].square()
    torch.testing.assert_close(measured, expected, rtol=0.1, atol=0)


def by_loops(model, codes):
    """Squares of per-row gradients, with Transformers' own loss and one backward pass a row."""
    sums = {name: torch.zeros_like(weight) for name, weight in model.trainable().items()}
    model.network.eval()
    for code in codes:
        labels = [t if on else -100 for t, on in zip(code.ids, code.is_trained, strict=True)]
        model.network.zero_grad()
        output = model.network(input_ids=torch.tensor([code.ids]), labels=torch.tensor([labels]))
        (-output.loss * code.num_trained).backward()
        for name, weight in model.trainable().items():
            sums[name] += weight.grad**2
    model.network.zero_grad()
    return {name: total / len(codes) for name, total in sums.items()}


def test_the_fisher_of_a_llama_equals_that_of_explicit_loops(tiny_model):
    model = shake(make(tiny_model, dropout=0.5))
    model.network.train()  # measuring must not: no dropout
    codes = encoded(model, rows("退货", 4))
    fisher = measure(model, codes, {}, kind=EMPIRICAL, seed=0)
    assert model.network.training
    expected = by_loops(model, codes)
    assert fisher.weights.keys() == expected.keys()
    for name, value in fisher.weights.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-6)


def test_it_is_not_the_square_of_the_average_gradient(tiny_model):
    model = shake(make(tiny_model))
    codes = encoded(model, rows("退货", 4))
    weights = model.trainable()
    fisher = measure(model, codes, {}, kind=EMPIRICAL, seed=0)
    for code in codes:
        ids, targets = padded(model, [code])
        logits = model.network(input_ids=ids).logits.log_softmax(-1)[targets != IGNORED]
        chosen = targets[targets != IGNORED]
        (logits.gather(1, chosen[:, None]).sum() / len(codes)).backward()
    wrong = sum(float(weight.grad.square().sum()) for weight in weights.values())
    right = sum(float(each.sum()) for each in fisher.weights.values())
    assert wrong < 0.7 * right


def factors_by_hand(model, layer, codes, answers=None):
    """r and c of one layer, by autograd on its recorded input and output.

    The score is that of the rows' own answers, or of others given for each row.
    """
    r, squares, num_tokens = 0.0, 0.0, 0
    for number, code in enumerate(codes):
        seen = {}
        hook = layer.register_forward_hook(lambda _, i, o, seen=seen: seen.update(i=i[0], o=o))
        ids, targets = padded(model, [code])
        log_probs = model.network(input_ids=ids).logits.log_softmax(-1)
        hook.remove()
        places = (targets[0] != IGNORED).nonzero()[:, 0]
        said = targets[0, places] if answers is None else answers[number]
        score = log_probs[0, places, said].sum()
        (delta,) = torch.autograd.grad(score, seen["o"])
        r = r + sum(delta[0, t] ** 2 for t in range(delta.shape[1])) / len(codes)
        squares = squares + sum(seen["i"][0, t].detach() ** 2 for t in range(delta.shape[1]))
        num_tokens += delta.shape[1]
    return r, squares / num_tokens


@pytest.mark.variants
@pytest.mark.parametrize("kind", [EMPIRICAL, SAMPLED])
def test_the_factors_of_layers_equal_sums_over_rows_and_tokens(tiny_model, kind):
    model = shake(make(tiny_model))
    codes = encoded(model, rows("退货", 3))
    layers = low_rank_layers(model)
    modules = {name: each.module for name, each in layers.items()}
    fisher = measure(model, codes, layers, kind=kind, seed=0)
    assert fisher.outputs.keys() == fisher.inputs.keys() == layers.keys()
    generator = torch.Generator().manual_seed(0)
    drawn = [draw(model.network, *padded(model, [code]), generator)[0] for code in codes]
    answers = drawn if kind == SAMPLED else None
    for name in list(layers)[::5]:
        r, c = factors_by_hand(model, modules[name], codes, answers)
        torch.testing.assert_close(fisher.inputs[name], c, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(fisher.outputs[name], r, rtol=1e-3, atol=1e-6)
        if kind == SAMPLED:
            own, _ = factors_by_hand(model, modules[name], codes)
            assert not torch.allclose(fisher.outputs[name], own, rtol=1e-3)


@pytest.mark.slow
def test_answers_are_drawn_where_something_is_taught_and_as_the_model_predicts(tiny_model):
    model = make(tiny_model)
    (code,) = encoded(model, rows("退货", 1))
    ids, targets = padded(model, [code])
    generator = torch.Generator().manual_seed(0)
    log_probs = model.network(input_ids=ids).logits[targets != IGNORED].log_softmax(-1)
    firsts = []
    for _ in range(300):
        drawn, scores = draw(model.network, ids, targets, generator)
        torch.testing.assert_close(scores, log_probs.gather(1, drawn[:, None])[:, 0])
        firsts.append(int(drawn[0]))
    p = log_probs[0].detach().exp()
    likely = p > 0.01
    counts = torch.bincount(torch.tensor(firsts), minlength=len(p))[likely].float()
    chi_square = ((counts - 300 * p[likely]) ** 2 / (300 * p[likely])).sum()
    freedom = int(likely.sum())
    assert chi_square < freedom + 4 * (2 * freedom) ** 0.5


def random_fisher(seed):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.rand(shape, generator=generator)

    return Fisher({"w": draw(3, 2)}, {"l": draw(4), "k": draw(2)}, {"l": draw(5), "k": draw(3)})


def every_entry(fisher):
    full = [torch.outer(r, fisher.inputs[name]) for name, r in fisher.outputs.items()]
    return torch.cat([each.flatten() for each in (*full, *fisher.weights.values())])


def test_normalised_its_mean_over_all_entries_is_one():
    fisher = random_fisher(0)
    assert fisher.mean() == pytest.approx(float(every_entry(fisher).mean()), rel=1e-6)
    entries = every_entry(fisher.normalised())
    assert float(entries.mean()) == pytest.approx(1, rel=1e-6)
    torch.testing.assert_close(entries, every_entry(fisher) / every_entry(fisher).mean())
    assert Fisher().normalised().is_empty


def test_a_mixture_is_the_weighted_mean_of_each_part():
    old, new = random_fisher(0), random_fisher(1)
    mixed = old.mixed(new, 0.25)
    torch.testing.assert_close(
        mixed.weights["w"], 0.75 * old.weights["w"] + 0.25 * new.weights["w"]
    )
    torch.testing.assert_close(mixed.inputs["k"], 0.75 * old.inputs["k"] + 0.25 * new.inputs["k"])
    only_new = Fisher().mixed(new, 0.25)
    assert only_new.outputs["l"] is new.outputs["l"]


def test_it_comes_back_from_a_memory_as_it_was():
    fisher = random_fisher(0)
    again = Fisher.from_tensors({**fisher.to_tensors(), "sums": torch.zeros(4)})
    for part in ("weights", "outputs", "inputs"):
        for name, value in getattr(fisher, part).items():
            assert torch.equal(getattr(again, part)[name], value)
