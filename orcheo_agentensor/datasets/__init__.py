"""Datasets: versioned cases with splits, from files or from Python."""

from orcheo_agentensor.datasets.cases import Case
from orcheo_agentensor.datasets.dataset import Dataset, DatasetSpec, SplitPlan, as_dataset

__all__ = ["Case", "Dataset", "DatasetSpec", "SplitPlan", "as_dataset"]
