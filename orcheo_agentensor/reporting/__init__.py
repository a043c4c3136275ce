"""Results for people: runs and versions compared."""

from orcheo_agentensor.reporting.comparison import (
    Comparison,
    Contrast,
    Flip,
    MetricDifference,
    Side,
    acompare,
    compare,
)

__all__ = [
    "Comparison",
    "Contrast",
    "Flip",
    "MetricDifference",
    "Side",
    "acompare",
    "compare",
]
