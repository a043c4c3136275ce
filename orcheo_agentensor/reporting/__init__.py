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

__all__ = [
    "Contrast",
    "Flip",
    "MetricDifference",
    "RunComparison",
    "Side",
    "acompare",
    "compare",
]
