from __future__ import annotations

from typing import Any

import pytest

from orcheo_agentensor.optimizers.edits import EditRefused, as_proposed, new_text, why_of

TEXT = "Sort mail.\n- bills to accounts\n- the rest to desk"


@pytest.mark.parametrize(
    ("edits", "expected"),
    [
        ([{"op": "append", "text": "- spam to bin"}], f"{TEXT}\n- spam to bin"),
        (
            [
                {
                    "op": "replace",
                    "line": "- bills to accounts",
                    "text": "- bills to Ann\n- tax to Bo",
                }
            ],
            "Sort mail.\n- bills to Ann\n- tax to Bo\n- the rest to desk",
        ),
        ([{"op": "delete", "line": " - bills to accounts "}], "Sort mail.\n- the rest to desk"),
        ([{"op": "delete", "line": "2"}], "Sort mail.\n- the rest to desk"),
        (  # lines are those of the text that was shown, whatever an earlier edit did
            [{"op": "delete", "line": "1"}, {"op": "replace", "line": "3", "text": "- else: desk"}],
            "- bills to accounts\n- else: desk",
        ),
        ([], TEXT),
    ],
)
def test_lines_are_edited_and_all_others_stay(edits: Any, expected: str) -> None:
    assert new_text(TEXT, {"why": "so", "edits": edits}) == expected


def test_what_is_appended_follows_the_last_line_that_holds_something() -> None:
    assert new_text("Sort.\n", {"edits": [{"op": "append", "text": "Well."}]}) == "Sort.\nWell."


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        ({"op": "delete", "line": "- bills"}, "edit 1 names no line of the prompt: '- bills'"),
        ({"op": "delete", "line": "4"}, "edit 1 names no line of the prompt: '4'"),
        ({"op": "delete"}, "edit 1 names no line of the prompt: ''"),
        ({"op": "move", "line": "1"}, "edit 1 has the op 'move'; known: append, replace, delete"),
        ({"op": "append"}, "edit 1 (append) has no text"),
        ({"op": "replace", "line": "1", "text": " "}, "edit 1 (replace) has no text"),
    ],
)
def test_an_edit_that_does_not_apply_refuses_all(edit: Any, reason: str) -> None:
    with pytest.raises(EditRefused) as refused:
        new_text(TEXT, {"edits": [edit, {"op": "append", "text": "- spam to bin"}]})
    assert str(refused.value) == reason


def test_one_line_is_changed_once_and_two_alike_are_not_guessed_between() -> None:
    twice = [{"op": "delete", "line": "1"}, {"op": "replace", "line": "Sort mail.", "text": "Go."}]
    with pytest.raises(EditRefused, match=r"edit 2 \(replace\) changes line 1 once more"):
        new_text(TEXT, {"edits": twice})
    with pytest.raises(EditRefused, match="edit 1 names 2 lines of the prompt"):
        new_text("a\na", {"edits": [{"op": "delete", "line": "a"}]})


def test_what_was_proposed_is_kept_as_json_and_nothing_else_of_it() -> None:
    given = {"why": "so", "edits": [{"op": "delete", "line": 2, "at": object()}, 3], "x": object()}
    kept = as_proposed(given)
    assert kept == {"why": "so", "edits": [{"op": "delete", "line": "2"}, {}]}
    assert why_of(kept) == "so"
    assert [as_proposed(value) for value in ("text", 3, None)] == ["text", None, None]
    assert new_text(TEXT, {"why": "so", "text": "Go."}) == "Go."
