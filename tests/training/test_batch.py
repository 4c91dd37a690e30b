import random
import threading
from itertools import combinations, pairwise

import pytest
import torch

from llama_factory.model.chat.encoding import EncodedRow
from llama_factory.model.padding import IGNORED, LAUNCH_TOKENS
from llama_factory.training.batch import BatchOptions, Prefetch, make_batch
from llama_factory.training.items import NEW, Items, RowRef, by_part, packed, packed_longest_first
from llama_factory.training.objectives.dpo import Dpo
from llama_factory.training.objectives.kto import Kto
from llama_factory.training.objectives.pretrain import Pretrain
from llama_factory.training.objectives.sft import Sft


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


def test_packs_may_begin_with_the_longest_row_as_llama_factorys_do():
    """By hand: the longest that fits goes in, of equal ones the last."""
    lengths = (9, 5, 3, 5, 2, 7, 4)
    documents = Coded([(row(1, length - 1),) for length in lengths])
    given = packed_longest_first(documents, Sft(), max_tokens=10)
    assert [given.origins(number) for number in range(len(given))] == [[0], [5, 2], [3, 1], [6, 4]]
    short = packed_longest_first(documents, Sft(), max_tokens=4)
    assert sorted(map(short.origins, range(len(short)))) == [[0], [1], [2], [3], [4], [5], [6]]


def test_sequences_of_a_pack_are_computed_apart():
    given = packed(Coded([(row(1, 4),), (row(1, 6),)]), Pretrain(), max_tokens=20)
    assert len(given) == 1
    batch = coefficients(refs(1), {NEW: given})
    assert sum(len(micro.ids) for micro in batch.micro_batches) == 2
    together = [float(micro.coefficients.sum()) for micro in batch.micro_batches]
    assert sum(together) == pytest.approx(1.0)
    assert all(torch.allclose(m.coefficients, torch.tensor(0.1)) for m in batch.micro_batches)


def tokens(*ids, trained=1, **more):
    """A row with these very tokens, of which the last ones are trained."""
    return EncodedRow(ids, (False,) * (len(ids) - trained) + (True,) * trained, **more)


def test_a_micro_batch_holds_what_its_rows_say():
    given = {
        NEW: items([tokens(1, 2, 3), tokens(4, 5, 6, 7, trained=2, is_desirable=False)]),
        "replay": [tokens(8, 9)],
    }
    options = {"weights": {"replay": 0.4}}
    batch = coefficients(refs(2) + refs(1, "replay"), given, **options)
    assert batch.sources == (NEW, "replay")
    by_objective = {id(micro.objective): micro for micro in batch.micro_batches}
    new, old = by_objective[id(given[NEW].objective)], batch.micro_batches[1]
    assert new is batch.micro_batches[0]
    assert new.ids.tolist() == [[1, 2, 3, 0], [4, 5, 6, 7]]
    no = IGNORED
    assert new.targets.tolist() == [[no, 3, no, no], [no, 6, 7, no]]
    assert new.is_desirable.tolist() == [True, False]
    assert new.sequence_of.tolist() == [0, 1, 1]
    assert (new.row_sources.tolist(), old.row_sources.tolist()) == ([0, 0], [1])
    assert (new.sources.tolist(), old.sources.tolist()) == ([0, 0, 0], [1])
    assert new.row_coefficients.tolist() == pytest.approx([0.2, 0.4])
    assert old.row_coefficients.tolist() == pytest.approx([0.4])
    for micro in batch.micro_batches:
        assert micro.source_names == (NEW, "replay")
        assert micro.source_shares == pytest.approx((0.6, 0.4))
    assert batch.num_tokens == 9
    assert batch.num_padded == 8 + 2


def test_a_micro_batch_is_moved_whole_and_nothing_else_of_it_changes():
    (micro,) = coefficients(refs(2), {NEW: [tokens(1, 2, 3), tokens(4, 5)]}).micro_batches
    seen = []

    def move(tensor):
        seen.append(tensor)
        return tensor + 1

    moved = micro.on(move)
    names = [name for name, value in vars(micro).items() if isinstance(value, torch.Tensor)]
    assert len(seen) == len(names) == 9
    for name, value in vars(micro).items():
        if name in names:
            assert torch.equal(getattr(moved, name), value + 1)
        else:
            assert getattr(moved, name) is value


