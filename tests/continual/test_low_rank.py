"""Low-rank updates against full matrices computed directly, and where models have them."""

import pytest
import torch

from llama_factory.continual.low_rank import (
    LowRank,
    blend,
    factorize,
    low_rank_layers,
    magmax,
    orthonormal,
    other_names,
    overlap,
    project_out,
    ties,
    trim,
    truncate,
)
from tests.continual.small import make, shake


def draw(seed, out=20, inside=30, rank=4, scale=2.0):
    generator = torch.Generator().manual_seed(seed)
    b = torch.randn(out, rank, generator=generator)
    return LowRank(b, torch.randn(rank, inside, generator=generator), scale)


def best_of_rank(full, rank):
    """The nearest matrix of a rank, by a full decomposition in float64, and its squared error."""
    u, s, v = torch.linalg.svd(full.double(), full_matrices=False)
    return (u[:, :rank] * s[:rank]) @ v[:rank], float((s[rank:] ** 2).sum())


def near(product, full, tolerance=1e-4):
    return float((product.dense() - full).norm()) < tolerance * float(full.norm())


@pytest.mark.parametrize("alpha", [0.75, 0.5])
def test_a_blend_is_the_nearest_product_to_the_blend_of_full_updates(alpha):
    old, new = draw(0), draw(1)
    combined = blend(old, new, alpha)
    full = (1 - alpha) * old.dense() + alpha * new.dense()
    best, lost = best_of_rank(full, 4)
    assert combined.product.rank == 4
    assert near(combined.product, best)
    assert combined.lost == pytest.approx(lost, rel=1e-4)
    assert combined.total == pytest.approx(float(full.double().square().sum()), rel=1e-4)


def test_a_blend_is_never_worse_than_blending_a_and_b_one_by_one():
    old = draw(0)
    new = LowRank(old.b + 0.3 * draw(1).b, old.a + 0.3 * draw(2).a, old.scale)
    full = 0.5 * old.dense() + 0.5 * new.dense()
    apart = LowRank(old.b.lerp(new.b, 0.5), old.a.lerp(new.a, 0.5), old.scale)
    error = (blend(old, new, 0.5).product.dense() - full).norm()
    assert 0 < error < (apart.dense() - full).norm()


def test_a_blend_is_exact_where_a_product_of_the_rank_exists():
    old, new = draw(0), draw(1)
    shared_a, shared_b = LowRank(new.b, old.a, 2.0), LowRank(old.b, new.a, 2.0)
    nothing = LowRank(torch.zeros_like(old.b), old.a, 2.0)
    for before, after in ((old, shared_a), (old, shared_b), (nothing, new)):
        combined = blend(before, after, 0.75)
        assert combined.lost == 0
        assert near(combined.product, 0.25 * before.dense() + 0.75 * after.dense(), 1e-6)
    thin = LowRank(torch.cat([old.b[:, :2], torch.zeros(20, 2)], 1), old.a, 2.0)
    other = LowRank(torch.cat([new.b[:, :2], torch.zeros(20, 2)], 1), new.a, 2.0)
    combined = blend(thin, other, 0.5)
    assert near(combined.product, 0.5 * thin.dense() + 0.5 * other.dense(), 1e-5)
    assert combined.lost < 1e-9 * combined.total


def test_directions_without_an_update_can_still_train():
    old, new = draw(0), draw(1)
    thin = LowRank(
        torch.zeros_like(old.b).index_copy_(1, torch.tensor([0]), old.b[:, :1]), old.a, 2
    )
    combined = truncate(
        LowRank(torch.cat([thin.b, 0 * new.b], 1), torch.cat([thin.a, new.a]), 2), 4
    )
    a = combined.product.a
    torch.testing.assert_close(a @ a.mT, torch.eye(4), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(20, 30), (150, 100), (100, 400)])
