"""Cases in the forms that other tools write: told by their fields, and turned into cases.

Each form follows its tool's own documentation. A record that a form cannot turn into a case is
refused with the line on which it stands; what a form has no place for is kept in `metadata`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from math import isnan
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from orcheo_agentensor.datasets.assertions import (
    ASSERT,
    LEFT_OUT,
    THRESHOLD,
    notes_on,
    sorted_out,
    written,
)
from orcheo_agentensor.datasets.cases import (
    FIELDS,
    READERS,
    first_twice,
    json_document,
    json_lines,
    json_or_text,
    read_yaml,
    require_width,
    table_rows,
)
from orcheo_agentensor.datasets.files import Format, kind_of, read_text
from orcheo_agentensor.errors import DatasetError

Columns: TypeAlias = Mapping[str, str]
"""Where a field of a case comes from: `{"inputs.question": "Question"}`; the rest is metadata."""

Record: TypeAlias = dict[str, Any]

_INPUT_NAMES = (
    "input",
    "inputs",
    "question",
    "query",
    "prompt",
    "text",
    "user_input",
    "instruction",
)
_OUTPUT_NAMES = (
    "expected_output",
    "expected",
    "reference",
    "ground_truth",
    "answer",
    "target",
    "ideal",
    "label",
    "output",
    "completion",
)
_SPLITS = {"dev": "validation", "val": "validation", "test": "holdout"}


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What a foreign file holds, as cases that are still plain data.

    Attributes:
        form: The form that it was taken for.
        head: `id` and `metadata` of the dataset, as far as the file says.
        cases: Each case with the place where it stands ("goldens.json:3").
        notes: What was guessed or not taken over, for the user.
        columns: Where the fields come from, in a table.
    """

    form: Format
    head: dict[str, Any]
    cases: list[tuple[str, Record]]
    notes: list[str] = field(default_factory=list)
    columns: dict[str, str] = field(default_factory=dict)


def read_foreign(
    path: Path,
    *,
    form: Format | Literal["auto"] = "auto",
    columns: Columns | None = None,
    encoding: str | None = None,
    typed: bool = False,
) -> Imported:
    """The cases of a file that another tool wrote; blocking.

    `columns` names the source of each field, for tables and records of any shape. `typed` reads
    the cells of a table as JSON where they are (numbers, true, false, null); else they stay text.

    Raises `DatasetError` naming the file, the line and what would be taken.
    """
    if form != "auto" and form not in get_args(Format):
        raise DatasetError(
            field="format",
            value=form,
            rule=f"must be auto or one of: {', '.join(get_args(Format))}",
        )
    document, records = _read_records(path, encoding, typed=typed)
    return convert(document, records, name=path.name, form=form, columns=columns)


def convert(
    document: Mapping[str, Any],
    records: Sequence[tuple[str, Any]],
    *,
    name: str,
    form: Format | Literal["auto"] = "auto",
    columns: Columns | None = None,
) -> Imported:
    """Turn records, each with its place, into cases; `document` is what stands around them."""
    if not records:
        raise DatasetError(f"{name}: holds no case", field="dataset", rule="holds no case")
    for where, record in records:
        if not isinstance(record, dict):
            raise DatasetError(
                f"{where}: must be an object", value=record, rule="must be an object"
            )
    first = records[0][1]
    found: Format = "columns" if columns else _told(document, first) if form == "auto" else form
    notes: list[str] = []
    if found == "columns":
        chosen = dict(columns or _guessed_columns(first, name))
        if not columns:
            pairs = ", ".join(f"{field} from {source!r}" for field, source in chosen.items())
            notes.append(f"columns were guessed: {pairs}; the rest is metadata")
        _require_columns(chosen, records, name)
        cases = [(where, _by_columns(record, chosen, where)) for where, record in records]
        return Imported(form=found, head={}, cases=cases, notes=notes, columns=chosen)
    rule = _FORMS[found]
    cases = []
    for where, record in records:
        missing = [key for key in rule.needs if key not in record]
        if missing:
            raise DatasetError(
                f"{where}: has no {missing[0]!r}, which {found} has; it has: "
                f"{', '.join(map(str, record)) or 'nothing'}. Name another format, or the columns: "
                "inputs.question=Question",
                field=missing[0],
                rule=f"must be there in the form of {found}",
            )
        cases.append((where, _tidy(rule.case(record, document))))
    for key, instead in rule.left_out.items():
        if document.get(key) or any(record.get(key) for _, record in records):
            notes.append(f"{key!r} is not taken over; {instead}")
    if found == "promptfoo":
        of_cases = [case.get("metadata", {}) for _, case in cases]
        left, taken = (
            [one for metadata in of_cases for one in metadata.get(key, ())]
            for key in (LEFT_OUT, ASSERT)
        )
        notes += notes_on(left, taken)
    return Imported(form=found, head=_head(document), cases=cases, notes=notes)


