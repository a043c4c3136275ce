"""`--watch`: what counts as a change, and that each one is evaluated."""

from __future__ import annotations

from pathlib import Path

from orcheo_agentensor.cli.watch import watch


def test_each_change_of_code_data_or_prompts_is_evaluated_until_it_is_ended(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "job.yaml").write_text("a: 1")
    (tmp_path / ".agentensor").mkdir()
    edits = [
        lambda: (tmp_path / "job.yaml").write_text("a: 22"),
        lambda: (tmp_path / "shop" / "flow.py").write_text("x = 1"),
        lambda: (tmp_path / "shop" / "flow.py").unlink(),
    ]
    ignored = [
        lambda: (tmp_path / ".agentensor" / "agentensor.db").write_text("x"),
        lambda: (tmp_path / "notes.png").write_text("x"),
    ]
    runs: list[int] = []
    waits = iter([ignored[0], edits[0], ignored[1], edits[1], edits[2]])

    def run() -> int:
        runs.append(len(runs))
        return len(runs) % 2

    def wait() -> None:
        edit = next(waits, None)
        if edit is None:
            raise KeyboardInterrupt
        edit()

    assert watch([tmp_path], run=run, wait=wait) == 0
    assert runs == [0, 1, 2, 3]
