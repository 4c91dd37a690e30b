import json
import math

from llama_factory.core import files
from llama_factory.evaluation.task_rows import Prediction

UNJUDGED = Prediction(
    "t",
    "?",
    "a",
    "b",
    scores={"preference": math.nan, "exact_match": 0.0},
    measured={"label_likelihood": ("", math.nan, 1.0), "perplexity": ("", 2.5, 3.0)},
)


def refuse(constant):
    raise AssertionError(f"{constant} is not JSON")


def test_rows_that_were_not_judged_are_null_in_strict_json(tmp_path):
    files.write_jsonl(tmp_path / "p.jsonl", [UNJUDGED.to_json()])
    told = json.loads((tmp_path / "p.jsonl").read_text(), parse_constant=refuse)
    assert told["scores"] == {"preference": None, "exact_match": 0.0}
    assert told["measured"] == {"label_likelihood": ["", None, 1.0], "perplexity": ["", 2.5, 3.0]}


def test_what_was_not_judged_is_not_a_number_when_it_is_read_back(tmp_path):
    files.write_jsonl(tmp_path / "p.jsonl", [UNJUDGED.to_json()])
    (read,) = map(Prediction.from_json, files.read_jsonl(tmp_path / "p.jsonl"))
    assert math.isnan(read.scores["preference"])
    assert math.isnan(read.measured["label_likelihood"][1])
    assert read.scores["exact_match"] == 0.0
    assert read.measured["perplexity"] == ("", 2.5, 3.0)
    assert read.to_json() == UNJUDGED.to_json()


def test_nan_that_an_earlier_release_wrote_is_still_read():
    line = json.dumps(UNJUDGED.to_json() | {"scores": {"preference": math.nan}})
    assert math.isnan(Prediction.from_json(json.loads(line)).scores["preference"])


def test_all_else_is_kept_as_it_was():
    kept = Prediction("t", "?", "a", "b", {"x": 1.0}, 2.0, 3, 4, True, {"m": ("a", 1.0, 1.0)}, "k")
    assert Prediction.from_json(json.loads(json.dumps(kept.to_json()))) == kept