def live_cases(value: Any) -> Imported | None:
    """The cases of a DataFrame, a pydantic-evals `Dataset` or LangSmith `Example`s; else None.

    Messages and other values that only Python has stay as they are; their fields say the form.
    """
    document: dict[str, Any] = {}
    if hasattr(value, "to_dict") and hasattr(value, "columns"):
        rows = [
            {str(key): _filled(cell) for key, cell in row.items()}
            for row in value.to_dict("records")
        ]
        records = [{key: cell for key, cell in row.items() if cell is not None} for row in rows]
    elif isinstance(value, list | tuple) and value and all(_is_example(one) for one in value):
        fields = ("id", "inputs", "outputs", "metadata", "split")
        records = [{key: getattr(one, key, None) for key in fields} for one in value]
    elif isinstance(getattr(value, "cases", None), list) and hasattr(value, "evaluators"):
        document = {"name": getattr(value, "name", None), "evaluators": value.evaluators}
        named = ("name", "inputs", "expected_output", "metadata")
        records = [{key: getattr(one, key, None) for key in named} for one in value.cases]
    else:
        return None
    name = type(value).__name__
    return convert(
        document, [(f"{name}[{n}]", record) for n, record in enumerate(records)], name=name
    )


def _is_example(value: Any) -> bool:
    return (
        type(value).__name__ == "Example" and hasattr(value, "inputs") and hasattr(value, "outputs")
    )


def _filled(cell: Any) -> Any:
    """A cell of a DataFrame as plain Python; None for the ways in which pandas leaves one empty."""
    if hasattr(cell, "item") and hasattr(cell, "dtype"):
        cell = cell.item() if cell.ndim == 0 else cell.tolist()
    return None if isinstance(cell, float) and isnan(cell) else cell


# --- reading ---------------------------------------------------------------------------------


def _read_records(
    path: Path, encoding: str | None, *, typed: bool
) -> tuple[dict[str, Any], list[tuple[str, Any]]]:
    """What stands around the records of a file, and each record with its place."""
    kind = kind_of(path)
    if path.is_dir():
        return {}, _read_folder(path, encoding)
    if kind == ".parquet":
        return {}, _read_parquet(path)
    if kind not in READERS:
        raise DatasetError(
            f"{path.name}: a dataset file ends in {', '.join(READERS)} or .parquet, and each "
            "but the last may be followed by .gz",
            field="path",
            value=str(path),
            rule="must be a dataset file",
        )
    text = read_text(path, encoding=encoding)
    if kind in (".jsonl", ".ndjson"):
        lines = json_lines(text, path.name)
        return {}, [(f"{path.name}:{number}", record) for number, record in lines]
    if kind in (".csv", ".tsv"):
        return {}, _read_table(text, path.name, tab=kind == ".tsv", typed=typed)
    return _around(_document(text, path.name, kind), path.name)


def _document(text: str, name: str, kind: str) -> Any:
    return json_document(text, name) if kind == ".json" else read_yaml(text, name)[0]


_LISTS = (
    "cases",
    "tests",
    "examples",
    "items",
    "goldens",
    "test_cases",
    "records",
    "samples",
    "data",
)


