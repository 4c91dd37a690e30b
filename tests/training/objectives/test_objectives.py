"""Every objective: its value by hand, its gradient whatever the cut, its way through the loop."""

import contextlib
import json
import math
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional as F

from llama_factory.core.errors import DataError, ModelError
from llama_factory.core.files import read_jsonl
from llama_factory.core.progress import SILENT
from llama_factory.core.types import TEXT, Example, Message
from llama_factory.model import value_head
from llama_factory.model.adapted import load_teacher
from llama_factory.model.dtypes import choose
from llama_factory.training.batch import BatchOptions, make_batch
from llama_factory.training.items import NEW, Encoding, RowRef, encode_all
from llama_factory.training.objectives import OBJECTIVES, ForwardPass
from llama_factory.training.plan import plan_run
from llama_factory.training.settings import TrainingSettings
from llama_factory.training.setup import start
from llama_factory.training.strategy import STRATEGIES, ExtraSource, Protection, Strategy
from llama_factory.training.update import forward, survey
from tests.tiny import make_tiny_model
from tests.training.short_runs import examples, fit, losses, make, weights

PAIRED = ("dpo", "orpo", "simpo", "reward")


def rows_for(kind, count=10):
    """Rows of the shape that an objective needs."""
    made = []
    for i, row in enumerate(examples(count)):
        worse = Message("assistant", "没有答案。 " * (1 + i % 4))
        if kind in PAIRED:
            row = Example(row.messages, "g", "f.jsonl", i, rejected=worse)
        elif kind == "kto":
            turns = row.messages if i % 3 else (row.messages[0], worse)
            row = Example(turns, "g", "f.jsonl", i, is_desirable=bool(i % 3))
        elif kind == "pretrain":
            row = Example((Message(TEXT, f"A text, 第 {i} 篇. " * (1 + 3 * i)),), "g", "f.jsonl", i)
        made.append(row)
    return made


def settings_of(kind, tiny, **options):
    part = {"type": kind} | ({"teacher": str(tiny)} if kind == "distill" else {})
    return part | options


KINDS = sorted(OBJECTIVES.parts)
FALLING = [kind for kind in KINDS if kind != "asft"]
"""p log(1 / p) of a random model rises first, as its answers become likely."""


@pytest.mark.variants
@pytest.mark.parametrize("kind", FALLING)
def test_the_model_learns_what_is_asked(tiny, tmp_path, kind):
    options = {"objective": settings_of(kind, tiny), "max_steps": 12, "eval_steps": 12}
    fit(tiny, tmp_path, rows_for(kind), held_out=rows_for(kind), **options)
    course = losses(tmp_path)
    assert min(course[-3:]) < 0.9 * course[0]
    last = list(read_jsonl(tmp_path / "metrics.jsonl"))[-1]
    assert last["eval_loss"] < course[0]
    if kind in PAIRED:
        assert last["eval_reward_accuracy"] == 1.0


def led(rows, text):
    """The same rows, whose first turns all begin with a text."""
    for row in rows:
        first, *others = row.messages
        yield replace(row, messages=(replace(first, content=text + first.content), *others))