def test_shares_of_the_loss_add_up_to_one_where_every_source_has_one_of_its_own():
    rows = {NEW: [row(3, 2)] * 2, "replay": [row(3, 9)], "anchor": [row(3, 4)]}
    given = refs(2) + refs(1, "replay")
    assert coefficients(given, rows, weights={NEW: 0.2, "replay": 0.2}).shares == (0.5, 0.5)
    given += refs(1, "anchor")
    weights = {"replay": 0.5, "anchor": 0.25}
    assert coefficients(given, rows, weights=weights).shares == (0.25, 0.5, 0.25)
    assert coefficients(given, rows, weights={"replay": 0.25}).shares == (0.5, 0.25, 0.25)


def test_a_share_of_nothing_trains_nothing():
    rows = {NEW: [row(3, 2)], "replay": [row(3, 9)]}
    batch = coefficients(refs(1) + refs(1, "replay"), rows, weights={"replay": 0.0})
    assert batch.shares == (1.0, 0.0)
    total = sum(float(m.coefficients[m.sources == 1].abs().sum()) for m in batch.micro_batches)
    assert total == 0


def test_what_is_surveyed_keeps_its_objective_and_weighs_nothing():
    given = items([(row(3, n), row(3, n + 20)) for n in (1, 4)], Kto())
    batch = coefficients(refs(2), {NEW: given})
    for micro in batch.survey:
        assert micro.objective is given.objective
        assert micro.coefficients.abs().sum() == 0
        assert micro.row_coefficients.abs().sum() == 0
    surveyed = sum(len(micro.ids) * micro.ids.shape[1] for micro in batch.survey)
    trained = sum(micro.ids.numel() for micro in batch.micro_batches)
    assert batch.num_padded == trained
    assert batch.num_tokens <= trained + surveyed
    assert not coefficients(refs(1), {NEW: [row(3, 2)]}).survey


def sizes(batch):
    return [len(micro.ids) for micro in batch.micro_batches]


@pytest.mark.parametrize(("fewest", "most"), [(1, 5), (2, 2), (3, 1), (5, 1), (6, 1), (100, 1)])
def test_there_are_as_many_micro_batches_as_are_wanted_where_there_are_rows_enough(fewest, most):
    batch = coefficients(refs(5), {NEW: [row(3, 2)] * 5}, fewest=fewest)
    assert max(sizes(batch)) == most
    assert sum(sizes(batch)) == 5


def test_a_limit_of_tokens_that_is_exactly_met_holds():
    rows = {NEW: [row(3, 7)] * 6}
    assert sizes(coefficients(refs(6), rows, max_tokens=30)) == [3, 3]
    assert sizes(coefficients(refs(6), rows, max_tokens=29)) == [2, 2, 2]
    assert sizes(coefficients(refs(6), rows, max_tokens=1)) == [1] * 6  # a row is never cut
    pairs = {NEW: items([(row(3, 7), row(3, 7))] * 4, Dpo())}
    assert sizes(coefficients(refs(4), pairs, max_tokens=40)) == [4, 4]
    assert sizes(coefficients(refs(4), pairs, max_tokens=39)) == [2] * 4


def test_a_limit_of_rows_counts_sequences_and_never_parts_a_pair():
    pairs = {NEW: items([(row(3, 7), row(3, 7))] * 4, Dpo())}
    assert sizes(coefficients(refs(4), pairs, max_rows=4)) == [4, 4]
    assert sizes(coefficients(refs(4), pairs, max_rows=5)) == [4, 4]
    assert sizes(coefficients(refs(4), pairs, max_rows=3)) == [2] * 4
    assert sizes(coefficients(refs(4), pairs, max_rows=1)) == [2] * 4
    assert sizes(coefficients(refs(4), pairs)) == [8]
    given = packed(Coded([(row(1, 4),), (row(1, 6),)]), Pretrain(), max_tokens=20)
    assert sizes(coefficients(refs(1), {NEW: given}, max_rows=1)) == [1, 1]


# what rows begin with in common is read once


def common(rows):
    columns = enumerate(zip(*rows, strict=False))
    return next((i for i, each in columns if len({*each}) > 1), min(map(len, rows)))


def cost_of(rows):
    """Tokens and launches of one run, as the module of padding defines them."""
    shared, longest = common(rows), max(map(len, rows))
    if (len(rows) - 1) * shared > LAUNCH_TOKENS:
        return len(rows) * (longest - shared) + shared, 2
    return len(rows) * longest, 1


