import numpy as np
import pytest

from optformer.eval.report import plots


def test_colours_do_not_depend_on_order_and_do_not_repeat():
    names = ["random_search", "optformer", "b", "c", "vizier_eagle", "optuna_tpe", "hill_climbing"]
    hues = plots.colours(names)
    assert hues == plots.colours(names[::-1])
    assert len(set(hues.values())) == len(names)


def test_more_names_than_hues_still_get_colours():
    assert len(plots.colours([f"n{index}" for index in range(25)])) == 25


@pytest.mark.parametrize(
    "places", [[0.5], [0.5, 0.5, 0.5], [0.1, 0.12, 0.9, 0.91], list(np.linspace(0, 1, 12))]
)
def test_labels_keep_their_order_and_distance(places):
    spread = plots._apart(places, 0.06)
    assert len(spread) == len(places)
    assert (np.diff(spread) >= 0.06 - 1e-12).all()


def test_labels_that_are_apart_stay_where_they_are():
    assert plots._apart([0.1, 0.5, 0.9], 0.06) == pytest.approx([0.1, 0.5, 0.9])


def test_published_curves_are_dashed():
    x_T = np.arange(5.0)
    figure = plots.plot_curves(
        [
            plots.Curve(name="ours", x_T=x_T, mean_T=x_T),
            plots.Curve(name="theirs (published)", x_T=x_T, mean_T=x_T + 1, published=True),
        ],
        x_label="x",
        y_label="y",
        unfinished=True,
    )
    (axes,) = figure.axes
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert lines["theirs (published)"].is_dashed() and not lines["ours"].is_dashed()
    texts = {text.get_text() for text in axes.texts}
    assert texts == {"ours", "theirs (published)", "UNFINISHED RUN"}


def test_rankings_and_matrices_are_drawn_for_many_names():
    names = [f"name_{index}" for index in range(12)]
    ranking = plots.Ranking(
        ranks={name: 1.0 + index for index, name in enumerate(names)}, groups=[names[:3], names[2:]]
    )
    figure = plots.plot_critical_difference({"a": ranking, "b": ranking}, unfinished=True)
    for axes in figure.axes:
        texts = [text.get_text() for text in axes.texts]
        assert "name 11  12.00" in texts and "UNFINISHED RUN" in texts
    figure = plots.plot_matrices(
        {"one": np.eye(12), "two": np.zeros((12, 12))}, names, x_label="x", y_label="y"
    )
    assert len(figure.axes[0].texts) == 144
