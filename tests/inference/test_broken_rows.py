"""Rows that break, are cancelled, come late or wait: others are answered, nothing is left over."""

import gc
import itertools
import threading
import time
from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from llama_factory.inference.batch_engine import BatchEngine, Limits
from llama_factory.inference.keys_values import Sequence
from llama_factory.inference.packed import PackedNetwork
from llama_factory.inference.request import Ended, Request, Sampling, Token
from llama_factory.inference.rows import Row
from tests.inference.plain import VOCAB, engine_of, heard, plain_logits, require_plain, run
from tests.inference.test_batch_engine import alone, llama, require_same

__all__ = ["alone", "llama"]

SIZES = (12, 11, 10, 1)


class Breaking(PackedNetwork):
    """Fails to read where it is told to."""

    fails = ()

    def read(self, spans):
        if any(token in self.fails for span in spans for token in span.ids):
            raise RuntimeError("out of memory")
        return super().read(spans)


def held_rows(reader):
    return sum(len(shelf.sequences) for shelf in reader._shelves._shelves.values())


def test_rows_of_a_pass_that_breaks_fail_and_the_next_are_answered(llama):
    reader = Breaking(llama)
    reader.fails = (99,)
    engine = engine_of(reader)
    good, bad = Request((4, 5, 6), max_tokens=9), Request((4, 5, 99), max_tokens=9)
    (broken,) = heard(engine.run([bad])).values()
    assert broken.end.reason == "failed"
    assert str(broken.end.error) == "out of memory"
    require_plain(llama, good, run(engine, [good])[0])
    assert engine.is_idle
    assert held_rows(reader) == 0


def test_a_row_that_cannot_begin_or_be_chosen_for_fails_alone(llama, monkeypatch):
    engine = engine_of(PackedNetwork(llama))
    good = Request((4, 5, 6), max_tokens=9)
    bad = replace(good, sampling=Sampling(logit_bias={VOCAB: 1.0}))
    first, second, third = heard(engine.run([good, bad, good])).values()
    assert second.end.reason == "failed"
    assert "logit_bias" in str(second.end.error)
    for answer in (first, third):
        require_plain(llama, good, answer)

    def failing(*_):
        raise RuntimeError("no memory")

    monkeypatch.setattr(engine.prefixes, "reuse", failing)
    (answer,) = heard(engine.run([good])).values()
    assert answer.end.reason == "failed"
    assert engine.is_idle
    assert engine.num_running == engine.num_waiting == 0


@pytest.mark.parametrize(
    ("prompt", "max_tokens"), [((), 5), (tuple([1] * 513), 5), ((1, 2), 0), ((1, 2), -1)]
)
def test_what_cannot_be_answered_is_refused_at_once(llama, prompt, max_tokens):
    engine = engine_of(PackedNetwork(llama))
    with pytest.raises(ValueError, match="a prompt of"):
        engine.submit(Request(prompt, max_tokens=max_tokens))
    with pytest.raises(KeyError):
        BatchEngine({}.__getitem__, Limits()).submit(Request((1,), "never loaded"))
    assert engine.is_idle


def test_a_prompt_as_long_as_the_context_gets_one_token(llama):
    requests = [Request(tuple(range(100)) * 5 + tuple(range(n)), max_tokens=5) for n in SIZES]
    for request, answer, num in zip(
        requests, run(engine_of(PackedNetwork(llama)), requests), (1, 1, 2, 5), strict=True
    ):
        assert len(answer.ids) == num
        assert answer.end.reason == "length"
        assert answer.ids == [each.id for each in _plain(llama, request, answer)]


def _plain(network, request, answer):
    logits = plain_logits(network, [*request.prompt, *answer.ids][:512])
    first = len(request.prompt) - 1
    return [Token(0, int(row.argmax())) for row in logits[first : first + len(answer.ids)]]


def test_answers_end_where_they_should(llama):
    prompt = (5, 9, 14, 3)
    (whole,) = run(engine_of(PackedNetwork(llama)), [Request(prompt, max_tokens=30)])
    end = whole.ids[4]
    first = whole.ids.index(end)
    base = Request(prompt, max_tokens=30, end_tokens=frozenset({end}))
    stopped, late, single = run(
        engine_of(PackedNetwork(llama)),
        [base, replace(base, min_tokens=first + 2), replace(base, max_tokens=1)],
    )
    assert stopped.ids == whole.ids[: first + 1]
    assert stopped.end.reason == "stop"
    assert late.ids[: first + 2].count(end) <= 1
    assert len(late.ids) > first + 1
    assert (len(single.ids), single.end.reason) == (1, "stop" if first == 0 else "length")


def test_cancelled_and_late_rows_end_at_the_next_step_wherever_they_are(llama):
    engine = engine_of(PackedNetwork(llama), max_rows=1)
    request = Request((5, 6, 7), max_tokens=50)
    first, second, third = (engine.submit(request) for _ in range(3))
    late = engine.submit(replace(request, deadline=time.monotonic() - 1))
    engine.step()
    engine.cancel(first)
    engine.cancel(third)
    events = engine.step()
    ends = {event.ticket: event.reason for event in events if isinstance(event, Ended)}
    assert ends == {first: "cancelled", third: "cancelled"}
    engine.cancel(first)
    engine.cancel(12345)
    answers = heard(itertools.chain.from_iterable(iter(engine.step, [])))
    assert answers[second].end.reason == "length"
    assert late not in answers
    assert engine.is_idle


