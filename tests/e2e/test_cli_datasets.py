"""`agentensor dataset`: files converted, compared, cut and counted, and made of runs."""

from __future__ import annotations

import json

import pytest
from cli_support import Project

from orcheo_agentensor import Dataset


@pytest.mark.requirement("dataset.imported")
def test_a_file_of_another_tool_is_converted_and_then_evaluated(project: Project) -> None:
    rows = [
        {
            "inputs": {"id": f"x{n}", "word": f"w{n}"},
            "outputs": {"label": "known"},
            "dataset_id": "d",
        }
        for n in range(4)
    ]
    project.write("export.jsonl", "\n".join(map(json.dumps, rows)))
    result = project.call("dataset", "convert", "export.jsonl", "-o", "converted.jsonl")
    assert "export.jsonl was read as langsmith: 4 cases" in result.stderr
    for dataset in ("converted.jsonl", {"path": "export.jsonl", "format": "langsmith"}):
        job = project.folder / "evaluate.yaml"
        job.write_text(
            json.dumps(
                {
                    "target": "shopflow:answer",
                    "dataset": dataset,
                    "evaluators": ["shopflow:right"],
                    "prompts": {"words": "w0 w1"},
                }
            )
        )
        assert project.ok("evaluate", "evaluate.yaml")["summary"]["objective"] == 0.5
    before = (project.folder / "converted.jsonl").read_bytes()
    told = project.refused("dataset", "convert", "words.jsonl", "-o", "converted.jsonl")
    assert "converted.jsonl exists; --force writes over it" in told
    assert (project.folder / "converted.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--from", "trello"), "must be auto or one of: agentensor, braintrust"),
        (("--from", "ragas"), "has no 'user_input', which ragas has"),
        (("--column", "inputs"), "--column: 'inputs' must be FIELD=COLUMN"),
        (("--encoding", "klingon"), "must be an encoding"),
        (("--encoding", "undefined"), "must be an encoding"),
        (("-o", "no/such/folder/x.jsonl"), "cannot be written"),
    ],
)
def test_what_cannot_be_converted_is_said_in_a_sentence(
    project: Project, arguments: tuple[str, ...], told: str
) -> None:
    assert told in project.refused("dataset", "convert", "words.jsonl", *arguments)


def test_files_are_split_sampled_counted_and_compared(project: Project) -> None:
    project.call("dataset", "split", "words.jsonl", "--stratify", "inputs.word", "-o", "cut.jsonl")
    cut = Dataset.load(project.folder / "cut.jsonl")
    assert cut.splits() == {"train": 18, "validation": 9, "holdout": 9}
    for _ in range(2):
        project.call("dataset", "sample", "cut.jsonl", "-n", "10", "-o", "ten.jsonl", "--force")
    ten = Dataset.load(project.folder / "ten.jsonl")
    assert [case for case in cut if case.id in ten._by_id] == list(ten)
    assert len(ten) == 10
    found = project.ok("dataset", "diff", "cut.jsonl", "ten.jsonl")
    assert (len(found["removed"]), found["added"], found["same"]) == (26, [], 10)
    changed = [case.to_json() for case in ten]
    changed[0]["expected_output"] = {"label": "other"}
    project.write("changed.jsonl", "\n".join(map(json.dumps, changed)))
    found = project.ok("dataset", "diff", "ten.jsonl", "changed.jsonl")
    assert found["changed"] == {changed[0]["id"]: ["expected_output"]}
    counted = project.ok("dataset", "stats", "words.jsonl")
    assert counted["splits"] == {"train": 12, "validation": 12, "holdout": 12}
    assert counted["fields"]["inputs.word"] == 36
    assert counted["repeated_inputs"] == 0


def test_a_dataset_grows_from_the_cases_that_a_run_failed(project: Project) -> None:
    project.ok("evaluate", "evaluate.yaml", "--run-id", "r")
    project.call("dataset", "from-run", "r", "--failed", "-o", "failed.jsonl")
    failed = Dataset.load(project.folder / "failed.jsonl")
    assert {case.inputs["word"] for case in failed} <= {"w2", "w3"}
    everything = project.call("dataset", "from-run", "r", "--outputs").stdout.splitlines()
    outputs = [json.loads(line)["expected_output"]["label"] for line in everything]
    assert (len(outputs), outputs.count("known")) == (36, 18)
    assert "no run 'nobody'" in project.refused("dataset", "from-run", "nobody")