def _around(document: Any, name: str) -> tuple[dict[str, Any], list[tuple[str, Any]]]:
    if isinstance(document, list):
        return {}, [(f"{name}[{n}]", record) for n, record in enumerate(document)]
    if isinstance(document, dict):
        for key in _LISTS:
            records = document.get(key)
            if isinstance(records, list):
                head = {other: value for other, value in document.items() if other != key}
                if key == "data" and records and "paragraphs" in records[0]:
                    records = [flat for article in records for flat in _flat_squad(article)]
                places = [(f"{name}.{key}[{n}]", record) for n, record in enumerate(records)]
                return head, places
    raise DatasetError(
        f"{name}: must be a list of records, or an object with one of: {', '.join(_LISTS)}",
        field="cases",
        rule="must be a list of records",
    )


def _read_table(text: str, name: str, *, tab: bool, typed: bool) -> list[tuple[str, Any]]:
    header = text.split("\n", 1)[0]
    delimiter = "\t" if tab else max(",;\t|", key=header.count)
    records: list[tuple[str, Any]] = []
    columns: list[str] = []
    for line, row in table_rows(text, name, delimiter):
        if not columns:
            columns = [cell.strip() for cell in row]
            if (twice := first_twice(columns)) is not None:
                raise DatasetError(f"{name}:1: {twice!r} is given twice", field=twice)
        elif row:
            require_width(row, columns, f"{name}:{line}")
            cells = zip(columns, row, strict=False)
            record = {key: json_or_text(cell, typed=typed) for key, cell in cells if cell != ""}
            records.append((f"{name}:{line}", record))
    return records


def _read_folder(path: Path, encoding: str | None) -> list[tuple[str, Any]]:
    """One record for each file of a folder: its name is the id, its text the inputs unless it is
    JSON or YAML."""
    records: list[tuple[str, Any]] = []
    for file in sorted(entry for entry in path.iterdir() if entry.is_file()):
        if file.name.startswith("."):
            continue
        text = read_text(file, encoding=encoding)
        kind = file.suffix.lower()
        known = kind in (".json", ".yaml", ".yml")
        value = _document(text, file.name, kind) if known else {"inputs": text}
        if isinstance(value, dict):
            value = {"id": file.stem, **value}
        records.append((f"{path.name}/{file.name}", value))
    return records


def _read_parquet(path: Path) -> list[tuple[str, Any]]:
    try:
        parquet: Any = import_module("pyarrow.parquet")
    except ImportError:
        raise DatasetError(
            f"{path.name}: Parquet files need pyarrow: pip install 'orcheo-agentensor[parquet]'",
            field="path",
            rule="needs pyarrow",
        ) from None
    try:
        rows: list[Record] = parquet.read_table(path).to_pylist()
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path.name}: cannot be read: {error}", field="path") from None
    return [(f"{path.name}[{n}]", row) for n, row in enumerate(rows)]


# --- the forms -------------------------------------------------------------------------------


def _told(document: Mapping[str, Any], record: Record) -> Format:
    """The form of a file by its first record: the fields that only one tool writes come first."""
    keys = set(record)
    if "vars" in keys or "assert" in keys or {"prompts", "providers"} <= set(document):
        return "promptfoo"
    if any(str(key).startswith("__expected") for key in keys):
        return "promptfoo"
    if "inputs" in keys:
        if "expectations" in keys:
            return "mlflow"
        if {"evaluators", "report_evaluators", "name"} & set(document) or (
            "inputs" in keys and "name" in keys and keys <= _PYDANTIC
        ):
            return "pydantic-evals"
        if keys <= set(FIELDS):
            return "agentensor"
        if "outputs" in keys or "dataset_id" in keys or "reference_outputs" in keys:
            return "langsmith"
        return "columns" if keys - set(FIELDS) else "agentensor"
    if "user_input" in keys:
        return "ragas"
    if {"expectedOutput", "datasetId", "sourceTraceId"} & keys and "input" in keys:
        return "langfuse"
    if "ideal" in keys or keys == {"item"}:
        return "openai-evals"
    if {"context", "question", "answers"} <= keys:
        return "squad"
    if {"scenario", "turns"} & keys and {"expected_outcome", "user_description", "turns"} & keys:
        return "deepeval"
    if any(str(key).startswith("dspy_") for key in keys):
        return "dspy"
    if "input" in keys:
        if {"expected_output", "actual_output", "retrieval_context", "expected_tools"} & keys:
            return "deepeval"
        if "target" in keys:
            return "inspect"
        if "expected" in keys:
            return "braintrust"
        if "output" in keys and keys <= _PHOENIX:
            return "phoenix"
    return "columns"


