import pytest
import torch

from llama_factory.model.masks import EncodedRow
from llama_factory.training.batching import BatchOptions, make_batch
from llama_factory.training.items import Items, by_part, packed
from llama_factory.training.objectives.dpo import Dpo
from llama_factory.training.objectives.kto import Kto
from llama_factory.training.objectives.pretrain import Pretrain
from llama_factory.training.objectives.sft import Sft
from llama_factory.training.planning import NEW, RowRef


def row(prompt, answer, weight=1.0):
    return EncodedRow((1,) * (prompt + answer), (False,) * prompt + (True,) * answer, weight)


class Coded(list):
    """Rows as the sequences they stand for, in memory."""

    def lengths(self, place):
        return tuple(len(row.ids) for row in self[place])


def items(rows, objective=None):
    coded = Coded(row if isinstance(row, tuple) else (row,) for row in rows)
    return Items(coded, objective or Sft())


def coefficients(refs, rows, **options):
    given = {name: each if isinstance(each, Items) else items(each) for name, each in rows.items()}
    return make_batch(refs, given, BatchOptions(**({"max_tokens": 1000} | options)))


def test_the_share_of_a_source_holds_in_the_loss_and_not_in_tokens():
    rows = {NEW: [row(3, 2), row(3, 2), row(3, 2)], "replay": [row(3, 100)]}
    refs = [RowRef(NEW, 0), RowRef(NEW, 1), RowRef(NEW, 2), RowRef("replay", 0)]
    batch = coefficients(refs, rows)
    assert batch.shares == (0.75, 0.25)
    for number, share in enumerate(batch.shares):
        total = sum(float(m.coefficients[m.sources == number].sum()) for m in batch.micro_batches)
        assert total == pytest.approx(share)


def test_token_weighting_counts_tokens_and_row_weighting_rows():
    rows = {NEW: [row(3, 1), row(3, 9)]}
    refs = [RowRef(NEW, 0), RowRef(NEW, 1)]
    (by_token,) = coefficients(refs, rows).micro_batches
    (by_row,) = coefficients(refs, rows, weighting="row").micro_batches
    assert by_token.coefficients.tolist() == pytest.approx([0.1] * 10)
    assert by_row.coefficients.tolist() == pytest.approx([0.5, *[0.5 / 9] * 9])


def test_all_tokens_of_an_update_count_the_same_but_those_whose_source_has_a_weight():
    rows = {NEW: [row(3, 2), row(3, 4)], "replay": [row(3, 6)], "anchor": [row(3, 50)]}
    refs = [RowRef(NEW, 0), RowRef(NEW, 1), RowRef("replay", 0)]
    micro_batches = coefficients(refs, rows, weighting="all_tokens").micro_batches
    shares = torch.cat([micro.coefficients for micro in micro_batches])
    assert shares.tolist() == pytest.approx([1 / 12] * 12)
    batch = coefficients(
        [*refs, RowRef("anchor", 0)], rows, weighting="all_tokens", weights={"anchor": 0.4}
    )
    assert batch.shares == pytest.approx((0.3, 0.3, 0.4))
    pairs = {NEW: items([(row(3, 4), row(3, 6))], Dpo()), "anchor": [row(3, 10)]}
    refs = [RowRef(NEW, 0), RowRef("anchor", 0)]
    assert coefficients(refs, pairs, weighting="all_tokens").shares == (0.5, 0.5)


def test_a_rows_weight_multiplies_its_loss():
    rows = {NEW: [row(3, 1), row(3, 1, weight=3.0)]}
    (micro,) = coefficients([RowRef(NEW, 0), RowRef(NEW, 1)], rows).micro_batches
    assert micro.coefficients.tolist() == pytest.approx([0.5, 1.5])


def test_a_turns_weight_multiplies_the_loss_of_its_tokens_and_a_rows_weight_all():
    weighed = EncodedRow((1,) * 6, (False,) * 2 + (True,) * 4, 3.0, weights=(0.5, 0.5, 1.0, 1.0))
    (micro,) = coefficients(
        [RowRef(NEW, 0), RowRef(NEW, 1)], {NEW: [weighed, row(2, 4)]}
    ).micro_batches
    assert micro.coefficients.tolist() == pytest.approx(
        [*[1.5 / 8] * 2, *[3 / 8] * 2, *[1 / 8] * 4]
    )


def test_limits_of_a_micro_batch_hold():
    rows = {NEW: [row(10 + i, 5) for i in range(12)]}
    refs = [RowRef(NEW, i) for i in range(12)]
    batch = coefficients(refs, rows, max_tokens=80, max_rows=3)
    assert all(m.ids.numel() <= 80 and len(m.ids) <= 3 for m in batch.micro_batches)
    assert batch.num_tokens == sum(len(r.ids) for r in rows[NEW])
    assert sum(len(m.ids) for m in batch.micro_batches) == 12


