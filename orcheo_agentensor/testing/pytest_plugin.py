"""The pytest plugin: a test for each case of a dataset, and thresholds as assertions.

pytest loads it by itself where this package is installed; nothing heavy is imported before a test
asks for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from orcheo_agentensor import CaseResult, EvaluationReport

_MARK = "agentensor"
_REPORTS = pytest.StashKey[dict[int, Any]]()


def pytest_configure(config: pytest.Config) -> None:
    """Register the mark."""
    config.addinivalue_line(
        "markers",
        f"{_MARK}(target, dataset=…, evaluators=…, …): what the fixtures agentensor and "
        "agentensor_case evaluate; the arguments are those of orcheo_agentensor.evaluate.",
    )
    config.stash[_REPORTS] = {}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make a test for each case, where a test takes `agentensor_case`."""
    if "agentensor_case" not in metafunc.fixturenames:
        return
    from orcheo_agentensor.datasets import as_dataset

    cases = as_dataset(_arguments(metafunc.definition)["dataset"]).cases
    ids = [case.id for case in cases]
    metafunc.parametrize("agentensor_case", ids, ids=ids, indirect=True)


@pytest.fixture
def agentensor(request: pytest.FixtureRequest) -> EvaluationReport:
    """The report of the evaluation that the test's mark `agentensor` names; it runs once."""
    return _report(request)


@pytest.fixture
def agentensor_case(request: pytest.FixtureRequest) -> CaseResult:
    """One case of that evaluation; all of them run together, before the first test."""
    return next(case for case in _report(request).cases if case.case_id == request.param)


def _report(request: pytest.FixtureRequest) -> EvaluationReport:
    from orcheo_agentensor import evaluate

    known = request.config.stash[_REPORTS]
    mark = _mark(request.node)
    if id(mark) not in known:
        known[id(mark)] = evaluate(**_arguments(request.node))
    report: EvaluationReport = known[id(mark)]
    return report


def _mark(node: pytest.Item | pytest.Collector) -> pytest.Mark:
    mark = node.get_closest_marker(_MARK)
    if mark is None:
        raise pytest.UsageError(
            f"{node.nodeid}: the fixture needs a mark such as @pytest.mark.agentensor(target, "
            "dataset='cases.jsonl', evaluators=['exact_match'])"
        )
    return mark


def _arguments(node: pytest.Item | pytest.Collector) -> dict[str, Any]:
    mark = _mark(node)
    given = {"target": mark.args[0], **mark.kwargs} if mark.args else dict(mark.kwargs)
    missing = [name for name in ("target", "dataset", "evaluators") if name not in given]
    if missing or len(mark.args) > 1:
        raise pytest.UsageError(
            f"{node.nodeid}: @pytest.mark.agentensor lacks {missing or 'names'}"
        )
    return given