def gradients(tiny, folder, kind, max_rows, *, lead="", shares=False, quick=False, **options):
    """Gradient of one update in float64, from weights that are not the reference's."""
    model = make(tiny)
    model.network.double()
    settings = TrainingSettings(
        objective=settings_of(kind, tiny, **options), micro_batch_size=max_rows, quick_layers=quick
    )
    settings.objective.prepare(model)
    model.network.double()
    run = start(model, settings, Protection())
    given = list(led(rows_for(kind), lead))
    rows = encode_all(Encoding(model, settings, folder), given, Protection(), SILENT)
    torch.manual_seed(0)
    for weight in model.trainable().values():
        weight.data.normal_(std=0.1)
    model.network.eval()
    assert run.quick.is_possible == quick
    run.quick.shares = shares
    cut = BatchOptions(10**6, max_rows, shares_prefixes=shares, is_end_to_end=quick)
    batch = make_batch([RowRef(NEW, i) for i in range(rows.sizes[NEW])], rows.items, cut)
    num_read = sum(map(run.num_read, batch.micro_batches))
    if not quick and kind != "pretrain":  # parts of long texts begin alike in their first part only
        assert shares == (num_read < batch.num_padded - batch.num_padded // 5)
    with run.reading() if shares or quick else contextlib.nullcontext():
        found = survey(run, batch)
        for micro in batch.micro_batches:
            forward(run, micro, found)[0].sum().backward()
    return torch.cat([w.grad.flatten() for w in model.trainable().values()]), batch


@pytest.mark.variants
@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_of_micro_batches_equals_that_of_one_row_at_a_time(tiny, tmp_path, kind):
    alone, small = gradients(tiny, tmp_path, kind, 1)
    together, large = gradients(tiny, tmp_path, kind, None)
    assert len(small.micro_batches) > len(large.micro_batches)
    # the log-probabilities themselves are float32
    torch.testing.assert_close(alone, together, rtol=1e-5, atol=1e-8)


@pytest.mark.variants
@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_of_rows_that_begin_alike_equals_that_of_one_row_at_a_time(
    tiny, tmp_path, kind
):
    lead = "What is the refund policy of your shop? "
    alone, small = gradients(tiny, tmp_path, kind, 1, lead=lead)
    together, large = gradients(tiny, tmp_path, kind, None, lead=lead, shares=True)
    assert len(small.micro_batches) > len(large.micro_batches)
    torch.testing.assert_close(alone, together, rtol=1e-5, atol=1e-8)


@pytest.mark.variants
@pytest.mark.parametrize("shares", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_of_rows_end_to_end_equals_that_of_one_row_at_a_time(
    tiny, tmp_path, kind, shares
):
    lead = "What is the refund policy of your shop? "
    alone, small = gradients(tiny, tmp_path, kind, 1, lead=lead)
    together, large = gradients(tiny, tmp_path, kind, None, lead=lead, shares=shares, quick=True)
    assert len(small.micro_batches) > len(large.micro_batches)
    # Transformers' layers make their norms in float32, these in float64
    assert (alone - together).norm() < 1e-5 * alone.norm()


@pytest.mark.parametrize("options", [{}, {"loss": "ipo"}, {"tail_weight": 0.5}], ids=str)
def test_the_gradient_of_bco_does_not_depend_on_micro_batches(tiny, tmp_path, options):
    alone, small = gradients(tiny, tmp_path, "dpo", 1, bco_weight=0.7, **options)
    together, large = gradients(tiny, tmp_path, "dpo", None, bco_weight=0.7, **options)
    assert len(small.survey) > len(large.survey)
    assert small.num_tokens == large.num_tokens < large.num_padded
    torch.testing.assert_close(alone, together, rtol=1e-5, atol=1e-8)


def scored(kind, sums, reference, lengths, is_desirable=None, found=None, **options):
    """A micro-batch whose sequences have given log-probabilities."""
    from llama_factory.model.chat.encoding import EncodedRow
    from llama_factory.training.items import Items

    objective = OBJECTIVES.parse({"type": kind} | options)
    width = 1 if kind == "kto" else 2
    liked = is_desirable or [True] * len(sums)
    rows = [
        EncodedRow((1,) * (2 + n), (False, False, *[True] * n), is_desirable=good)
        for n, good in zip(lengths, liked, strict=True)
    ]
    grouped = [tuple(rows[i : i + width]) for i in range(0, len(rows), width)]
    values = [tuple(reference[i : i + width]) for i in range(0, len(rows), width)]
    items = Items(grouped, objective, reference=dict(enumerate(values)))
    batch = make_batch(
        [RowRef(NEW, i) for i in range(len(grouped))], {NEW: items}, BatchOptions(99)
    )
    (micro,) = batch.micro_batches
    each = torch.repeat_interleave(
        torch.tensor(sums) / torch.tensor(lengths), torch.tensor(lengths)
    )
    return objective.losses(ForwardPass(micro, each, found))


SUMS = [-4.0, -9.0, -6.0, -5.0]
REFERENCE = [-5.0, -8.0, -5.5, -5.5]
LENGTHS = [2, 3, 4, 5]
MARGINS = torch.tensor([2.0, -1.0])  # (-4 + 5) - (-9 + 8), (-6 + 5.5) - (-5 + 5.5)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, -F.logsigmoid(0.1 * MARGINS)),
        (
            {"beta": 0.5, "label_smoothing": 0.2},
            -0.8 * F.logsigmoid(0.5 * MARGINS) - 0.2 * F.logsigmoid(-0.5 * MARGINS),
        ),
        ({"loss": "hinge", "beta": 0.5}, torch.tensor([0.0, 1.5])),
        (
            {"loss": "ipo", "beta": 0.25},
            torch.tensor([(1 / 2 + 1 / 3 - 2) ** 2, (-0.5 / 4 - 0.5 / 5 - 2) ** 2]),
        ),
        ({"sft_weight": 2.0}, -F.logsigmoid(0.1 * MARGINS) + torch.tensor([4.0, 3.0])),
    ],
)
def test_dpo_by_hand(options, expected):
    made = scored("dpo", SUMS, REFERENCE, LENGTHS, **options)
    torch.testing.assert_close(made.values, expected)
    beta = options.get("beta", 0.1)
    torch.testing.assert_close(made.numbers["reward_margin"], beta * MARGINS)
    assert made.numbers["reward_accuracy"].tolist() == [1.0, 0.0]


