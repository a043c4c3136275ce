"""Results for people: runs and versions compared."""

from orcheo_agentensor.reporting.comparison import (
    Contrast,
    Flip,
    MetricDifference,
    RunComparison,
    Side,
    acompare,
    compare,
)
from orcheo_agentensor.reporting.preference import Preference

__all__ = [
    "Contrast",
    "Flip",
    "MetricDifference",
    "Preference",
    "RunComparison",
    "Side",
    "acompare",
    "compare",
]
