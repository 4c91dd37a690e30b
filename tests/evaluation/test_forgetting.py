import pytest

from llama_factory.core.types import EvalReport, TaskScores
from llama_factory.evaluation.forgetting import build_matrix


def report(**scores):
    tasks = {
        name.replace("_", " "): TaskScores(name.replace("_", " "), 10, {"em": value})
        for name, value in scores.items()
    }
    return EvalReport(tasks, 5.0, 1.0)


MATRIX = build_matrix(
    {
        "v0001": report(v0001_a=0.8),
        "v0002": report(v0001_a=0.9, v0002_b=0.7),
        "v0003": report(v0001_a=0.3, v0002_b=0.6, v0003_c=1.0),
    },
    "em",
)


def test_the_matrix_and_its_summary_by_hand():
    assert MATRIX.tasks == ("v0001 a", "v0002 b", "v0003 c")
    assert MATRIX.row("v0001") == [0.8, None, None]
    assert MATRIX.summary["average"] == pytest.approx((0.3 + 0.6 + 1.0) / 3)
    assert MATRIX.summary["learned"] == pytest.approx((0.8 + 0.7 + 1.0) / 3)
    assert MATRIX.summary["backward_transfer"] == pytest.approx(((0.3 - 0.8) + (0.6 - 0.7)) / 2)
    assert MATRIX.summary["forgetting"] == pytest.approx(((0.9 - 0.3) + (0.7 - 0.6)) / 2)


UNTAUGHT = (
    report(v0001_a=0.1),
    report(v0001_a=0.8, v0002_b=0.3),
    report(v0001_a=0.9, v0002_b=0.7, v0003_c=0.2),
)
BASE = (report(v0001_a=0.1), report(v0002_b=0.2), report(v0003_c=0.3))
WHOLE = build_matrix(
    {
        "v0001": report(v0001_a=0.8),
        "v0002": report(v0001_a=0.9, v0002_b=0.7),
        "v0003": report(v0001_a=0.3, v0002_b=0.6, v0003_c=1.0),
    },
    "em",
    untaught=UNTAUGHT,
    base=BASE,
)


def test_forward_transfer_by_hand():
    # tasks of rounds 2 and 3, just before they were taught, against the base model
    assert WHOLE.summary["forward_transfer"] == pytest.approx(((0.3 - 0.2) + (0.2 - 0.3)) / 2)
    assert MATRIX.summary["forward_transfer"] is None


def test_what_was_known_before_teaching_stands_above_the_diagonal():
    assert WHOLE.known("v0001") == [0.8, 0.3, None]
    assert WHOLE.known("v0002") == [0.9, 0.7, 0.2]
    assert WHOLE.known("v0003") == WHOLE.row("v0003")
    values = WHOLE.to_json()
    assert values["base"] == [0.1, 0.2, 0.3]
    assert values["untaught"] == [0.1, 0.3, 0.2]
    assert values["matrix"] == MATRIX.to_json()["matrix"]


def test_a_round_of_several_groups_counts_each_of_them():
    matrix = build_matrix(
        {
            "v0001": report(v0001_a=0.5, v0001_b=0.9),
            "v0002": report(v0001_a=0.7, v0001_b=0.5, v0002_c=0.4),
        },
        "em",
    )
    assert matrix.summary["backward_transfer"] == pytest.approx((0.2 - 0.4) / 2)
    assert matrix.summary["forgetting"] == pytest.approx((-0.2 + 0.4) / 2)


def test_one_round_has_forgotten_nothing_yet():
    matrix = build_matrix({"v0001": report(v0001_a=0.8)}, "em")
    assert matrix.summary["backward_transfer"] is None
    assert matrix.summary["forgetting"] is None
    assert matrix.summary["average"] == matrix.summary["learned"] == 0.8