def test_bco_by_hand():
    made = scored(
        "dpo", SUMS, REFERENCE, LENGTHS, found=torch.tensor(0.2), bco_weight=3.0, beta=0.5
    )
    better, worse = torch.tensor([0.5, -0.25]), torch.tensor([-0.5, 0.25])  # beta x log-ratios
    plain = -F.logsigmoid(0.5 * MARGINS)
    apart = -F.logsigmoid(better - 0.2) - F.logsigmoid(0.2 - worse)
    torch.testing.assert_close(made.values, (plain + 3 * apart) / 4)
    assert made.numbers["reward_baseline"].tolist() == pytest.approx([0.2, 0.2])


def test_the_baseline_of_bco_is_the_mean_of_all_updates_so_far():
    dpo = OBJECTIVES.parse({"type": "dpo", "bco_weight": 1.0, "beta": 0.5})

    def update(means, kept):
        passes = []
        for mean in means:  # two sequences of one token each
            batch = SimpleNamespace(
                ids=torch.zeros(2, 3), sequence_of=torch.tensor([0, 1]), reference=torch.zeros(2)
            )
            passes.append(ForwardPass(batch, torch.tensor([mean - 1.0, mean + 1.0])))
        found = dpo.survey(passes, kept)
        return float(found), dpo.keep(found, kept)

    first, kept = update([-2.0, -4.0], {})
    assert first == pytest.approx(-1.5)
    second, kept = update([-8.0], kept)
    assert second == pytest.approx((-1.5 - 4) / 2)
    third, kept = update([2.0], kept)
    assert third == pytest.approx((-1.5 - 4 + 1) / 3)
    assert kept == {"reward_baseline": pytest.approx(-1.5), "updates": 3}


def test_simpo_by_hand():
    made = scored("simpo", SUMS, REFERENCE, LENGTHS, beta=2.0, gamma=0.5)
    means = torch.tensor([2 * (-2 + 3), 2 * (-1.5 + 1.0)])
    torch.testing.assert_close(made.values, -F.logsigmoid(means - 0.5))


def test_orpo_by_hand():
    made = scored("orpo", SUMS, REFERENCE, LENGTHS, beta=0.3)
    expected = []
    for better, worse in ((-2.0, -3.0), (-1.5, -1.0)):
        odds = [math.log(math.exp(p) / (1 - math.exp(p))) for p in (better, worse)]
        expected.append(-better + 0.3 * math.log1p(math.exp(odds[1] - odds[0])))
    assert made.values.tolist() == pytest.approx(expected, rel=1e-5)


