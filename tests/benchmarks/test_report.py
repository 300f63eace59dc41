"""The README shows what was measured."""

import json

from tests.benchmarks import report


def test_the_readmes_table_is_made_from_the_results():
    results = json.loads((report.RESULTS / "results.json").read_text())
    assert report.splitReadme()[1] == report.summarize(results)
