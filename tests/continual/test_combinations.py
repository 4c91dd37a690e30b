import pytest

from llama_factory.config.loading import load_config
from llama_factory.continual.combinations import empty_starts
from llama_factory.core.errors import ConfigError
from llama_factory.core.types import Example, Memory, Message
from llama_factory.training.strategy import STRATEGIES, Strategy


def config(strategies, adapter="lora"):
    return load_config(None, [f"strategies={strategies}", f"model.adapter={adapter}"])


@pytest.mark.parametrize(
    ("strategies", "adapter", "told"),
    [
        ("[replay, replay]", "lora", "replay is given 2 times, and its memory has room for one"),
        ("[distill]", "lora", "rows of replay and anchor, and there is no such strategy"),
        ("[{type: distill, rows: [replay]}, anchor]", "lora", "rows of replay, and there is no"),
        (
            "[{type: replay, fraction: 0.6}, {type: anchor, fraction: 0.4}]",
            "lora",
            "fraction of replay and anchor add up to 1, which leaves nothing for new rows",
        ),
        (
            "[{type: replay, weight: 0.7}, {type: anchor, weight: 0.5}]",
            "lora",
            "weight of replay and anchor add up to 1.2, which leaves nothing for new rows",
        ),
        ("[olora]", "ia3", "olora gives each round a part of a LoRA adapter, and model.adapter is"),
        ("[olora]", "{type: lora, use_dora: true}", "olora and model.adapter.use_dora exclude"),
        ("[olora]", "{type: lora, init: pissa}", "olora and model.adapter.init exclude each other"),
        ("[olora]", "{type: lora, modules_to_save: [lm_head]}", "modules_to_save exclude each"),
        ("[olora, merge]", "lora", "olora and merge exclude each other: olora keeps each round in"),
        (
            "[{type: ewc, form: adapter}, merge]",
            "lora",
            "ewc with form adapter and merge exclude each other",
        ),
        ("[{type: olora, rank: 9}]", "{type: lora, rank: 8}", "so not even one round fits"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_reason(strategies, adapter, told):
    with pytest.raises(ConfigError) as caught:
        config(strategies, adapter)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    "strategies",
    [
        "[replay, anchor, distill, freeze, ewc]",
        "[{type: distill, rows: [anchor]}, anchor]",
        "[{type: ewc, form: delta}, merge, replay]",
        "[{type: ewc, form: adapter}, replay]",
        "[olora, replay, anchor]",
        "[{type: replay, fraction: 0.1, weight: 0.3}, {type: anchor, fraction: 0.05}]",
    ],
)
def test_what_makes_sense_is_accepted(strategies):
    assert config(strategies).strategies


def test_all_reasons_are_told_at_once():
    with pytest.raises(ConfigError) as caught:
        config("[distill, {type: olora, rank: 64}]")
    assert "no such strategy" in str(caught.value)
    assert "not even one round fits" in str(caught.value)


@pytest.mark.parametrize(
    ("written", "name"),
    [(["strategies=[agem]"], "agem"), (["strategies=safe"], "replay"), ([], "replay")],
)
def test_a_strategy_that_keeps_rows_is_refused_where_none_may_be_kept(written, name):
    with pytest.raises(ConfigError, match=f"{name} keeps old rows.*strategies: no-data"):
        load_config(None, ["data.keep_rows=false", *written])
    kept = load_config(None, ["data.keep_rows=false", "strategies=no-data"]).data.keep_rows
    assert not kept


def test_strategies_that_remember_say_that_they_start_empty():
    row = Example((Message("user", "问"), Message("assistant", "答")), "g", "f", 1)
    strategies = load_config(None, ["strategies=[replay, anchor, ewc]"]).strategies
    told = empty_starts(strategies, Memory())
    assert told[0] == (
        "strategies.replay starts empty: the parent version was trained without it, so no old rows "
        "are mixed in in this round. It protects from the next round on."
    )
    assert "strategies.ewc starts empty" in told[1]
    known = Memory(rows={"replay": (row,)}, numbers={"ewc.rounds": 1})
    assert len(told) == 2
    assert empty_starts(strategies, known) == []


class Own(Strategy):
    """Somebody's own strategy, which no list of the package names."""

    keeps_rows = True
    when_empty = "nothing is rehearsed"

    def mixed_in(self):
        return 0.8, 0.1

    def conflicts(self, others, adapter):
        if "ewc" in others:
            yield "own and ewc exclude each other."


def test_a_strategy_of_ones_own_says_itself_what_it_excludes_keeps_and_takes(monkeypatch):
    monkeypatch.setitem(STRATEGIES.parts, "own", Own)
    with pytest.raises(ConfigError, match=r"own and ewc exclude each other\."):
        config("[own, ewc]")
    with pytest.raises(ConfigError, match="fraction of replay and own add up to 1.05"):
        config("[replay, own]")
    with pytest.raises(ConfigError, match="own keeps old rows to train with"):
        load_config(None, ["data.keep_rows=false", "strategies=[own]"])
    (warning,) = empty_starts(config("[own, anchor, freeze]").strategies, Memory())
    assert "strategies.own starts empty" in warning
    assert "so nothing is rehearsed in this round" in warning