def test_kto_by_hand():
    liked = [True, False, True, False]
    found = torch.tensor(0.5)
    made = scored(
        "kto",
        SUMS,
        REFERENCE,
        LENGTHS,
        liked,
        found,
        beta=0.2,
        chosen_weight=2.0,
        rejected_weight=3.0,
    )
    ratios = torch.tensor(SUMS) - torch.tensor(REFERENCE)
    signs, factors = torch.tensor([1.0, -1, 1, -1]), torch.tensor([2.0, 3, 2, 3])
    expected = factors * (1 - torch.sigmoid(0.2 * signs * (ratios - 0.5)))
    torch.testing.assert_close(made.values, expected)
    assert made.numbers["reward_chosen"].isnan().tolist() == [False, True, False, True]


def test_kto_estimates_how_far_the_model_moved_from_answers_to_other_questions(tiny, tmp_path):
    kto = OBJECTIVES.parse("kto")
    rows = rows_for("kto")
    paired = kto.rows(rows)
    assert len(paired) == len(rows)
    assert all(
        mixed.rejected.content != row.answer for mixed, row in zip(paired, rows, strict=True)
    )
    settings = TrainingSettings(objective=kto)
    model = make(tiny)
    run = start(model, settings, Protection())
    encoded = encode_all(Encoding(model, settings, tmp_path), rows, Protection(), SILENT)
    batch = make_batch([RowRef(NEW, i) for i in range(10)], encoded.items, BatchOptions(10**6))
    one_by_one = make_batch(
        [RowRef(NEW, i) for i in range(10)], encoded.items, BatchOptions(10**6, 1)
    )
    assert sum(len(micro.ids) for micro in batch.survey) == 10
    # without a reference it is the mean log-probability, which is below 0
    assert float(survey(run, batch)) == 0.0 == float(survey(run, one_by_one))


@pytest.mark.variants
@pytest.mark.parametrize("kind", ["dpo", "kto"])
def test_a_comparison_begins_where_nothing_has_moved(tiny, tmp_path, kind):
    fit(tiny, tmp_path, rows_for(kind), objective={"type": kind}, max_steps=1)
    assert losses(tmp_path)[0] == pytest.approx(math.log(2) if kind == "dpo" else 0.5, rel=1e-5)


@pytest.mark.variants
@pytest.mark.parametrize(
    "objective", [{"type": "dpo"}, {"type": "dpo", "bco_weight": 2.0}, {"type": "kto"}], ids=str
)
def test_a_run_that_goes_on_compares_with_the_same_reference(tiny, tmp_path, objective):
    options = {"objective": objective, "checkpoint_steps": 2, "max_steps": 6}
    rows = rows_for(objective["type"])
    whole = fit(tiny, tmp_path / "a", rows, **options)
    fit(tiny, tmp_path / "b", rows, **options)
    for path in (tmp_path / "b" / "checkpoints").glob("step-*6"):
        shutil.rmtree(path)
    said = []
    again = fit(tiny, tmp_path / "b", rows, say=said, **options)
    assert any("Going on after step 4" in text for text in said)
    assert torch.equal(weights(again), weights(whole))


def test_distilling_from_itself_has_nothing_to_teach_at_first(tiny, tmp_path):
    part = settings_of("distill", tiny, sft_weight=0.0, temperature=2.0)
    fit(tiny, tmp_path, objective=part, max_steps=1)
    assert losses(tmp_path)[0] == pytest.approx(0.0, abs=1e-6)


@pytest.mark.variants
@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_the_teacher_computes_in_the_number_format_of_the_student(tiny, name):
    student = replace(make(tiny), precision=choose(name))
    assert {weight.dtype for weight in load_teacher(str(tiny), student).parameters()} == {
        getattr(torch, name)
    }


