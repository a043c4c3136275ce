"""`Dataset`: versioned cases with splits, and the form in which jobs name one."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property
from math import floor, isclose
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from orcheo_agentensor.datasets.attachments import Attachments, MediaAccess, Medium, read_again
from orcheo_agentensor.datasets.cases import (
    FIELDS,
    MAX_SPLIT,
    UNKNOWN,
    Case,
    check_name,
    parse_case,
    read_file,
    require_json,
    with_media,
)
from orcheo_agentensor.datasets.files import Format
from orcheo_agentensor.datasets.streamed import (
    StreamedCases,
    digests_of,
    ids_of,
    is_streamed,
    splits_of,
    streamed,
)
from orcheo_agentensor.errors import DatasetError, shorten
from orcheo_agentensor.json_values import StrictNumbers, canonical_json, content_hash
from orcheo_agentensor.media import references_in, with_base64

if TYPE_CHECKING:
    from orcheo_agentensor.datasets.formats import Imported


def assign_splits(
    cases: Sequence[Case],
    proportions: Mapping[str, float],
    *,
    seed: int = 0,
    stratify: str | None = None,
) -> list[str]:
    """The split name of each case, in the order of `cases`; few change when cases are added.

    Depends on neither the order of the cases nor that of `proportions`. In every stratum a split
    gets its exact share rounded down or up; the odd seats go to the splits furthest behind so far,
    so the totals keep close to the proportions however small the strata are.
    """
    shares = _exact_shares(proportions)
    strata: dict[str, list[int]] = defaultdict(list)
    for n in range(len(cases)):
        strata["" if stratify is None else _stratum(cases[n], stratify)].append(n)
    ids = ids_of(cases)
    names = [""] * len(cases)
    behind = dict.fromkeys(shares, Fraction(0))
    for key in sorted(strata):
        members = sorted(strata[key], key=lambda n: _draw(seed, ids[n]))
        seats = _seats(len(members), shares, behind)
        place = 0
        for name, count in seats.items():
            for n in members[place : place + count]:
                names[n] = name
            place += count
    return names


def _seats(
    size: int, shares: Mapping[str, Fraction], behind: dict[str, Fraction]
) -> dict[str, int]:
    """Seats per split in a stratum of `size`; `behind` is brought up to date."""
    due = {name: size * share for name, share in shares.items()}
    seats = {name: floor(exact) for name, exact in due.items()}
    for name, exact in due.items():
        behind[name] += exact - seats[name]
    odd = [name for name in shares if due[name] != seats[name]]
    odd.sort(key=lambda name: (-behind[name], name))
    for name in odd[: size - sum(seats.values())]:
        seats[name] += 1
        behind[name] -= 1
    return seats


def _exact_shares(proportions: Mapping[str, float]) -> dict[str, Fraction]:
    if not proportions:
        raise DatasetError(field="splits", value={}, rule="must name at least one split")
    for name, share in proportions.items():
        check_name("splits", name, MAX_SPLIT)
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
            raise DatasetError(
                field=f"splits.{name}", value=share, rule="must be a number from 0 to 1"
            )
    if not isclose(sum(proportions.values()), 1.0, abs_tol=1e-6):
        raise DatasetError(field="splits", value=dict(proportions), rule="must sum to 1")
    exact = {name: Fraction(repr(proportions[name])) for name in sorted(proportions)}
    total = sum(exact.values())
    return {name: share / total for name, share in exact.items()}


def _stratum(case: Case, path: str) -> str:
    head, _, rest = path.partition(".")
    if head not in ("inputs", "expected_output", "metadata"):
        raise DatasetError(
            field="stratify",
            value=path,
            rule="must begin with inputs, expected_output or metadata",
        )
    value: Any = getattr(case, head)
    for key in rest.split(".") if rest else ():
        if not isinstance(value, dict) or key not in value:
            raise DatasetError(
                field="stratify", value=path, rule=f"is not there in case {case.id!r}"
            )
        value = value[key]
    return canonical_json(value)


def _draw(seed: int, case_id: str) -> bytes:
    return hashlib.sha256(f"{seed}:{case_id}".encode()).digest()


@dataclass(frozen=True)
class Dataset:
    """Cases in order. Make one with `Dataset.load`, `Dataset.from_cases` or `as_dataset`.

    Args:
        id: Its name.
        cases: The cases; each id once.
        metadata: What describes the whole (domains, languages, rubric, anything else); it takes no
            part in `version`, and has a version of its own, `metadata_version`.
        media: The images, sounds and files that the cases refer to, by SHA-256, as bytes or as the
            file that has them; None for one that a store has already.
        unfetched: Hosts of media that the cases name by URL and that are not fetched from there.

    Raises:
        DatasetError: A case breaks a rule, or there is none.

    Example:
        >>> from orcheo_agentensor import Dataset
        >>> dataset = Dataset.from_cases([{"id": n, "inputs": n} for n in range(4)], id="numbers")
        >>> halves = dataset.with_splits({"train": 0.5, "holdout": 0.5})
        >>> halves.splits() == {"train": 2, "holdout": 2}
        True
        >>> len(halves.split("holdout"))
        2
    """

    id: str
    cases: Sequence[Case]
    metadata: dict[str, Any] = field(default_factory=dict)
    media: Mapping[str, Medium | None] = field(default_factory=dict, repr=False, compare=False)
    unfetched: tuple[str, ...] = field(default=(), repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.id, str) or not self.id.strip() or not self.id.isprintable():
            raise DatasetError(field="id", value=self.id, rule="must be a printable name")
        if not self.cases:
            raise DatasetError(
                f"{self.id}: the dataset holds no case", field="dataset", rule="holds no case"
            )
        if not isinstance(self.metadata, dict):
            raise DatasetError(field="metadata", value=self.metadata, rule="must be an object")
        require_json(metadata=self.metadata)
        if not isinstance(self.cases, StreamedCases):  # where that was done line by line
            refuse_duplicates(self.cases, lambda n: f"{self.id}[{n}]")

    @classmethod
    def from_cases(
        cls,
        cases: Sequence[Case | Mapping[str, Any]],
        *,
        id: str = "inline",
        metadata: Mapping[str, Any] | None = None,
        access: MediaAccess | None = None,
    ) -> Dataset:
        """A dataset of `Case` objects or of dicts with a case's fields.

        Their content blocks may name files by paths from the working directory; `access` says what
        else may be read, by default what the operator's settings allow.
        """
        media = Attachments(access or MediaAccess.of())
        places = [f"{id}[{n}]" for n in range(len(cases))]
        whole = [parse_case(one, where=at) for one, at in zip(cases, places, strict=True)]
        return cls(
            id=id,
            cases=_attached(whole, places, media),
            metadata=dict(metadata or {}),
            media=media.found,
            unfetched=tuple(sorted(media.unfetched)),
        )

    @classmethod
    def stored(
        cls, cases: Sequence[Mapping[str, Any]], *, id: str, metadata: Mapping[str, Any]
    ) -> Dataset:
        """A dataset of cases as a store has them, whose media are in the store as well."""
        parsed = tuple(parse_case(case, where=f"{id}[{n}]") for n, case in enumerate(cases))
        held = (references_in([one.inputs, one.expected_output]) for one in parsed)
        media = {digest: None for found in held for digest in found}
        return cls(id=id, cases=parsed, metadata=dict(metadata), media=media)

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        id: str | None = None,
        format: Format | Literal["auto"] | None = None,
        columns: Mapping[str, str] | None = None,
        encoding: str | None = None,
        access: MediaAccess | None = None,
    ) -> Dataset:
        """Read a dataset file, and the images, sounds and files that its cases name; blocking.

        Args:
            path: A `.jsonl`, `.ndjson`, `.json`, `.yaml`, `.yml`, `.csv` or `.tsv` file, which may
                be packed (`.gz`). With a `format` also a `.parquet` file (needs pyarrow), or a
                folder with a file for each case.
            id: The name of the dataset; by default that in the file, else the file's own.
            format: The tool that wrote the file ("langsmith", "promptfoo", …), or "auto", which
                tells it by its fields. None: the form that `docs/reference/datasets.md` describes.
            columns: Where each field comes from, for files of any other form:
                `{"inputs.question": "Question", "expected_output": "Answer"}`; others are metadata.
            encoding: What the file is written in, such as "cp1252"; UTF-8 when left out.
            access: Which media may be read besides files beside the dataset; by default what the
                operator's settings allow.

        Raises:
            DatasetError: It names the line: `tickets.jsonl:17: inputs.x: nan is not a finite
                number`.
        """
        file = Path(path)
        name = id or (Path(file.stem).stem if file.suffix == ".gz" else file.stem)
        access = replace(access or MediaAccess.of(), base=file.parent)
        if format is not None or columns:
            from orcheo_agentensor.datasets.formats import read_foreign

            found = read_foreign(file, form=format or "auto", columns=columns, encoding=encoding)
            imported = cls.from_imported(found, id=name, access=access)
            return imported if id is None else replace(imported, id=id)
        if is_streamed(file, encoding):
            try:
                large = streamed(file, access)
            except OSError as error:
                rule = f"cannot be read ({error.strerror})"
                raise DatasetError(field="path", value=str(file), rule=rule) from None
            if large is not None:
                return cls(id=name, cases=large[0], unfetched=large[1])
        try:
            head, cases, places = read_file(file, encoding=encoding)
        except DatasetError as error:
            raise _naming_its_form(error, file, encoding) from None
        refuse_duplicates(cases, places.__getitem__)
        media = Attachments(access)
        return cls(
            id=id or head.get("id") or name,
            cases=_attached(cases, places, media),
            metadata=head.get("metadata") or {},
            media=media.found,
            unfetched=tuple(sorted(media.unfetched)),
        )

    @classmethod
    def from_imported(
        cls, found: Imported, *, id: str, access: MediaAccess | None = None
    ) -> Dataset:
        """A dataset of what `read_foreign` found; `id` is its name where the file has none."""
        media = Attachments(access or MediaAccess.of())
        places = [where for where, _ in found.cases]
        cases = tuple(parse_case(case, where=where) for where, case in found.cases)
        refuse_duplicates(cases, places.__getitem__)
        return cls(
            id=found.head.get("id") or id,
            cases=_attached(cases, places, media),
            metadata=found.head.get("metadata") or {},
            media=media.found,
            unfetched=tuple(sorted(media.unfetched)),
        )

    @cached_property
    def version(self) -> str:
        """SHA-256 over the cases' content in order, whatever file format they came from."""
        digest = hashlib.sha256()
        for one in digests_of(self.cases):
            digest.update(one)
        return digest.hexdigest()

    @cached_property
    def metadata_version(self) -> str:
        """SHA-256 over the metadata."""
        return content_hash(self.metadata)

    @cached_property
    def talks(self) -> bool:
        """Whether any of its cases may be a conversation."""
        if isinstance(self.cases, StreamedCases):
            return self.cases.talks
        return any(case.conversation for case in self.cases)

    def __len__(self) -> int:
        return len(self.cases)

    def __iter__(self) -> Iterator[Case]:
        return iter(self.cases)

    def __getitem__(self, case_id: str) -> Case:
        try:
            return self.cases[self._by_id[case_id]]
        except KeyError:
            raise DatasetError(
                field="id", value=case_id, rule=f"is no case of dataset {self.id!r}"
            ) from None

    def splits(self) -> dict[str, int]:
        """How many cases each split has; cases outside any split are not counted."""
        return dict(Counter(split for split in splits_of(self.cases) if split is not None))

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
        splits = splits_of(self.cases)
        return self._picked([n for n, split in enumerate(splits) if split in wanted])

    def with_splits(
        self, proportions: Mapping[str, float], *, seed: int = 0, stratify: str | None = None
    ) -> Dataset:
        """A copy in which each case has a split, drawn by `seed`; earlier splits are replaced.

        `proportions` sum to 1. Within each stratum (cases alike at the dotted path `stratify`, such
        as "expected_output.queue") every split gets its share to the nearest case. A case's place
        follows from the seed and its id, so adding cases moves few others.
        """
        names = assign_splits(self.cases, proportions, seed=seed, stratify=stratify)
        if isinstance(self.cases, StreamedCases):
            return replace(self, cases=self.cases.with_splits(names))
        pairs = zip(self.cases, names, strict=True)
        return replace(
            self, cases=tuple(case.model_copy(update={"split": name}) for case, name in pairs)
        )

    def sample(self, count: int, *, seed: int = 0) -> Dataset:
        """`count` cases (all, where there are fewer) drawn by the seed and their ids, in order."""
        ids = ids_of(self.cases)
        drawn = sorted(range(len(ids)), key=lambda n: _draw(seed, ids[n]))[:count]
        return self._picked(sorted(drawn))

    def _picked(self, places: Sequence[int]) -> Dataset:
        """A copy with the cases at these places."""
        if isinstance(self.cases, StreamedCases):
            return replace(self, cases=self.cases.picked(places))
        return replace(self, cases=tuple(self.cases[n] for n in places))

    def cases_to_json(self) -> Iterator[dict[str, Any]]:
        """Each case as JSON that needs no store: its media in base64, where they are at hand."""
        kept = {digest: one for digest, one in self.media.items() if one is not None}
        for case in self.cases:
            data = case.to_json()
            wanted = references_in(data) if kept else {}
            found = {
                digest: base64.b64encode(
                    read_again(one, digest) if isinstance(one, Path) else one
                ).decode()
                for digest, one in kept.items()
                if digest in wanted
            }
            yield with_base64(data, found) if found else data

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON, as kept in the side store; `from_json` reads it back."""
        return {
            "id": self.id,
            "version": self.version,
            "metadata_version": self.metadata_version,
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
    def _by_id(self) -> dict[str, int]:
        return {one: n for n, one in enumerate(ids_of(self.cases))}


def _attached(cases: Iterable[Case], places: Sequence[str], media: Attachments) -> tuple[Case, ...]:
    return tuple(
        with_media(case, media, where=where) for case, where in zip(cases, places, strict=True)
    )


def _naming_its_form(error: DatasetError, path: Path, encoding: str | None) -> DatasetError:
    """The error of a file that is not in our form; it says what to write where another tool wrote
    the file, or a table has columns of its own."""
    if error.field in ("encoding", "path") or is_streamed(path, None):  # not twice through that
        return error
    from orcheo_agentensor.datasets.formats import read_foreign

    try:
        found = read_foreign(path, encoding=encoding)
    except (DatasetError, KeyError, TypeError, AttributeError):
        return error
    columns, written = found.columns, f"is one of {found.form}, it seems"
    if found.form == "agentensor":
        if error.rule != UNKNOWN:
            return error
        columns = {field: field for field in found.cases[0][1] if field in FIELDS}
    if columns:
        written = "has columns of its own" if found.form == "columns" else "has fields of its own"
    pairs = ", ".join(f"{field}: {_as_yaml(one)}" for field, one in columns.items())
    rest = f"`columns: {{{pairs}}}` beside its path (what they leave out is metadata)"
    todo = rest if columns else f"`format: {found.form}` beside its path"
    return DatasetError(
        f"{error.message}. The file {written}: write {todo}, or see `agentensor dataset convert "
        f"{path.name}`",
        field=error.field,
        value=error.value,
        rule=error.rule,
    )


def _as_yaml(text: str) -> str:
    plain = re.fullmatch(r"[A-Za-z_][\w. -]*", text)
    return text if plain else json.dumps(text, ensure_ascii=False)


def refuse_duplicates(cases: Sequence[Case], place: Callable[[int], str]) -> None:
    """Raise `DatasetError` naming both places of the first id used twice."""
    first: dict[str, int] = {}
    for n, case in enumerate(cases):
        before = first.setdefault(case.id, n)
        if before != n:
            raise DatasetError(
                f"{place(n)}: id: {case.id!r} is already the id of {place(before)}",
                field="id",
                value=case.id,
                rule="must be unique in the dataset",
            )


class SplitPlan(StrictNumbers):
    """Proportions of the splits to make, summing to 1; see `Dataset.with_splits`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    train: float = Field(default=0.0, ge=0, le=1, description="Share of the cases")
    validation: float = Field(default=0.0, ge=0, le=1, description="Share of the cases")
    holdout: float = Field(default=0.0, ge=0, le=1, description="Share of the cases")
    seed: int = Field(default=0, description="The seed of the draw")
    stratify: str | None = Field(
        default=None, description="Keep the shares in each of its values, such as metadata.language"
    )

    @property
    def proportions(self) -> dict[str, float]:
        """The splits that get any case."""
        shares = {"train": self.train, "validation": self.validation, "holdout": self.holdout}
        return {name: share for name, share in shares.items() if share > 0}