def test_a_full_update_is_factored_as_well_as_can_be(shape):
    generator = torch.Generator().manual_seed(0)
    full = torch.randn(shape, generator=generator) + 3 * torch.randn(shape[0], 1) @ torch.ones(
        1, shape[1]
    )
    before = torch.random.get_rng_state()
    combined = factorize(full, 8, 2.0)
    assert torch.equal(torch.random.get_rng_state(), before)
    _, lost = best_of_rank(full, 8)
    assert lost * (1 - 1e-5) <= combined.lost <= 1.01 * lost
    error = (full - combined.product.dense()).double().square().sum()
    assert combined.lost == pytest.approx(float(error), rel=1e-4)
    assert torch.equal(factorize(full, 8, 2.0).product.b, combined.product.b)


def test_a_product_factored_from_its_full_matrix_is_the_same_update():
    product = draw(0)
    assert near(factorize(product.dense(), 4, 2.0).product, product.dense(), 1e-5)


def test_magmax_takes_the_larger_and_of_equals_the_new():
    old, new = torch.tensor([[3.0, -1.0, 2.0]]), torch.tensor([[1.0, -4.0, -2.0]])
    assert magmax(old, new).tolist() == [[3.0, -4.0, -2.0]]


def test_trimming_keeps_the_share_with_the_largest_magnitude():
    update = torch.tensor([[0.1, -5.0, 2.0, -0.3, 4.0]])
    assert trim(update, 0.4).tolist() == [[0, -5.0, 0, 0, 4.0]]
    assert torch.equal(trim(update, 1.0), update)


def test_trimming_keeps_at_least_one_element_and_all_that_are_as_large_as_the_last_one_kept():
    assert trim(torch.tensor([[0.1, -5.0, 2.0]]), 0.01).tolist() == [[0, -5.0, 0]]
    assert trim(torch.tensor([[2.0, -2.0, 2.0, 1.0]]), 0.25).tolist() == [[2.0, -2.0, 2.0, 0]]
    assert trim(torch.tensor([[4.0, 3.0, 2.0, 1.0]]), 0.5).tolist() == [[4.0, 3.0, 0, 0]]


def test_ties_averages_only_what_agrees_with_the_sign_of_the_sum():
    old, new = torch.tensor([3.0, 4.0, 1.0, 2.0, 0.0]), torch.tensor([1.0, -2.0, -1.0, 0.0, 0.0])
    assert ties(old, new, 1.0).tolist() == [2.0, 4.0, 0.0, 2.0, 0.0]


def test_what_was_lost_is_told_in_the_units_of_the_update_whatever_its_scale():
    update = draw(3, rank=12, scale=1.0).dense()
    for scale in (1.0, 0.25, 8.0):
        combined = factorize(update, 4, scale)
        assert combined.product.scale == scale
        assert combined.product.rank == 4
        exact = float(update.double().square().sum())
        assert combined.total == pytest.approx(exact, rel=1e-6)
        error = float((update - combined.product.dense()).double().square().sum())
        assert combined.lost == pytest.approx(error, rel=1e-4)
        wide = draw(3, rank=12, scale=scale)
        kept = truncate(wide, 4)
        full = wide.dense().double()
        assert kept.total == pytest.approx(float(full.square().sum()), rel=1e-5)
        _, lost = best_of_rank(full, 4)
        assert kept.lost == pytest.approx(lost, rel=1e-5)
        assert kept.product.scale == scale
        assert kept.product.a.is_contiguous()


def test_an_exact_blend_keeps_the_part_that_both_share_bit_for_bit():
    old, new = draw(0), draw(1)
    combined = blend(old, LowRank(new.b, old.a, 2.0), 0.25)
    assert torch.equal(combined.product.a, old.a)
    torch.testing.assert_close(combined.product.b, 0.75 * old.b + 0.25 * new.b)
    combined = blend(old, LowRank(old.b, new.a, 2.0), 0.25)
    assert torch.equal(combined.product.b, old.b)
    torch.testing.assert_close(combined.product.a, 0.75 * old.a + 0.25 * new.a)
    combined = blend(LowRank(torch.zeros_like(old.b), old.a, 2.0), new, 0.25)
    assert torch.equal(combined.product.a, new.a)
    assert torch.equal(combined.product.b, 0.25 * new.b)
    assert (combined.lost, combined.total, combined.product.scale) == (0, 0, 2.0)