@pytest.mark.slow
def test_distillation_equals_the_divergence_of_whole_distributions(tiny, tmp_path):
    other = make_tiny_model(tmp_path / "teacher", seed=5)
    row = examples(1)
    part = settings_of("distill", other, sft_weight=0.25, temperature=2.0)
    fit(tiny, tmp_path, row, objective=part, max_steps=1)
    student, teacher = make(tiny), make(other)
    ((code,),) = Encoding(student, TrainingSettings(), tmp_path / "t").encode(
        row, OBJECTIVES.parse("sft"), SILENT
    )[0]
    ids = torch.tensor([code.ids])
    trained = torch.tensor(code.is_trained)[1:]
    own, goal = (m.network(input_ids=ids).logits[0, :-1][trained] for m in (student, teacher))
    apart = F.kl_div(
        (own / 2).log_softmax(-1), (goal / 2).log_softmax(-1), log_target=True, reduction="none"
    )
    plain = F.cross_entropy(own, ids[0, 1:][trained])
    expected = 0.25 * plain + 0.75 * 4 * apart.sum(-1).mean()
    assert losses(tmp_path)[0] == pytest.approx(float(expected), rel=1e-4)


def test_a_teacher_with_other_tokens_is_refused(tiny, tmp_path):
    other = make_tiny_model(tmp_path / "other")
    path = other / "tokenizer.json"
    tokens = json.loads(path.read_text())
    words = tokens["model"]["vocab"]
    words["!"], words["#"] = words["#"], words["!"]
    path.write_text(json.dumps(tokens))
    with pytest.raises(
        ModelError, match=r"training.objective.teacher: .* in other tokens .* family"
    ):
        fit(tiny, tmp_path, objective=settings_of("distill", other))


def test_dft_weighs_a_token_by_its_own_probability():
    from llama_factory.training.objectives.sft import Sft

    log_probs = torch.tensor([-0.1, -3.0], requires_grad=True)
    made = Sft(dft=True).losses(ForwardPass(None, log_probs)).values
    expected = [0.1 * math.exp(-0.1), 3 * math.exp(-3.0)]
    assert made.tolist() == pytest.approx(expected)
    made.sum().backward()
    assert log_probs.grad.tolist() == pytest.approx([-math.exp(-0.1), -math.exp(-3.0)])


def test_liked_answers_of_kto_may_be_taught_besides():
    liked, found = [True, False, True, True], torch.tensor(0.2)
    args = ("kto", SUMS, REFERENCE, LENGTHS, liked, found)
    besides = scored(*args, sft_weight=0.5).values - scored(*args).values
    assert besides.tolist() == pytest.approx([0.5 * 2, 0.0, 0.5 * 1.5, 0.5 * 1])


def test_smoothed_labels_teach_all_tokens_a_little(tiny, tmp_path):
    fit(tiny, tmp_path, objective={"type": "sft", "label_smoothing": 0.25}, **ONE_ROW)
    logits, wanted = first_logits(tiny, tmp_path)
    expected = F.cross_entropy(logits, wanted, label_smoothing=0.25)
    assert losses(tmp_path)[0] == pytest.approx(expected.item(), rel=1e-5)
    with pytest.raises(ValidationError, match="leave label_smoothing out, or dft"):
        TrainingSettings(objective={"type": "sft", "label_smoothing": 0.25, "dft": True})


def test_eaft_weighs_a_token_by_the_entropy_of_the_likeliest(tiny, tmp_path):
    fit(tiny, tmp_path, objective={"type": "eaft", "alpha": 2.0}, **ONE_ROW)
    logits, wanted = first_logits(tiny, tmp_path)
    likeliest = logits.topk(20, dim=-1).values.softmax(-1)
    weights = (torch.distributions.Categorical(likeliest).entropy() / 3) ** 2
    expected = (weights * F.cross_entropy(logits, wanted, reduction="none")).mean()
    assert losses(tmp_path)[0] == pytest.approx(float(expected), rel=1e-5)