class DatasetSpec(BaseModel):
    """A dataset by file (`path`), in place (`cases`) or in the side store (`id` and `version`).

    Args:
        path: A dataset file.
        cases: The cases themselves.
        id: The name of the dataset.
        version: The hash of its cases; with a path or cases it pins their content.
        format: The tool that wrote the file, see `Dataset.load`; auto tells it.
        columns: Where each field comes from: {"inputs.question": "Question"}.
        encoding: What the file is written in, such as cp1252; UTF-8 when left out.
        metadata_version: The metadata of a stored dataset; the newest when left out.
        splits: Makes splits, in these proportions.
        split: Keeps only these splits.
        metadata: Laid over the file's own metadata.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str | None = None
    cases: list[Any] | None = None
    id: str | None = None
    version: str | None = None
    format: Format | Literal["auto"] | None = None
    columns: dict[str, str] | None = None
    encoding: str | None = None
    metadata_version: str | None = None
    splits: SplitPlan | None = None
    split: str | list[str] | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> DatasetSpec:
        """Read the job form; raises `DatasetError` naming every field that is wrong."""
        try:
            spec = cls.model_validate(dict(data))
        except ValidationError as error:
            known = f"is not known; there are: {', '.join(DatasetSpec.model_fields)}"
            problems = "; ".join(
                f"dataset.{'.'.join(map(str, item['loc']))}: {shorten(item['input'])} "
                f"{known if item['type'] == 'extra_forbidden' else item['msg']}"
                for item in error.errors()
            )
            raise DatasetError(problems, field="dataset") from None
        if spec.path is not None and spec.cases is not None:
            raise DatasetError("dataset: give either path or cases, not both", field="dataset")
        if spec.path is None and (spec.format or spec.columns or spec.encoding):
            rule = "dataset: format, columns and encoding are for a path"
            raise DatasetError(rule, field="dataset")
        if spec.metadata_version is not None and not spec.is_stored:
            raise DatasetError(
                field="dataset.metadata_version",
                value=spec.metadata_version,
                rule="is for a stored dataset, named by id and version",
            )
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

    def load(
        self, *, base_dir: str | Path | None = None, access: MediaAccess | None = None
    ) -> Dataset:
        """Read the file or the cases, then `apply`; blocking. Not for stored datasets."""
        if self.path is not None:
            dataset = Dataset.load(
                Path(base_dir or ".") / self.path,
                id=self.id,
                format=self.format,
                columns=self.columns,
                encoding=self.encoding,
                access=access,
            )
        elif self.cases is not None:
            dataset = Dataset.from_cases(self.cases, id=self.id or "inline", access=access)
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
        dataset = replace(dataset, metadata=metadata)
        if self.splits is not None:
            plan = self.splits
            dataset = dataset.with_splits(plan.proportions, seed=plan.seed, stratify=plan.stratify)
        return dataset.split(self.split)


def as_dataset(
    value: Any,
    *,
    base_dir: str | Path | None = None,
    access: MediaAccess | None = None,
) -> Dataset:
    """A `Dataset` from any form a caller may give; blocking where it reads a file.

    Takes a dataset, a list of cases or dicts, a path (relative to `base_dir`), the job form, a
    pandas DataFrame, a pydantic-evals `Dataset` or a list of LangSmith `Example`s. `access` says
    which media its cases may name.
    """
    if isinstance(value, Dataset):
        return value
    if isinstance(value, str | Path):
        return Dataset.load(Path(base_dir or ".") / value, access=access)
    if isinstance(value, DatasetSpec):
        return value.load(base_dir=base_dir, access=access)
    if isinstance(value, Mapping):
        return DatasetSpec.parse(value).load(base_dir=base_dir, access=access)
    if isinstance(value, list) and value and isinstance(value[0], dict):  # none of other packages
        return Dataset.from_cases(value, access=access)
    from orcheo_agentensor.datasets.formats import live_cases

    if (found := live_cases(value)) is not None:
        return Dataset.from_imported(found, id="inline", access=access)
    if isinstance(value, list | tuple):
        return Dataset.from_cases(value, access=access)
    raise DatasetError(
        field="dataset",
        value=value,
        rule="must be a Dataset, a list of cases, a DataFrame, a path or {path: …}",
    )
