"""A comparison as a file to share: HTML, Markdown, JUnit XML or JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from xml.etree import ElementTree

from orcheo_agentensor.display import chance, clean_json, interval
from orcheo_agentensor.reporting.comparison import Contrast, Flip, RunComparison
from orcheo_agentensor.reporting.report import cell_text, cut_markdown, render, shown_text, xml_text

MOST_FLIPS = 200
"""How many cases that broke, and that were fixed, a page shows."""
MOST_IN_A_COMMENT = 25


def sentence(contrast: Contrast) -> str:
    """What came of a comparison, in a sentence."""
    one = contrast.objective
    change = one.difference
    if not change.n:
        return f"{contrast.after} and {contrast.before} share no case that both scored."
    flipped = f"{len(contrast.broke)} cases broke, {len(contrast.fixed)} were fixed."
    if not change.gain:
        return (
            f"From {contrast.before} to {contrast.after} the objective stayed the same; {flipped}"
        )
    verb = "rose" if change.gain > 0 else "fell"
    seldom = one.p_value < 0.05
    told = "which chance alone seldom does" if seldom else "which chance alone may well do"
    return (
        f"From {contrast.before} to {contrast.after} the objective {verb} by "
        f"{abs(change.gain):.3f} (95 % interval {interval(change.ci95)}, p {chance(one.p_value)}), "
        f"{told}; {flipped}"
    )


def comparison_to_html(found: RunComparison) -> str:
    """One page without scripts or network; everything from cases and models is escaped."""
    tables = [table for table in found.tables() if table[1][0] != "case"]  # flips come in full
    return render(
        "comparison.html.j2",
        found=found,
        tables=tables,
        title=_title(found),
        sentence=sentence,
        most=MOST_FLIPS,
    )


def comparison_to_markdown(found: RunComparison) -> str:
    """A comment on a pull request, with the cases that flipped."""
    lines = [f"### {cell_text(_title(found))}", ""]
    lines += [cell_text(sentence(contrast)) for contrast in found.contrasts]
    lines += [f"Note: {cell_text(note)}" for note in found.notes]
    for title, columns, rows in found.tables():
        if columns[0] == "case":
            continue
        lines += ["", f"**{cell_text(title or 'Sides')}**", "", *_grid(columns, rows)]
    for contrast in found.contrasts:
        for word, flips in (("broke", contrast.broke), ("were fixed", contrast.fixed)):
            if flips:
                lines += ["", f"<details><summary>{len(flips)} cases {word}</summary>", ""]
                lines += _grid(("case", "by", "before", "after", "why"), _flips(flips))
                lines += ["", "</details>"]
    return cut_markdown("\n".join(lines) + "\n")


def _grid(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Iterator[str]:
    yield f"| {' | '.join(column.removeprefix('>') for column in columns)} |"
    yield f"|{'|'.join('---:' if column.startswith('>') else '---' for column in columns)}|"
    for row in rows:
        yield f"| {' | '.join(cell_text('-' if one is None else one, 160) for one in row)} |"


def _flips(flips: Sequence[Flip]) -> list[Sequence[object]]:
    return [
        (
            flip.case_id,
            ", ".join(flip.evaluators),
            shown_text(flip.before),
            shown_text(flip.after),
            "; ".join(flip.reasons.values()),
        )
        for flip in flips[:MOST_IN_A_COMMENT]
    ]


def comparison_to_junit(found: RunComparison) -> str:
    """JUnit XML with a suite for each comparison: a case that broke is a failure."""
    whole = ElementTree.Element("testsuites")
    for contrast in found.contrasts:
        name = f"{contrast.after} against {contrast.before}"
        suite = ElementTree.SubElement(
            whole,
            "testsuite",
            name=xml_text(name),
            tests=str(len(contrast.flips)),
            failures=str(len(contrast.broke)),
            errors="0",
        )
        for flip in contrast.flips:
            case = ElementTree.SubElement(
                suite, "testcase", classname=xml_text(name), name=xml_text(flip.case_id)
            )
            if flip.broke:
                why = "; ".join(flip.reasons.values()) or ", ".join(flip.evaluators)
                told = ElementTree.SubElement(case, "failure", message=xml_text(why))
                told.text = xml_text(
                    f"before: {shown_text(flip.before)}\nafter: {shown_text(flip.after)}"
                )
    return ElementTree.tostring(whole, encoding="unicode", xml_declaration=True) + "\n"


def _title(found: RunComparison) -> str:
    first, *others = [side.name for side in found.sides]
    return f"{', '.join(others)} against {first}"


COMPARISON_WRITERS: Mapping[str, Callable[[RunComparison], str]] = {
    ".html": comparison_to_html,
    ".md": comparison_to_markdown,
    ".xml": comparison_to_junit,
    ".json": lambda found: clean_json(found.to_json()) + "\n",
}
"""Suffix -> the writer of that format."""
