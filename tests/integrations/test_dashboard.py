"""The Grafana dashboard: it can be imported, and shows what is exported, all of it."""

import json
import re
from importlib.resources import files

import pytest

from queuepool import Pool, Reason
from tests.helpers import PlainResource

prometheus_client = pytest.importorskip(
    "prometheus_client", reason="prometheus-client is not installed")

from queuepool.prometheus import Collector  # noqa: E402

#: What a name in a query is followed by: labels, and for a rate how far back.
SELECTOR = re.compile(r"(queuepool_\w+)(?:\{([^}]*)\})?(\[\$__rate_interval\])?")


@pytest.fixture(scope="module")
def dashboard():
    return json.loads((files("queuepool") / "grafana" / "queuepool.json").read_text("utf-8"))


@pytest.fixture
def families():
    pool = Pool("app", 1, factory=PlainResource)
    return list(Collector(pool).collect())


def queries(dashboard):
    found = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert found
    return found


def everything(value):
    """All objects of the JSON document."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from everything(each)


def test_it_can_be_imported(dashboard):
    assert dashboard["schemaVersion"] >= 36 and dashboard["title"] == "queuepool"
    assert dashboard["id"] is None  # Grafana gives it one
    [source] = dashboard["__inputs"]
    assert source["name"] == "DS_PROMETHEUS" and source["type"] == "datasource"
    assert source["pluginId"] == "prometheus"
    sources = [each["datasource"] for each in everything(dashboard) if "datasource" in each]
    assert sources and all(
        each == {"type": "prometheus", "uid": "${DS_PROMETHEUS}"} for each in sources)
    kinds = {panel["type"] for panel in dashboard["panels"]}
    assert kinds == {each["id"] for each in dashboard["__requires"] if each["type"] == "panel"}


def test_the_panels_do_not_overlap(dashboard):
    cells = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in cells
                cells.add((x, y))
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    for panel in dashboard["panels"]:
        references = [target["refId"] for target in panel["targets"]]
        assert len(references) == len(set(references))


def test_every_name_and_label_in_a_query_is_exported(dashboard, families):
    labels, kinds = {}, {}
    for family in families:
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
            kinds[sample.name] = "gauge" if family.type == "gauge" else "counter"
    for query in queries(dashboard):
        names = SELECTOR.findall(query)
        assert names, query
        used = {label for by in re.findall(r"by \(([^)]*)\)", query) for label in by.split(", ")}
        for name, selector, span in names:
            assert name in labels, query
            assert selector == 'pool=~"$pool"'
            assert used <= labels[name]
            # A counter is of use only as a rate, a gauge only as it is.
            assert bool(span) is (kinds[name] == "counter")
            assert ("le" in used) is ("histogram_quantile" in query)
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            for label in re.findall(r"{{(\w+)}}", target["legendFormat"]):
                assert re.search(rf"by \([^)]*\b{label}\b", target["expr"])
    [variable] = dashboard["templating"]["list"]
    name, label = re.fullmatch(
        r"label_values\((\w+), (\w+)\)", variable["query"]["query"]).groups()
    assert label in labels[name] and variable["name"] == "pool"


def test_every_metric_that_is_exported_is_shown(dashboard, families):
    shown = {name for query in queries(dashboard) for name, _, _ in SELECTOR.findall(query)}
    for family in families:
        assert shown & {sample.name for sample in family.samples}, family.name


def test_the_parentheses_of_every_query_match(dashboard):
    for query in queries(dashboard):
        rest = re.sub(r'"[^"]*"|[^(){}\[\]]', "", query)
        while rest != (rest := re.sub(r"\(\)|\{\}|\[\]", "", rest)):
            pass
        assert rest == "", query


def test_reasons_are_the_label_of_closes(families):
    [closes] = [family for family in families if family.name == "queuepool_closes"]
    assert {sample.labels["reason"] for sample in closes.samples} == {
        reason.value for reason in Reason}