def test_the_entropy_of_eaft_gets_no_gradient():
    from llama_factory.training.objectives.eaft import Eaft

    outputs = torch.tensor([[-1.0, 1.5], [-2.0, 3.0]], requires_grad=True)
    made = Eaft().losses(ForwardPass(None, outputs)).values
    assert made.tolist() == pytest.approx([0.5, 2.0])
    made.sum().backward()
    assert outputs.grad.tolist() == [[-0.5, 0.0], [-1.0, 0.0]]


@pytest.mark.parametrize("head_trains", [False, True])
def test_asft_holds_the_model_to_its_start(tiny, head_trains):
    from llama_factory.model.token_scores import ComparedWithStart

    model = make(tiny, dropout=0.2)
    head = model.network.get_output_embeddings()
    head.weight.requires_grad_(head_trains)
    kernel = ComparedWithStart(model, "asft")
    ids = torch.randint(5, 90, (2, 9), generator=torch.Generator().manual_seed(1))
    targets = ids.roll(-1, 1)
    model.network.train()
    at_start = model.network.eval()(ids).logits.float().detach()
    assert kernel(ids, targets)[:, 1].abs().max() < 1e-6
    for number, weight in enumerate(model.trainable().values()):
        generator = torch.Generator().manual_seed(number)
        weight.data += 0.05 * torch.randn(weight.shape, generator=generator)
    kept = [weight.detach().clone() for weight in model.trainable().values()]
    outputs = kernel(ids, targets)
    now = model.network(ids).logits.float()
    moved = F.kl_div(now.log_softmax(-1), at_start.softmax(-1), reduction="none").sum(-1)
    torch.testing.assert_close(outputs[:, 1], moved.flatten(), rtol=1e-3, atol=1e-5)
    assert float(outputs[:, 1].detach().max()) > 1e-3
    outputs.sum().backward()
    for weight, value in zip(model.trainable().values(), kept, strict=True):
        assert torch.equal(weight, value)
        assert weight.grad is not None


def test_asft_adds_the_divergence_to_dft():
    from llama_factory.training.objectives.asft import Asft

    outputs = torch.tensor([[-1.0, 0.5], [-2.0, 0.0]])
    made = Asft(alpha=0.2).losses(ForwardPass(None, outputs)).values
    assert made.tolist() == pytest.approx([math.exp(-1.0) + 0.1, 2 * math.exp(-2.0)])


def test_the_tail_of_the_longer_answer_counts_less():
    # two and three tokens of -2 and -3 each; four and five of -1.5 and -1
    plain = scored("dpo", SUMS, REFERENCE, LENGTHS, tail_weight=1.0).values
    half = scored("dpo", SUMS, REFERENCE, LENGTHS, tail_weight=0.5).values
    margins = MARGINS + torch.tensor([-1.5, -0.5])
    torch.testing.assert_close(half, -F.logsigmoid(0.1 * margins))
    torch.testing.assert_close(plain, -F.logsigmoid(0.1 * MARGINS))


ONE_ROW = {"max_steps": 1, "batch_size": 1}


def first_logits(tiny, folder):
    """[trained tokens, vocabulary] of the first row at the start, and what each must predict."""
    model = make(tiny)
    settings = TrainingSettings(**ONE_ROW)
    rows = encode_all(Encoding(model, settings, folder), examples(13), Protection(), SILENT)
    (ref,) = plan_run(rows, settings)[0]
    (row,) = rows.items[NEW][ref.index]
    ids, is_trained = torch.tensor([row.ids]), torch.tensor(row.is_trained)
    logits = model.network(ids).logits[0].float()
    return logits[:-1][is_trained[1:]], ids[0, 1:][is_trained[1:]]


