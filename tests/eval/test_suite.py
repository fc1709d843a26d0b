import pytest

from optformer.errors import ConfigError
from optformer.eval import suite


def test_both_protocols_report_on_one_page(tmp_path, model_folder):
    small = {"families": ("Lunacek", "Weierstrass"), "parameters": (2,)}
    found = suite.bbob(
        tmp_path,
        checkpoint=model_folder,
        acquisitions=("prior",),
        optimizers=("random_search", "vizier_eagle"),
        trials=4,
        seeds=2,
        command="optformer evaluate one",
        **small,
    )
    assert "2 tasks, 2 seeds, 4 trials; 0 runs failed" in found.counted
    rows = {row[0]: row for row in found.rows}
    assert set(rows) == {"optformer prior", "random search", "vizier eagle"}
    assert found.header[2] == "over random search"
    assert rows["random search"][2] == "–"
    assert all("[" in rows[name][2] for name in rows if name != "random search")

    found = suite.prediction(
        tmp_path,
        checkpoint=model_folder,
        trials=6,
        instances=1,
        command="optformer evaluate two",
        **small,
    )
    assert [row[0] for row in found.rows] == ["optformer", "gaussian process"]
    page = found.page.read_text("utf-8")
    for word in ("over random search", "ECE", "Calibration:", "evaluate one", "evaluate two"):
        assert word in page


def test_predictions_alone_have_a_page(tmp_path, model_folder):
    found = suite.prediction(
        tmp_path,
        checkpoint=model_folder,
        families=("Lunacek",),
        parameters=(2,),
        trials=5,
        instances=1,
        command="optformer evaluate it",
    )
    assert "5 predictions in 1 study" in found.counted
    assert "evaluate it" in found.page.read_text("utf-8")


def test_nobody_to_evaluate_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="nobody predicts: give --checkpoint"):
        suite.prediction(tmp_path, checkpoint=None)
    with pytest.raises(ConfigError, match="nobody to evaluate"):
        suite.bbob(tmp_path, optimizers=())
