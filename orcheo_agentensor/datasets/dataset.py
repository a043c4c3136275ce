"""`Dataset`: cases in order, under a version that is the hash of their content."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from orcheo_agentensor.datasets.case import Case, parse_case
from orcheo_agentensor.datasets.splits import assign_splits
from orcheo_agentensor.errors import BadInput, DatasetError
from orcheo_agentensor.json_values import check_json


@dataclass(frozen=True)
class Dataset:
    """Cases in order. Make one with `Dataset.load`, `Dataset.from_cases` or `as_dataset`.

    `metadata` says what the whole is about (domains, languages, rubric, anything else) and takes no
    part in `version`.
    """

    id: str
    cases: tuple[Case, ...]
    metadata: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.id, str) or not self.id.strip() or not self.id.isprintable():
            raise DatasetError(field="id", value=self.id, rule="must be a printable name")
        if not self.cases:
            raise DatasetError(
                f"{self.id}: the dataset holds no case", field="dataset", rule="holds no case"
            )
        if not isinstance(self.metadata, dict):
            raise DatasetError(field="metadata", value=self.metadata, rule="must be an object")
        try:
            check_json(self.metadata, field="metadata")
        except BadInput as error:
            raise DatasetError(field=error.field, value=error.value, rule=error.rule) from None
        refuse_duplicates(self.cases, [f"{self.id}[{n}]" for n in range(len(self.cases))])

    @classmethod
    def from_cases(
        cls,
        cases: Sequence[Case | Mapping[str, Any]],
        *,
        id: str = "inline",
        metadata: Mapping[str, Any] | None = None,
    ) -> Dataset:
        """A dataset of `Case` objects or of dicts with a case's fields."""
        parsed = tuple(parse_case(case, where=f"{id}[{n}]") for n, case in enumerate(cases))
        return cls(id=id, cases=parsed, metadata=dict(metadata or {}))

    @classmethod
    def load(cls, path: str | Path, *, id: str | None = None) -> Dataset:
        """Read a `.jsonl`, `.json`, `.yaml`, `.yml` or `.csv` file; blocking.

        Without `id` the name in the file is taken, else the file's own. Raises `DatasetError`
        naming the line: `tickets.jsonl:17: inputs.x: nan is not a finite number`.
        """
        from orcheo_agentensor.datasets.loaders import read_file

        content = read_file(Path(path))
        refuse_duplicates(content.cases, content.places)
        name = id or content.id or Path(path).stem
        return cls(id=name, cases=content.cases, metadata=content.metadata)

    @cached_property
    def version(self) -> str:
        """SHA-256 over the cases' content in order, whatever file format they came from."""
        digest = hashlib.sha256()
        for case in self.cases:
            digest.update(bytes.fromhex(case.content_hash))
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self.cases)

    def __iter__(self) -> Iterator[Case]:
        return iter(self.cases)

    def __getitem__(self, case_id: str) -> Case:
        try:
            return self._by_id[case_id]
        except KeyError:
            raise DatasetError(
                field="id", value=case_id, rule=f"is no case of dataset {self.id!r}"
            ) from None

    def splits(self) -> dict[str, int]:
        """How many cases each split has; cases outside any split are not counted."""
        return dict(Counter(case.split for case in self.cases if case.split is not None))

    def split(self, names: str | Sequence[str] | None) -> Dataset:
        """The cases of one or several splits, in order; all of them for None."""
        if names is None:
            return self
        wanted = {names} if isinstance(names, str) else set(names)
        there = self.splits()
        for name in sorted(wanted - set(there), key=str):
            counts = ", ".join(f"{known} ({count})" for known, count in sorted(there.items()))
            raise DatasetError(
                f"split: {name!r} is not in dataset {self.id!r}; "
                + (f"it has: {counts}" if counts else "none of its cases has a split"),
                field="split",
                value=name,
                rule="must be one of the dataset's splits",
            )
        if not wanted:
            raise DatasetError(field="split", value=names, rule="must name at least one split")
        return replace(self, cases=tuple(case for case in self.cases if case.split in wanted))

    def with_splits(
        self, proportions: Mapping[str, float], *, seed: int = 0, stratify: str | None = None
    ) -> Dataset:
        """A copy whose every case has a split, drawn by `seed`; splits given before are replaced.

        `proportions` sum to 1. Within each stratum (cases alike at the dotted path `stratify`, such
        as "expected_output.queue") every split gets its share to the nearest case. A case's place
        follows from the seed and its id, so adding cases moves few others.
        """
        names = assign_splits(self.cases, proportions, seed=seed, stratify=stratify)
        cases = (
            case.model_copy(update={"split": name})
            for case, name in zip(self.cases, names, strict=True)
        )
        return replace(self, cases=tuple(cases))

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON, as kept in the side store; `from_json` reads it back."""
        return {
            "id": self.id,
            "version": self.version,
            "metadata": self.metadata,
            "cases": [case.to_json() for case in self.cases],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Dataset:
        """The inverse of `to_json`; a `version` that the cases do not hash to is refused."""
        dataset = cls.from_cases(data["cases"], id=data["id"], metadata=data.get("metadata"))
        dataset.require_version(data.get("version"))
        return dataset

    def require_version(self, version: str | None) -> None:
        """Raise `DatasetError` unless `version` is None or this dataset's own."""
        if version is not None and version != self.version:
            raise DatasetError(
                f"version: dataset {self.id!r} is {self.version}, not {version}; "
                "its cases have changed",
                field="version",
                value=version,
                rule="must be the hash of the cases",
            )

    @cached_property
    def _by_id(self) -> dict[str, Case]:
        return {case.id: case for case in self.cases}


def refuse_duplicates(cases: Sequence[Case], places: Sequence[str]) -> None:
    """Raise `DatasetError` naming both places of the first id used twice."""
    first: dict[str, int] = {}
    for n, case in enumerate(cases):
        before = first.setdefault(case.id, n)
        if before != n:
            raise DatasetError(
                f"{places[n]}: id: {case.id!r} is already the id of {places[before]}",
                field="id",
                value=case.id,
                rule="must be unique in the dataset",
            )