@pytest.mark.slow
def test_a_reward_head_is_saved_beside_the_adapter_and_read_again(tiny, tmp_path):
    done = fit(tiny, tmp_path, rows_for("reward"), objective="reward")
    done.model.save(tmp_path / "out")
    assert (tmp_path / "out" / "adapter_model.safetensors").exists()
    again = make(tiny)
    value_head.load(again.network, tmp_path / "out")
    trained, read = done.model.network.value_head, again.network.value_head
    assert torch.equal(trained.summary.weight, read.summary.weight)
    assert not torch.equal(trained.summary.weight, make_head(tiny).summary.weight)


def make_head(tiny):
    model = make(tiny)
    value_head.attach(model.network, seed=0)
    return model.network.value_head


def test_a_damaged_reward_head_is_reported(tiny, tmp_path):
    (tmp_path / value_head.FILE).write_bytes(b"no tensors")
    with pytest.raises(
        ModelError, match=r"value_head.safetensors is damaged or belongs to another"
    ):
        value_head.load(make(tiny).network, tmp_path)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("dpo", "it is no preference pair"),
        ("reward", "it is no preference pair"),
        ("kto", "nobody said whether its answer is good"),
    ],
)
def test_rows_that_do_not_fit_the_objective_are_named_with_the_reason(tiny, tmp_path, kind, reason):
    with pytest.raises(DataError, match=rf"f.jsonl:0: {reason}"):
        fit(tiny, tmp_path, examples(3), objective={"type": kind})


@pytest.mark.slow
def test_rows_that_fit_are_taught_and_the_others_left_out(tiny, tmp_path):
    said = []
    rows = [*rows_for("dpo", 4), *examples(6)[4:]]
    done = fit(tiny, tmp_path, rows, objective="dpo", say=said)
    assert done.to_json()["unfit"] == 2
    assert "Left out: f.jsonl:4: it is no preference pair (chosen, rejected)" in said


class Beside(Strategy):
    """Plain rows beside the new ones."""

    def sources(self, memory):
        return (ExtraSource("beside", tuple(examples(4)), 0.25),)


@pytest.mark.slow
def test_plain_rows_protect_a_round_on_preferences(tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(STRATEGIES.parts, "beside", Beside)
    fit(tiny, tmp_path, rows_for("dpo"), objective="dpo", protection=Protection((Beside(),)))
    first = next(iter(read_jsonl(tmp_path / "metrics.jsonl")))
    assert first["loss_new"] == pytest.approx(math.log(2), rel=1e-5)
    assert first["loss_beside"] > 2


class Shortened(Strategy):
    """The new rows' twins, of which the answer's first token counts."""

    def sources(self, memory):
        return (ExtraSource("beside", tuple(examples(4)), 0.25, max_trained=1),)


def test_rows_of_a_source_may_be_cut_off_early(tiny, tmp_path):
    encoding = Encoding(make(tiny), TrainingSettings(), tmp_path)
    items = encode_all(encoding, examples(4), Protection((Shortened(),)), SILENT).items
    whole, cut = items[NEW][0][0], items["beside"][0][0]
    assert whole.num_trained > cut.num_trained == 1
    assert cut.ids == whole.ids[: len(cut.ids)]


def test_long_documents_are_taught_to_their_end(tiny, tmp_path):
    text = Example((Message(TEXT, "one two three " * 200),), "g", "f.jsonl", 0)
    done = fit(tiny, tmp_path, [text], objective="pretrain", max_steps=1, packing=False)
    whole = make(tiny).tokenizer(text.answer)["input_ids"]
    items = Encoding(make(tiny), TrainingSettings(packing=False), tmp_path / "t")
    parts = items.encode([text], OBJECTIVES.parse("pretrain"), SILENT)[0]
    assert done.num_tokens <= 8 * 128
    told = [part.ids for number in range(len(parts)) for part in parts[number]]
    assert max(map(len, told)) == 128
    joined = [*told[0], *(token for part in told[1:] for token in part[1:])]
    assert joined[: len(whole)] == whole


def test_packing_whole_rows_of_pairs_is_refused():
    with pytest.raises(
        ValueError, match=r"packing puts several rows into one, and the objective dpo"
    ):
        TrainingSettings(objective="dpo", packing=True)