_PYDANTIC = {"name", "inputs", "metadata", "expected_output", "evaluators"}
_PHOENIX = {
    "id",
    "example_id",
    "input",
    "output",
    "metadata",
    "splits",
    "split",
    "created_at",
    "updated_at",
    "dataset_id",
    "version_id",
}


def _rest(record: Record, *taken: str, **known: Any) -> Record:
    """The metadata of a case: that of the record, and each field that has no place elsewhere."""
    given = record.get("metadata")
    metadata = (
        dict(given) if isinstance(given, dict) else {} if given is None else {"metadata": given}
    )
    for key, value in record.items():
        if key not in taken and key != "metadata" and value not in (None, [], {}, ""):
            metadata.setdefault(key, value)
    metadata.update({key: value for key, value in known.items() if value is not None})
    return metadata


def _split_of(value: Any) -> str | None:
    """The split that another tool names; the default one of LangSmith ("base") is none."""
    names = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    named = [name for name in names if isinstance(name, str) and name not in ("", "base")]
    return _SPLITS.get(named[0], named[0]) if len(named) == 1 else None


def _turns(value: Any) -> Any:
    """Messages in role and content form, from that of `messages_to_dict`; the rest as it is."""
    if isinstance(value, dict):
        if set(value) == {"type", "data"} and isinstance(value["data"], dict):
            data = value["data"]
            role = {"human": "user", "ai": "assistant"}.get(value["type"], value["type"])
            extra = {
                key: data[key]
                for key in ("name", "id", "tool_calls", "tool_call_id")
                if data.get(key)
            }
            return {"role": role, "content": data.get("content", ""), **extra}
        return {key: _turns(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_turns(entry) for entry in value]
    return value


def _chat(value: Any) -> Any:
    """A list of messages as the state of a chat graph; anything else as it is."""
    value = _turns(value)
    is_chat = (
        isinstance(value, list)
        and value
        and all(isinstance(entry, dict) and "role" in entry for entry in value)
    )
    return {"messages": value} if is_chat else value


def _agentensor(record: Record, _document: Mapping[str, Any]) -> Record:
    return record


def _langsmith(record: Record, _document: Mapping[str, Any]) -> Record:
    if "inputs" not in record:  # a table to upload: each column is an input or an output
        named = {key: value for key, value in record.items() if key in _OUTPUT_NAMES}
        inputs = {key: value for key, value in record.items() if key not in (*named, "id")}
        return {"id": record.get("id"), "inputs": inputs, "expected_output": named or None}
    outputs = "reference_outputs" if "reference_outputs" in record else "outputs"
    dull = ("id", "inputs", outputs, "dataset_id", "created_at", "modified_at", "name", "split")
    metadata = _rest(record, *dull)
    split = _split_of(metadata.pop("dataset_split", None) or record.get("split"))
    return {
        "id": record.get("id"),
        "inputs": record["inputs"],
        "expected_output": record.get(outputs),
        "metadata": metadata,
        "split": split,
    }


def _pydantic_evals(record: Record, _document: Mapping[str, Any]) -> Record:
    return {
        "id": record.get("name"),
        "inputs": record["inputs"],
        "expected_output": record.get("expected_output"),
        "metadata": _rest(record, "name", "inputs", "expected_output", "evaluators"),
    }


def _promptfoo(record: Record, document: Mapping[str, Any]) -> Record:
    default = document.get("defaultTest")
    default = default if isinstance(default, dict) else {}
    if "vars" not in record and "assert" not in record:  # a table: each other column is a variable
        expected = [value for key, value in record.items() if str(key).startswith("__expected")]
        inputs = {key: value for key, value in record.items() if not str(key).startswith("__")}
        asserts = [written(str(value)) for value in expected]
        described = record.get("__description")
        more = {
            str(key).partition(":")[2]: value
            for key, value in record.items()
            if str(key).startswith("__metadata:")
        }
    else:
        inputs = {**(default.get("vars") or {}), **(record.get("vars") or {})}
        asserts = [*(default.get("assert") or []), *(record.get("assert") or [])]
        described = record.get("description")
        more = _rest(record, "vars", "assert", "description", "options", "threshold")
    taken, left = sorted_out(asserts, inputs)
    equals = [one.get("value") for one in taken if one.get("type") == "equals"]
    metadata = {**more, **({"description": described} if described else {})}
    threshold = record.get("threshold", default.get("threshold"))
    found = {ASSERT: taken, LEFT_OUT: left, THRESHOLD: threshold}
    metadata |= {key: value for key, value in found.items() if value not in (None, [])}
    expected_output = equals[0] if len(equals) == 1 else None
    return {"inputs": inputs, "expected_output": expected_output, "metadata": metadata}


def _openai_evals(record: Record, _document: Mapping[str, Any]) -> Record:
    if "item" in record:
        item = record["item"]
        if not isinstance(item, dict):
            return {"inputs": item, "metadata": _rest(record, "item")}
        source = next((key for key in _OUTPUT_NAMES if key in item), None)
        inputs = {key: _turns(value) for key, value in item.items() if key != source}
        return {
            "inputs": inputs,
            "expected_output": item.get(source) if source else None,
            "metadata": _rest(record, "item"),
        }
    ideal = record["ideal"]
    if isinstance(ideal, list) and len(ideal) == 1:
        ideal = ideal[0]
    return {
        "id": record.get("id"),
        "inputs": _chat(record.get("input")),
        "expected_output": ideal,
        "metadata": _rest(record, "id", "input", "ideal"),
    }


def _deepeval(record: Record, _document: Mapping[str, Any]) -> Record:
    known = record.get("additional_metadata") or record.get("additionalMetadata") or {}
    if "input" not in record:  # a conversation
        scenario = ("scenario", "turns", "expected_outcome", "name", "additional_metadata")
        return {
            "id": record.get("name"),
            "inputs": {"scenario": record.get("scenario"), "turns": record.get("turns") or []},
            "expected_output": record.get("expected_outcome"),
            "metadata": _rest(record, *scenario, **known),
        }
    taken = ("input", "expected_output", "name", "additional_metadata", "additionalMetadata")
    return {
        "id": record.get("name"),
        "inputs": _chat(record["input"]),
        "expected_output": record.get("expected_output"),
        "metadata": _rest(record, *taken, **known),
    }


def _inspect(record: Record, _document: Mapping[str, Any]) -> Record:
    inputs = _chat(record["input"])
    if choices := record.get("choices"):
        asked = inputs if isinstance(inputs, dict) else {"input": inputs}
        inputs = {**asked, "choices": choices}
    return {
        "id": record.get("id"),
        "inputs": inputs,
        "expected_output": record.get("target"),
        "metadata": _rest(record, "id", "input", "target", "choices"),
    }


def _mlflow(record: Record, _document: Mapping[str, Any]) -> Record:
    expectations = record["expectations"]
    dull = ("dataset_record_id", "dataset_id", "created_time", "last_update_time", "created_by",
            "last_updated_by", "source", "source_id", "source_type")  # fmt: skip
    return {
        "id": record.get("dataset_record_id"),
        "inputs": record["inputs"],
        "expected_output": expectations,
        "metadata": _rest(record, "inputs", "expectations", *dull),
    }


def _named(
    inputs: str,
    expected_output: str,
    *dull: str,
    ids: tuple[str, ...] = ("id",),
    splits: tuple[str, ...] = (),
) -> Callable[[Record, Mapping[str, Any]], Record]:
    """The converter of a form that has other names for the fields of a case, and nothing more.

    `dull` are fields that say nothing of the case; of `ids` and `splits` the first that is filled
    counts.
    """

    def case(record: Record, _document: Mapping[str, Any]) -> Record:
        return {
            "id": next((record[name] for name in ids if record.get(name) not in (None, "")), None),
            "inputs": _chat(record[inputs]),
            "expected_output": record.get(expected_output),
            "metadata": _rest(record, inputs, expected_output, *ids, *splits, *dull),
            "split": _split_of(next((record[name] for name in splits if record.get(name)), None)),
        }

    return case


def _dspy(record: Record, _document: Mapping[str, Any]) -> Record:
    plain = {key: value for key, value in record.items() if not str(key).startswith("dspy_")}
    target = next((key for key in _OUTPUT_NAMES if key in plain), None)
    return {
        "id": record.get("dspy_uuid"),
        "inputs": {key: value for key, value in plain.items() if key != target},
        "expected_output": {target: plain[target]} if target else None,
        "split": _split_of(record.get("dspy_split")),
    }


def _squad(record: Record, _document: Mapping[str, Any]) -> Record:
    answers = record["answers"]
    texts = answers.get("text", []) if isinstance(answers, dict) else answers
    texts = [one["text"] if isinstance(one, dict) else one for one in texts]
    return {
        "id": record.get("id"),
        "inputs": {"context": record["context"], "question": record["question"]},
        "expected_output": texts[0] if texts else None,
        "metadata": _rest(record, "id", "context", "question", "answers", answers=texts),
    }


def _flat_squad(article: Mapping[str, Any]) -> Iterator[Record]:
    """The questions of an article in the nested file that SQuAD is published as."""
    for paragraph in article["paragraphs"]:
        for asked in paragraph["qas"]:
            yield {"title": article.get("title"), "context": paragraph["context"], **asked}


@dataclass(frozen=True, kw_only=True)
class _Form:
    case: Callable[[Record, Mapping[str, Any]], Record]
    needs: tuple[str, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)


_FORMS: Mapping[Format, _Form] = {
    "agentensor": _Form(case=_agentensor, needs=("inputs",)),
    "braintrust": _Form(
        case=_named(
            *("input", "expected", "created", "root_span_id", "span_id", "_xact_id", "is_root"),
            *("dataset_id", "project_id"),
        ),
        needs=("input",),
    ),
    "deepeval": _Form(case=_deepeval),
    "dspy": _Form(case=_dspy),
    "inspect": _Form(case=_inspect, needs=("input",)),
    "langfuse": _Form(
        case=_named(
            *("input", "expectedOutput", "datasetId", "datasetName", "createdAt", "updatedAt"),
            *("sourceTraceId", "sourceObservationId", "status", "projectId"),
        ),
        needs=("input",),
    ),
    "langsmith": _Form(case=_langsmith),
    "mlflow": _Form(case=_mlflow, needs=("inputs", "expectations")),
    "openai-evals": _Form(case=_openai_evals),
    "phoenix": _Form(
        case=_named(
            *("input", "output", "created_at", "updated_at", "dataset_id", "version_id"),
            ids=("id", "example_id"),
            splits=("splits", "split"),
        ),
        needs=("input",),
    ),
    "promptfoo": _Form(
        case=_promptfoo,
        left_out={
            "prompts": "they go into the job",
            "providers": "the target has its own",
            "options": "what it asks of outputs is the target's or an evaluator's to do",
        },
    ),
    "pydantic-evals": _Form(
        case=_pydantic_evals,
        needs=("inputs",),
        left_out=dict.fromkeys(("evaluators", "report_evaluators"), "name them in the job"),
    ),
    "ragas": _Form(case=_named("user_input", "reference", ids=()), needs=("user_input",)),
    "squad": _Form(case=_squad, needs=("context", "question", "answers")),
}


# --- columns ---------------------------------------------------------------------------------


def _guessed_columns(record: Record, name: str) -> dict[str, str]:
    """The columns of a table with names of its own, by names that are often used for them."""
    lower = {str(key).strip().lower().replace(" ", "_"): str(key) for key in record}
    named = {key: key for key in map(str, record) if key.partition(".")[0] in FIELDS}
    if any(key.partition(".")[0] == "inputs" for key in named):  # the others were forgotten
        target = next((lower[key] for key in _OUTPUT_NAMES if key in lower), None)
        known = any(key.partition(".")[0] == "expected_output" for key in named)
        return named if target is None or known else {**named, "expected_output": target}
    source = next((lower[key] for key in _INPUT_NAMES if key in lower), None)
    if source is None:
        there = ", ".join(map(repr, record)) or "nothing"
        raise DatasetError(
            f"{name}: is of no known form, and no column looks like an input; it has {there}. "
            "Say which is which: --column inputs.question=Question --column expected_output=Answer",
            field="columns",
            value=list(record),
            rule="must be named",
        )
    target = next((lower[key] for key in _OUTPUT_NAMES if lower.get(key, source) != source), None)
    columns = {f"inputs.{source}": source}
    if target is not None:
        columns["expected_output"] = target
    columns.update({key: lower[key] for key in ("id", "split") if key in lower})
    return columns


def _require_columns(columns: Columns, records: Sequence[tuple[str, Record]], name: str) -> None:
    """Raise `DatasetError` for a field that no case has, and for a source that no record has."""
    for target, source in columns.items():
        head, dot, rest = target.partition(".")
        parts = rest.split(".") if dot else []
        if head not in FIELDS or (parts and (head in ("id", "split") or not all(parts))):
            raise DatasetError(
                f"columns: {target!r} is no field of a case; fields are id, split, inputs, "
                "expected_output, metadata and inputs.x, expected_output.y, metadata.z",
                field="columns",
                value=target,
                rule="must be a field of a case",
            )
        if not any(source in record for _, record in records):
            there = ", ".join(dict.fromkeys(str(key) for _, record in records for key in record))
            raise DatasetError(
                f"{name}: columns: there is no column {source!r}; there are: {there}",
                field="columns",
                value=source,
                rule="must be a column of the file",
            )


def _by_columns(record: Record, columns: Columns, where: str) -> Record:
    case: Record = {}
    for target, source in columns.items():
        if source not in record:
            continue
        *parents, leaf = target.split(".")
        level = case
        for parent in parents:
            level = level.setdefault(parent, {})
            if not isinstance(level, dict):
                raise DatasetError(f"{where}: {target}: stands under a column with a value")
        level[leaf] = _turns(record[source])
    if "inputs" not in case:
        raise DatasetError(
            f"{where}: has none of the columns of `inputs`", field="inputs", rule="is missing"
        )
    taken = set(columns.values())
    rest = {str(key): value for key, value in record.items() if key not in taken}
    known = case.get("metadata")
    if rest or known:
        case["metadata"] = {**rest, **(known if isinstance(known, dict) else {})}
    return _tidy(case)


# --- what is the same for all ------------------------------------------------------------------


def _tidy(case: Record) -> Record:
    """A case without empty fields, its messages in role and content form, its id as text."""
    tidied = {key: value for key, value in case.items() if value is not None}
    for key in ("inputs", "expected_output"):
        if key in tidied:
            tidied[key] = _turns(tidied[key])
    if "id" in tidied:
        tidied["id"] = " ".join(str(tidied["id"]).split())[:200]
    if not tidied.get("id"):
        tidied.pop("id", None)
    if tidied.get("metadata") == {}:
        del tidied["metadata"]
    return tidied


def _head(document: Mapping[str, Any]) -> Record:
    name = next((document[key] for key in ("id", "name", "description") if document.get(key)), None)
    head: Record = {}
    if isinstance(name, str):
        head["id"] = name
    if isinstance(document.get("metadata"), dict):
        head["metadata"] = document["metadata"]
    return head
