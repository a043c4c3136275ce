"""Datasets: versioned cases with splits, from files or from Python."""

from orcheo_agentensor.datasets.attachments import MediaAccess
from orcheo_agentensor.datasets.cases import Case
from orcheo_agentensor.datasets.dataset import Dataset, DatasetSpec, SplitPlan, as_dataset
from orcheo_agentensor.datasets.streamed import StreamedCases

__all__ = [
    "Case",
    "Dataset",
    "DatasetSpec",
    "MediaAccess",
    "SplitPlan",
    "StreamedCases",
    "as_dataset",
]