def test_one_that_waits_for_a_prompt_of_another_goes_on_when_that_is_cancelled(llama):
    engine = engine_of(PackedNetwork(llama), read_tokens=20, chunk_tokens=20)
    prompt = tuple((5 * n) % VOCAB for n in range(200))
    first = engine.submit(Request((*prompt, 1), max_tokens=3))
    second = engine.submit(Request((*prompt, 2), max_tokens=3))
    engine.step()
    assert (engine.num_running, engine.num_waiting) == (1, 1)
    engine.cancel(first)
    answers = heard(itertools.chain.from_iterable(engine.step() for _ in range(40)))
    assert len(answers[second].ids) == 3
    assert answers[second].end.num_reused >= 16
    assert engine.is_idle


def test_urgent_requests_come_before_those_that_wait(llama):
    engine = engine_of(PackedNetwork(llama), max_rows=1)
    usual = Request((5, 6, 7), max_tokens=2)
    tickets = [engine.submit(usual) for _ in range(3)]
    urgent = [engine.submit(replace(usual, is_urgent=True)) for _ in range(2)]
    ends = [e.ticket for _ in range(20) for e in engine.step() if isinstance(e, Ended)]
    assert ends == [*urgent, *tickets]


@pytest.mark.parametrize("chunk", [1, 8])
def test_a_long_prompt_under_a_stream_of_short_ones_is_answered(llama, chunk):
    engine = engine_of(
        PackedNetwork(llama), chunk_tokens=chunk, read_tokens=chunk, prefix_bytes=0, max_rows=8
    )
    engine.submit(Request((1, 2, 3), max_tokens=200))
    long = engine.submit(Request(tuple(range(3, 63)), max_tokens=1))
    for step in range(150):
        engine.submit(Request(tuple(range(step % 50, step % 50 + 6)), max_tokens=2))
        if any(isinstance(e, Ended) and e.ticket == long for e in engine.step()):
            break
    else:
        pytest.fail("it was never answered")
    assert step < 60 / max(1, chunk // 2) + 10


@pytest.mark.slow
def test_many_threads_may_submit_and_cancel_while_it_steps(llama, alone):
    engine = engine_of(PackedNetwork(llama))
    numbers, errors = {}, []

    def ask(start):
        try:
            for number in range(start, start + 6):
                ticket = engine.submit(alone[number % 24][0])
                numbers[ticket] = number % 24
                engine.cancel(engine.submit(alone[0][0]))
        except Exception as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=ask, args=(7 * n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    events = []
    while any(thread.is_alive() for thread in threads) or not engine.is_idle:
        events += engine.step()
    assert not errors
    answers = heard(events)
    assert len(answers) == 48
    for ticket, number in numbers.items():
        require_same(answers[ticket], alone[number][1])


class Nothing:
    """A network that costs nothing: each token is followed by the next one."""

    context, can_take_back = 1 << 20, True

    def begin(self, version):
        return Sequence(version)

    def read(self, spans):
        rows = sum(span.num_last for span in spans)
        for span in spans:
            span.sequence.length += len(span.ids)
        return torch.zeros(rows, 4)

    def settle(self, sequence):
        pass

    def end(self, sequence):
        pass


def test_two_thousand_that_wait_cost_little(monkeypatch):
    """Counted, not timed: how often rows are looked at in a step."""
    looks = Counter()
    reserved = Row.num_reserved

    def counted(row):
        looks["rows"] += 1
        return reserved.fget(row)

    monkeypatch.setattr(Row, "num_reserved", property(counted))
    prompt = tuple(range(200))
    engine = engine_of(Nothing(), max_rows=64, read_tokens=100, chunk_tokens=100)
    for n in range(2000):
        engine.submit(Request((*prompt[: n % 7], n % 50, *prompt), max_tokens=50))
    for _ in range(5):
        looks.clear()
        engine.step()
        assert looks["rows"] < 4 * 64


@pytest.mark.slow
def test_after_many_requests_nothing_is_left(llama, alone):
    reader = PackedNetwork(llama)
    engine = engine_of(reader, prefix_bytes=30_000, cache_tokens=2000)
    requests = [request for request, _ in alone]

    def live():
        gc.collect()
        kinds = (Row, Sequence, Tensor)
        return Counter(type(each) for each in gc.get_objects() if type(each) in kinds)

    run(engine, requests)
    before = live()
    for _ in range(2):
        run(engine, requests)
    after = live()
    assert after[Row] == after[Sequence] == 0
    assert after[Tensor] <= before[Tensor] + 8
    assert not any(shelf.layers for shelf in reader._shelves._shelves.values())
    assert engine.prefixes.num_bytes <= 30_000
    while engine.prefixes.shrink():
        pass
    assert engine.prefixes.num_bytes == 0
    assert not engine._rows


def test_a_version_that_is_dropped_ends_its_rows_and_leaves_nothing(llama):
    readers = {name: PackedNetwork(llama) for name in ("a", "b")}
    engine = BatchEngine(readers.__getitem__, Limits(max_rows=2))
    prompt = tuple(range(3, 60))
    tickets = [engine.submit(Request(prompt, name, max_tokens=9)) for name in ("a", "b", "a")]
    engine.step()
    engine.cancel(tickets[0])
    events = engine.drop("a", RuntimeError("gone"))
    assert [(e.ticket, e.reason) for e in events] == [
        (tickets[0], "cancelled"),
        (tickets[2], "failed"),
    ]
    assert engine.prefixes.num_known("a", prompt) == 0
    assert held_rows(readers["a"]) == 0
    answers = heard(itertools.chain.from_iterable(engine.step() for _ in range(12)))
    assert len(answers[tickets[1]].ids) == 8
    assert engine.is_idle
    assert engine.prefixes.num_known("b", prompt) > 0
