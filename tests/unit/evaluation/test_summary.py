"""Figures as values: what they are in JSON, how they come back, and the way to read them that ends."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from blemish.errors import DataError
from blemish.evaluation.summary import (
    DefectSummary,
    Evaluation,
    ImageMetrics,
    Masks,
    Metric,
    PixelMetrics,
    Rate,
    Sample,
    Setting,
    Summary,
    Timing,
    Unmeasured,
)

AREA = Metric(0.75, 0.5, 1.0, interval="DeLong 95 %")
BEST = Metric(0.8, threshold=1.5)
BOUNDED = Metric(0.5, 0.25, 0.75, (0.5, 0.5), "bootstrap over images 95 %")
SUMMARY = Summary(
    good=3,
    anomalous=4,
    image=ImageMetrics(AREA, AREA, BEST),
    pixel=PixelMetrics(
        auroc=BOUNDED,
        aupro_0_3=BOUNDED,
        aupro_0_05=BOUNDED,
        spro_0_05=BOUNDED,
        segf1=Metric(0.5, 0.25, 0.75, interval="bootstrap over images 95 %", threshold=1.5),
        ap=Metric(0.5),
        f1max=BEST,
        images=7,
        regions=4,
        clipped=0,
    ),
    routed_good=Rate.measured(2, 3),
    false_alarms=Rate.measured(1, 3, promised=0.05),
    escapes=Rate.measured(1, 4),
)
WHOLE = Evaluation(
    model={"method": "m", "data": {"learned_from": 3}},
    setting=Setting(
        source="x",
        network_input="8x8",
        engine="openvino",
        precision="f32",
        good=3,
        anomalous=4,
        categories=1,
        labels_used_in_learning="good only",
        promise=None,
        promised_rate=None,
        threshold=None,
        masks=Masks(marked=3, missing=1),
    ),
    overall=SUMMARY,
    by_category={"a": SUMMARY, "b": Summary(1, 0, judged=False)},
    by_defect={"spot": DefectSummary(4, detected=Rate.measured(3, 4))},
    timing=Timing(1.5, 2, 1, stage_milliseconds_graph=1.0),
    samples=(Sample("i", "p", 0, None, None, 0.5, None, None, 0.1, None, None),),
    unread=(Unmeasured("j", "is damaged"),),
)


@pytest.mark.parametrize("figures", [SUMMARY, WHOLE, Summary(0, 1), Summary(0, 1, judged=False), DefectSummary(1)])
def test_what_a_file_holds_comes_back(figures: Any) -> None:
    assert type(figures).from_json(json.loads(json.dumps(figures.to_json()))) == figures


def test_the_fields_of_the_files_are_as_they_were() -> None:
    values = WHOLE.to_json()
    assert values["schema"] == 1
    assert values["overall"]["image"]["f1max"] == {"value": 0.8, "threshold": 1.5}
    assert values["overall"]["pixel"]["aupro_0.05"] == {
        "value": 0.5,
        "low": 0.25,
        "high": 0.75,
        "rounding": [0.5, 0.5],
        "interval": "bootstrap over images 95 %",
    }
    assert {"aupro_0.3", "spro_0.05"} <= set(values["overall"]["pixel"])
    assert values["overall"]["false_alarms"]["promised"] == 0.05
    assert "promised" not in values["overall"]["escapes"]
    assert values["setting"]["threshold"] is None
    assert values["samples"][0]["category"] is None
    assert values["unread"] == [{"id": "j", "error": "is damaged"}]
    assert values["timing"]["stage_milliseconds_graph"] == 1.0
    assert "stage_milliseconds_decode" not in values["timing"]
    assert not {"pixels", "judged"} & {*values, *values["overall"]}


def test_rates_are_null_where_a_threshold_had_nothing_to_judge_and_absent_without_one() -> None:
    assert Summary(0, 1).to_json() == {"good": 0, "anomalous": 1, "false_alarms": None, "escapes": None}
    assert Summary(0, 1, judged=False).to_json() == {"good": 0, "anomalous": 1}


def test_files_of_earlier_versions_are_read() -> None:
    values = WHOLE.to_json()
    del values["unusable_masks"], values["setting"]["masks"], values["setting"]["kind"]
    read = Evaluation.from_json(values)
    assert (read.setting.masks, read.setting.kind, read.unusable_masks) == (None, "image", ())
    assert "masks" not in read.to_json()["setting"]


def test_a_file_that_lacks_a_figure_says_which() -> None:
    with pytest.raises(DataError, match="no 'anomalous'"):
        Summary.from_json({"good": 1})


def test_a_rate_and_the_rate_of_the_others() -> None:
    found = Rate.measured(1, 4).complement
    assert (found.value, found.count, found.of) == (0.75, 3, 4)
    assert found.low < 0.75 < found.high
    assert SUMMARY.found == found
    assert Summary(1, 0).found is None


def test_figures_do_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        SUMMARY.good = 1  # type: ignore[misc]


def test_reading_figures_by_the_names_of_json_fields_still_works_and_warns() -> None:
    with pytest.warns(DeprecationWarning, match="figures are attributes") as caught:
        assert [SUMMARY["image"]["auroc"]["value"], WHOLE.overall["pixel"]["aupro_0.3"]] == [0.75, BOUNDED]
    assert str(caught[0].message).startswith("['image'] is .image from now on")
    assert str(caught[4].message).startswith("['aupro_0.3'] is .aupro_0_3")
    assert {warning.filename for warning in caught} == {__file__}
    with pytest.warns(DeprecationWarning, match="escapes"):
        assert SUMMARY.get("escapes") == SUMMARY.escapes
    with pytest.warns(DeprecationWarning, match="judged"), pytest.raises(KeyError):
        SUMMARY["judged"]
    assert "pixel" in SUMMARY
    assert "pixel" not in Summary(1, 1)
    assert Summary(1, 1).get("pixel", {}) == {}