def refs(number, source=NEW):
    return [RowRef(source, index) for index in range(number)]


def test_a_source_with_a_weight_of_its_own_has_that_share_of_the_loss():
    rows = {NEW: [row(3, 2)] * 3, "replay": [row(3, 9)]}
    batch = coefficients(refs(3) + refs(1, "replay"), rows, weights={"replay": 0.4})
    assert batch.shares == pytest.approx((0.6, 0.4))
    total = sum(float(m.coefficients[m.sources == 1].sum()) for m in batch.micro_batches)
    assert total == pytest.approx(0.4)
    assert coefficients(refs(3), rows, weights={"replay": 0.4}).shares == (1.0,)


def test_both_answers_of_a_pair_share_a_micro_batch_and_every_pair_counts_the_same():
    pairs = [(row(3, n), row(3, 2 * n)) for n in (1, 4, 9, 16)]
    batch = coefficients(refs(4), {NEW: items(pairs, Dpo())}, max_tokens=60)
    assert len(batch.micro_batches) > 1
    for micro in batch.micro_batches:
        better, worse = micro.sequence_of.bincount().view(-1, 2).unbind(1)
        assert (worse == 2 * better).all()
        assert micro.row_coefficients.tolist() == [0.25] * len(better)
        assert micro.ids.numel() <= 60 or len(micro.ids) == 2
    tokens = sum(float(micro.coefficients.sum()) for micro in batch.micro_batches)
    assert tokens == pytest.approx(1.0)


def test_references_stay_with_their_sequences():
    pairs = [(row(3, n), row(3, 2 * n)) for n in (9, 1, 4)]
    reference = {i: (-float(i), -float(i) - 0.5) for i in range(3)}
    given = Items(Coded(pairs), Dpo(), reference=reference)
    (micro,) = coefficients(refs(3), {NEW: given}).micro_batches
    assert micro.reference.tolist() == [-1.0, -1.5, -2.0, -2.5, 0.0, -0.5]


def test_what_is_only_surveyed_gets_no_gradient():
    pairs = [(row(3, n), row(3, n + 20)) for n in (1, 4)]
    batch = coefficients(refs(2), {NEW: items(pairs, Kto())})
    assert [micro.ids.shape[1] for micro in batch.micro_batches] == [4, 7] or len(
        batch.micro_batches
    ) == 1
    assert sum(len(micro.ids) for micro in batch.micro_batches) == 2
    assert sum(len(micro.ids) for micro in batch.survey) == 2
    assert min(micro.ids.shape[1] for micro in batch.survey) > 20


def test_rows_of_another_objective_have_micro_batches_of_their_own():
    given = {NEW: items([(row(3, 2), row(3, 4))], Dpo()), "anchor": [row(3, 5)]}
    batch = coefficients(refs(1) + refs(1, "anchor"), given)
    assert {type(micro.objective) for micro in batch.micro_batches} == {Dpo, Sft}
    by_rows = [m for m in batch.micro_batches if isinstance(m.objective, Dpo)]
    assert by_rows[0].row_coefficients.tolist() == [0.5]


def test_parts_of_documents_are_rows_of_their_own():
    documents = Coded([(row(1, 9), row(1, 3)), (row(1, 5),)])
    given = by_part(documents, Pretrain())
    assert [given.num_tokens(i) for i in range(len(given))] == [10, 4, 6]
    assert [given.origins(i) for i in range(len(given))] == [[0], [0], [1]]
    assert given[1] == (documents[0][1],)


def test_packs_hold_every_sequence_once_and_are_nearly_full():
    documents = Coded([(row(1, 1 + n % 7),) for n in range(100)])
    given = packed(documents, Pretrain(), max_tokens=20)
    seen = sorted(at for number in range(len(given)) for at in given.origins(number))
    assert seen == list(range(100))
    sizes = [given.num_tokens(number) for number in range(len(given))]
    assert max(sizes) <= 20
    assert sum(sizes) / (20 * len(sizes)) > 0.9


def test_sequences_of_a_pack_are_computed_apart():
    given = packed(Coded([(row(1, 4),), (row(1, 6),)]), Pretrain(), max_tokens=20)
    assert len(given) == 1
    batch = coefficients(refs(1), {NEW: given})
    assert sum(len(micro.ids) for micro in batch.micro_batches) == 2
    together = [float(micro.coefficients.sum()) for micro in batch.micro_batches]
    assert sum(together) == pytest.approx(1.0)
    assert all(torch.allclose(m.coefficients, torch.tensor(0.1)) for m in batch.micro_batches)
