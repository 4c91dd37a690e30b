"""What stands in the pictures, read from the figures before they are written."""

import numpy as np
import pytest

from llama_factory.evaluation.drift import Drift
from llama_factory.evaluation.statistics import Estimate
from llama_factory.reports import pictures
from llama_factory.reports.pictures import (
    curves_figure,
    draw_courses,
    draw_curves,
    draw_loss,
    draw_matrix,
    matrix_figure,
)
from tests.evaluation.lineages import matrix_of

MATRIX = matrix_of(
    {
        "v0001": {"v0001 faq": [0.8]},
        "v0002": {"v0001 faq": [0.7], "v0002 售后": [0.9]},
    },
    untaught=[{"v0001 faq": [0.1]}, {"v0002 售后": [0.3]}],
    base=[{"v0001 faq": [0.1]}, {"v0002 售后": [0.2]}],
)
ALONE = matrix_of({"v0001": {"v0001 faq": [0.8]}})
NAMES = ["base model", "after v0001", "after v0002"]
SURE = {
    ("v0000", "v0001 faq"): Estimate(0.1, 0.05, 0.2, 20),
    ("v0002", "v0002 售后"): Estimate(0.9, 0.8, 0.95, 20),
    ("v0002", "v0001 faq"): Estimate(0.7, None, None, 1),
}


def drift(**intervals):
    return Drift(("v0001", "v0002"), (1.1, None), (0.1, 0.2), **intervals)


def texts(labels):
    return [label.get_text() for label in labels]


def test_the_heat_map_names_rows_and_tasks_and_tells_every_score():
    axes, colours = matrix_figure(MATRIX).axes
    assert texts(axes.get_yticklabels()) == NAMES
    assert texts(axes.get_xticklabels()) == ["v0001 faq", "v0002 售后"]
    told = {tuple(reversed(text.get_position())): text.get_text() for text in axes.texts}
    assert told == {
        (0, 0): "(0.10)",
        (0, 1): "(0.20)",
        (1, 0): "0.80",
        (1, 1): "(0.30)",
        (2, 0): "0.70",
        (2, 1): "0.90",
    }
    assert "token_f1" in axes.get_title()
    assert colours.get_ylim() == (0.0, 1.0)  # the same shade means the same score in all pictures


def test_the_heat_maps_shades_are_the_scores():
    (image,) = matrix_figure(MATRIX).axes[0].get_images()
    shown = np.ma.filled(image.get_array(), np.nan)
    assert shown == pytest.approx(np.array([[0.1, 0.2], [0.8, 0.3], [0.7, 0.9]]))


def test_a_cell_without_a_score_stays_empty():
    matrix = matrix_of({"v0001": {"a": [0.5]}, "v0002": {"a": [0.5], "b": [0.25]}})
    axes = matrix_figure(matrix).axes[0]
    assert texts(axes.get_yticklabels()) == ["after v0001", "after v0002"]  # no base was asked
    assert sorted(text.get_text() for text in axes.texts) == ["0.25", "0.50", "0.50"]


def test_the_curves_have_a_line_a_task_and_one_of_general_ability():
    scores, general = curves_figure(MATRIX, drift(), {}).axes
    lines = {line.get_label(): line.get_ydata() for line in scores.lines}
    assert lines["v0001 faq"] == pytest.approx([0.1, 0.8, 0.7])
    assert lines["v0002 售后"] == pytest.approx([0.2, 0.3, 0.9])
    assert texts(scores.get_legend().get_texts()) == ["v0001 faq", "v0002 售后"]
    assert texts(general.get_xticklabels()) == NAMES
    assert scores.get_ylabel() == "token_f1"
    ratios = general.lines[0].get_ydata()
    assert list(ratios[:2]) == [1.0, 1.1]
    assert np.isnan(ratios[2])


def test_bars_stand_where_an_interval_is_known_and_nowhere_else():
    general = {"v0001": Estimate(1.1, 1.0, 1.2, 50)}
    scores, below = curves_figure(MATRIX, drift(ratio_intervals=general), SURE).axes
    ends = sorted(list(line.get_ydata()) for line in scores.lines if len(line.get_ydata()) == 2)
    assert ends == [[0.05, 0.2], [0.8, 0.95]]
    bars = [line for line in below.lines if list(line.get_ydata()) == [1.0, 1.2]]
    assert [list(line.get_xdata()) for line in bars] == [[1, 1]]


def test_general_ability_that_was_not_measured_has_no_panel():
    figure = curves_figure(ALONE, Drift(("v0001",), (None,), (None,)), {})
    (scores,) = figure.axes
    assert texts(scores.get_xticklabels()) == ["after v0001"]
    assert len(scores.lines) == 1


@pytest.mark.slow
def test_pictures_are_png_files(tmp_path):
    draw_matrix(MATRIX, tmp_path / "m.png")
    nan = float("nan")
    rows = [
        {"step": 1, "loss": 3.0, "loss_new": 3.5, "loss_replay": 1.5},
        {"step": 2, "loss": nan, "loss_new": nan},
        {"step": 3, "loss": 1.0, "loss_new": 1.0, "loss_replay": 1.0, "eval_loss": 1.2},
    ]
    draw_loss(rows, tmp_path / "l.png")
    draw_matrix(ALONE, tmp_path / "w.png")
    draw_curves(MATRIX, drift(), tmp_path / "c.png", SURE)
    draw_curves(ALONE, Drift(("v0001",), (None,), (None,)), tmp_path / "d.png")
    for name in ("m.png", "l.png", "w.png", "c.png", "d.png"):
        content = (tmp_path / name).read_bytes()
        assert content.startswith(b"\x89PNG")
        assert len(content) > 5000


def test_each_number_of_a_run_has_a_picture_of_its_name(tmp_path):
    rows = [
        {"step": 1, "loss": 3.0, "reward_accuracy": 0.5, "reward_chosen": float("nan")},
        {"step": 2, "loss": 2.0, "reward_accuracy": 1.0, "eval_loss": 1.2, "reward_chosen": 0.1},
    ]
    draw_courses(rows, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "training_eval_loss.png",
        "training_loss.png",
        "training_rewards_accuracies.png",
        "training_rewards_chosen.png",
    ]


def test_names_without_a_font_are_told_once_and_drawn_all_the_same(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(pictures, "CHINESE_FONTS", ())
    pictures._warn_of_boxes.cache_clear()
    pictures._searched.cache_clear()
    matrix = matrix_of({"v0001": {"v0001 中文": [0.8]}})
    for _ in range(2):
        draw_matrix(matrix, tmp_path / "m.png")
    assert caplog.text.count("install a font") == 1
    assert (tmp_path / "m.png").exists()