def ties_one_by_one(old, new, density):
    """The published algorithm, element by element."""

    def trimmed(update):
        kept = sorted(map(abs, update), reverse=True)[: max(1, round(density * len(update)))]
        return [x if abs(x) >= kept[-1] else 0.0 for x in update]

    merged = []
    for values in zip(trimmed(old), trimmed(new), strict=True):
        sign = (sum(values) > 0) - (sum(values) < 0)
        agreeing = [x for x in values if x * sign > 0]
        merged.append(sum(agreeing) / len(agreeing) if agreeing else 0.0)
    return merged


@pytest.mark.parametrize("density", [0.2, 0.5, 1.0])
def test_ties_equals_the_published_algorithm_element_by_element(density):
    old, new = draw(0).dense(), draw(1).dense()
    expected = ties_one_by_one(old.flatten().tolist(), new.flatten().tolist(), density)
    torch.testing.assert_close(ties(old, new, density).flatten(), torch.tensor(expected))


def test_an_orthonormal_basis_spans_the_same_rows():
    a = draw(0).a
    q = orthonormal(a)
    torch.testing.assert_close(q @ q.mT, torch.eye(4), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(a @ q.mT @ q, a, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(orthonormal(q), q, rtol=1e-5, atol=1e-5)


def test_an_orthonormal_basis_keeps_dtype_and_direction():
    a = torch.tensor([[-2.0, 0.0, 0.0], [0.0, 3.0, 0.0]])
    q = orthonormal(a)
    assert torch.equal(q, torch.tensor([[-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]))
    assert q.is_contiguous()
    assert orthonormal(a.bfloat16()).dtype == torch.bfloat16


def test_the_overlap_is_zero_where_rows_are_orthogonal_and_else_the_sum_of_absolute_products():
    every = torch.eye(6)
    assert overlap(every[:2], every[2:]) == 0
    own, earlier = torch.tensor([[1.0, 2.0], [0.0, -1.0]]), torch.tensor([[3.0, -1.0]])
    assert overlap(own, earlier) == abs(3 - 2) + abs(1)


def test_what_is_left_of_rows_is_orthogonal_to_earlier_ones_and_as_long():
    own, earlier = draw(0).a.clone(), draw(1).a
    lengths = own.norm(dim=1)
    assert overlap(own, earlier) > 1
    project_out(own, earlier)
    assert overlap(own, earlier) < 1e-3
    torch.testing.assert_close(own.norm(dim=1), lengths)


def test_the_update_of_a_layer_is_what_merging_adds_to_its_weight(tiny_model):
    model = shake(make(tiny_model))
    layers, weights = low_rank_layers(model), model.trainable()
    assert len(layers) == 14
    for each in layers.values():
        delta = each.module.get_delta_weight("default")
        torch.testing.assert_close(each.of(weights).dense(), delta.detach())
    assert other_names(model, layers) == []


@pytest.mark.parametrize("options", [{"use_rslora": True}, {"alpha": 3}])
def test_its_scale_is_that_of_the_adapter(tiny_model, options):
    layers = low_rank_layers(make(tiny_model, **options))
    expected = 8 / 4**0.5 if "use_rslora" in options else 3 / 4
    assert {each.scale for each in layers.values()} == {expected}


def test_what_is_no_product_is_listed_apart(tiny_model):
    dora = make(tiny_model, use_dora=True)
    layers = low_rank_layers(dora)
    assert not any(each.is_plain for each in layers.values())
    assert all("magnitude" in name for name in other_names(dora, layers))
    ia3 = make(tiny_model, type="ia3")
    assert low_rank_layers(ia3) == {}
    assert other_names(ia3, {}) == list(ia3.trainable())


def test_the_start_of_pissa_is_a_sibling(tiny_model):
    assert all(
        each.has_siblings for each in low_rank_layers(make(tiny_model, init="pissa")).values()
    )
    assert not any(each.has_siblings for each in low_rank_layers(make(tiny_model)).values())
