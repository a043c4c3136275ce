"""What a job may say under `dataset`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from orcheo_agentensor.datasets.dataset import Dataset
from orcheo_agentensor.errors import DatasetError, shorten


class SplitPlan(BaseModel):
    """Proportions of the splits to make, summing to 1; see `Dataset.with_splits`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    train: float = Field(default=0.0, ge=0, le=1)
    validation: float = Field(default=0.0, ge=0, le=1)
    holdout: float = Field(default=0.0, ge=0, le=1)
    seed: int = 0
    stratify: str | None = None

    @property
    def proportions(self) -> dict[str, float]:
        """The splits that get any case."""
        shares = {"train": self.train, "validation": self.validation, "holdout": self.holdout}
        return {name: share for name, share in shares.items() if share > 0}


class DatasetSpec(BaseModel):
    """A dataset by file (`path`), in place (`cases`) or in the side store (`id` and `version`).

    `version` with a path or cases pins their content. `splits` makes splits, then `split` keeps
    those named. `metadata` is laid over the file's own.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str | None = None
    cases: list[Any] | None = None
    id: str | None = None
    version: str | None = None
    splits: SplitPlan | None = None
    split: str | list[str] | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> DatasetSpec:
        """Read the job form; raises `DatasetError` naming every field that is wrong."""
        try:
            spec = cls.model_validate(dict(data))
        except ValidationError as error:
            problems = "; ".join(
                f"dataset.{'.'.join(map(str, item['loc']))}: {shorten(item['input'])} {item['msg']}"
                for item in error.errors()
            )
            raise DatasetError(problems, field="dataset") from None
        if spec.path is not None and spec.cases is not None:
            raise DatasetError("dataset: give either path or cases, not both", field="dataset")
        if spec.path is None and spec.cases is None and not (spec.id and spec.version):
            raise DatasetError(
                "dataset: give path, cases, or id and version of a stored dataset",
                field="dataset",
            )
        return spec

    @property
    def is_stored(self) -> bool:
        """Whether the cases are to be taken from the side store."""
        return self.path is None and self.cases is None

    def load(self, *, base_dir: str | Path | None = None) -> Dataset:
        """Read the file or the cases, then `apply`; blocking. Not for stored datasets."""
        if self.path is not None:
            dataset = Dataset.load(Path(base_dir or ".") / self.path, id=self.id)
        elif self.cases is not None:
            dataset = Dataset.from_cases(self.cases, id=self.id or "inline")
        else:
            raise DatasetError(
                f"dataset: {self.id!r} is in the side store and is read from there",
                field="dataset",
            )
        return self.apply(dataset)

    def apply(self, dataset: Dataset) -> Dataset:
        """`dataset` checked against `version`, with metadata, splits and split as asked for."""
        dataset.require_version(self.version)
        metadata = {**dataset.metadata, **self.metadata}
        dataset = Dataset(id=dataset.id, cases=dataset.cases, metadata=metadata)
        if self.splits is not None:
            plan = self.splits
            dataset = dataset.with_splits(plan.proportions, seed=plan.seed, stratify=plan.stratify)
        return dataset.split(self.split)


def as_dataset(
    value: Dataset | DatasetSpec | Sequence[Any] | Mapping[str, Any] | str | Path,
    *,
    base_dir: str | Path | None = None,
) -> Dataset:
    """A `Dataset` from any form a caller may give; blocking where it reads a file.

    Takes a dataset, a list of cases or dicts, a path (relative to `base_dir`) or the job form.
    """
    if isinstance(value, Dataset):
        return value
    if isinstance(value, str | Path):
        return Dataset.load(Path(base_dir or ".") / value)
    if isinstance(value, DatasetSpec):
        return value.load(base_dir=base_dir)
    if isinstance(value, Mapping):
        return DatasetSpec.parse(value).load(base_dir=base_dir)
    if isinstance(value, list | tuple):
        return Dataset.from_cases(value)
    raise DatasetError(
        field="dataset",
        value=value,
        rule="must be a Dataset, a list of cases, a path or {path: …}",
    )