def cheapest(units, max_tokens, max_rows):
    """The least cost of all ways to cut all orders that are tried, one by one."""
    units = sorted(units, key=lambda unit: max(map(len, unit)))
    orders = [units]
    for length in (32, 64, 128):
        at = {id(unit): place for place, unit in enumerate(units)}
        orders.append(sorted(units, key=lambda u: (u[0][:length], at[id(u)])))
    found = []
    for order in orders:
        for count in range(len(order)):
            for cuts in combinations(range(1, len(order)), count):
                runs = [order[a:b] for a, b in pairwise((0, *cuts, len(order)))]
                costs = [cost_of([row for unit in run for row in unit]) for run in runs]
                if all(
                    len(run) == 1 or (len(run) <= max_rows and tokens <= max_tokens)
                    for run, (tokens, _) in zip(runs, costs, strict=True)
                ):
                    found.append(sum(t + launches * LAUNCH_TOKENS for t, launches in costs))
    return min(found)


def begun_alike(seed, width):
    """Units whose sequences begin with one of a few texts, and go on differently."""
    draw = random.Random(seed)
    heads = [tuple(draw.choices(range(1, 9), k=draw.choice((8, 40, 70, 140)))) for _ in range(2)]
    units = []
    for number in range(6):
        head = draw.choice(heads)
        own = head + (20 + number,) * draw.randint(0, 40)
        units.append(tuple(own + (60 + n,) * draw.randint(1, 30) for n in range(width)))
    return units


def real(ids):
    """Without the padding."""
    return tuple(token for token in ids if token)


@pytest.mark.variants
@pytest.mark.parametrize("width", [1, 2])
def test_rows_that_begin_alike_are_put_together_as_cheaply_as_can_be(width):
    for seed in range(12):
        units = begun_alike(seed, width)
        rows = [tuple(tokens(*ids) for ids in unit) for unit in units]
        given = {NEW: items(rows, Dpo() if width == 2 else Sft())}
        limits = {"max_tokens": (10**6, 400)[seed % 2], "max_rows": (6, 3)[seed // 2 % 2]}
        options = limits | {"max_rows": limits["max_rows"] * width, "shares_prefixes": True}
        batch = coefficients(refs(6), given, **options)
        seen = [[real(ids) for ids in micro.ids.tolist()] for micro in batch.micro_batches]
        assert sorted(ids for micro in seen for ids in micro) == sorted(
            ids for unit in units for ids in unit
        )
        cost = sum(n + launches * LAUNCH_TOKENS for n, launches in map(cost_of, seen))
        assert cost == cheapest(units, **limits), seed


def test_rows_that_begin_alike_are_side_by_side_only_where_that_is_asked_for():
    a, b = (1,) * 100, (2,) * 100
    rows = {NEW: [tokens(*a, *(3,) * 10), tokens(*b, *(3,) * 11), tokens(*a, *(4,) * 12)]}
    rows[NEW].append(tokens(*b, *(4,) * 13))
    shared = coefficients(refs(4), rows, shares_prefixes=True)
    firsts = [sorted(micro.ids[:, 0].tolist()) for micro in shared.micro_batches]
    assert sorted(firsts) == [[1, 1], [2, 2]]
    apart = coefficients(refs(4), rows)
    assert [micro.ids[:, 0].tolist() for micro in apart.micro_batches] == [[1, 2, 1, 2]]


# the next batch is made while the last one is used


def test_the_next_batch_is_made_before_it_is_asked_for():
    asked, is_ahead = [], threading.Event()

    def make(step):
        asked.append((step, threading.current_thread() is threading.main_thread()))
        if step == 1:
            is_ahead.set()
        return step

    with Prefetch(make, 3) as batches:
        assert batches.take(0) == 0
        assert is_ahead.wait(10)
        assert [batches.take(1), batches.take(2)] == [1, 2]
    assert asked == [(0, False), (1, False), (2, False)]  # none beyond the end, none twice


def test_what_was_made_ahead_is_made_again_after_batches_are_cut_in_another_way():
    limit = [10]
    with Prefetch(lambda step: (step, limit[0]), 9) as batches:
        assert batches.take(4) == (4, 10)
        limit[0] = 5
        batches.drop()
        assert [batches.take(4), batches.take(5)] == [(4, 5), (5, 5)]


def test_an_error_of_a_batch_reaches_the_update_that_needs_it():
    with Prefetch(lambda step: 1 // (1 - step), 3) as batches:
        assert batches.take(0) == 1
        with pytest.raises(ZeroDivisionError):
            batches.take(1)
