"""Guards on proposals: each passes a text or refuses it with a reason; none repairs a text."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from string import Formatter
from typing import Any, Literal, TypeAlias, get_args

from orcheo_agentensor.errors import BadInput
from orcheo_agentensor.media import split_at
from orcheo_agentensor.optimizers.edits import EditRefused, new_text
from orcheo_agentensor.optimizers.protocol import ComponentRequest, ProposalRequest
from orcheo_agentensor.redaction import REDACTED, holds_secret
from orcheo_agentensor.storage.tables import clean_text

COPY_LENGTH = 40
MANY_CASES = 3
"""A stretch in so many cases is no copy of one of them: a label, or boilerplate."""

Template: TypeAlias = Literal["f-string", "jinja", "mustache", "percent", "dollar", "none"]

_NAME = r"[A-Za-z_][\w-]*(?:\.[\w-]+)*"
_FIELD = r"(?:[A-Za-z_]\w*|\d+)(?:\.\w+|\[[^\]{}]+\])*"
_DOUBLED = rf"\{{\{{\s*{_NAME}\s*\}}\}}"
_FORMATTED = (
    rf"(?<![{{$])\{{{_FIELD}(?:![rsa])?(?::(?:[^{{}}\"'\s]|\{{\w+\}})[^{{}}\"']*)?\}}(?!\}})"
)
_TOKENS: Mapping[str, re.Pattern[str]] = {
    "f-string": re.compile(rf"{_DOUBLED}|{_FORMATTED}"),
    "jinja": re.compile(r"\{\{[^{}]*\}\}|\{%[^{}]*?%\}"),
    "mustache": re.compile(
        rf"\{{\{{\{{\s*{_NAME}\s*\}}\}}\}}|\{{\{{\s*[#/^&>]?\s*{_NAME}\s*\}}\}}"
    ),
    "percent": re.compile(r"%%|%(?:\(\w+\))?[-#0 +]*(?:\d+|\*)?(?:\.\d+)?[diouxXeEfFgGcrsa]"),
    "dollar": re.compile(r"\$\$|\$(?:[A-Za-z_]\w*|\{[A-Za-z_]\w*\})"),
}
_ESCAPES = ("%%", "$$")
_BLOCK = re.compile(r"\{%|\{\{[#/^]")
_LATEX = re.compile(r"\\[A-Za-z]+\*?(?:\{[^{}\n]*\})+|\$(?=\S)[^$\n]*(?<=\S)\$(?!\w)")
_OF_JSON = re.compile(r"\b(?:json|object|dict|empty)", re.IGNORECASE)
"""Words beside which a bare `{}` is an empty object, and no place to fill in."""
_BY_POSITION = re.compile(r"\{[!:}]")
_OF_JINJA = re.compile(r"\{%[^{}]*%\}|\{\{[^{}]*[|()\[][^{}]*\}\}")
_OF_PERCENT = re.compile(r"%\(\w+\)[-#0 +\d.]*[a-zA-Z]|(?<![\w%])%(?:\.\d+)?[dfrs]\b")
_LABELLED_LINE = re.compile(r"^\s*(?:[-*]\s+)?[^\s:][^:]{0,60}:(?P<words>.*)$")
_REASONING = re.compile(r"</?think(?:ing)?>", re.IGNORECASE)
_CHATTER = re.compile(
    r"^\W{0,20}(?:sure|certainly|of course|absolutely)\b\s*[!,.:]"
    r"|^\W{0,20}(?:okay|ok|great)?\W{0,20}here(?:['’]s| is) (?:the|an|a|my|your) "
    r"(?:(?:new|improved|revised|updated|rewritten|better|optimi[sz]ed|refined|final) )+"
    r"|^\W{0,20}i(?:['’]ve| have) (?:rewritten|revised|improved|updated)\b"
    r"|\b(?:i )?hope this helps\W{0,20}$"
    r"|\blet me know if you(?:['’]d| would)? (?:like|want|need)\b[^\n]*$",
    re.IGNORECASE,
)


def template_of(text: str, metadata: Mapping[str, Any]) -> Template:
    """The template language in `metadata["template"]`, else the one that `text` is written in.

    Raises `BadInput` for a language that is not known.
    """
    known: tuple[Template, ...] = get_args(Template)
    if "template" in metadata:
        for name in known:
            if metadata["template"] == name:
                return name
        rule = f"must be one of {', '.join(known)}"
        raise BadInput(field="metadata.template", value=metadata["template"], rule=rule)
    if _OF_JINJA.search(text):
        return "jinja"
    plain = _LATEX.sub("", text)  # \boxed{answer} and $x$ are formulas
    by_position = any(map(_BY_POSITION.match, _format_fields(plain) or ()))
    if re.search(_FORMATTED, plain) or (by_position and not _OF_JSON.search(plain)):
        return "f-string"
    if _TOKENS["mustache"].search(plain):
        return "mustache"
    if _OF_PERCENT.search(text):
        return "percent"
    return "dollar" if placeholders(plain, "dollar") else "none"


def placeholders(text: str, template: str) -> tuple[str, ...]:
    """What a template language would fill in a text, without white space in the braces, sorted.

    Each stands there once; `{% … %}`, the sections of mustache and fields that are filled by their
    position (`{}`) as often as in the text.
    """
    if template == "none":
        return ()
    if template == "f-string" and (fields := _format_fields(text)) is not None:
        doubled = re.findall(_DOUBLED, text) if "{{" in text else []
        found = [*fields, *doubled]
    else:
        searched = _LATEX.sub("", text) if template in ("f-string", "dollar") else text
        found = [one for one in _TOKENS[template].findall(searched) if one not in _ESCAPES]
    if template == "percent":  # filled by position where they have no name
        named = {one for one in found if one.startswith("%(")}
        return tuple(sorted([*named, *(one for one in found if one not in named)]))
    if template == "dollar":
        return tuple(sorted(set(found)))
    short = [re.sub(r"\s+", " " if one.startswith("{%") else "", one) for one in found]
    blocks = [one for one in short if _BLOCK.match(one) or _BY_POSITION.match(one)]
    return tuple(sorted([*{*short} - {*blocks}, *blocks]))


def _format_fields(text: str) -> list[str] | None:
    """The fields of a text that `str.format` takes; None where it does not."""
    try:
        parts = [part[1:] for part in Formatter().parse(text) if part[1] is not None]
    except ValueError:
        return None
    if not all(re.fullmatch(rf"(?:{_FIELD})?", name or "") for name, _spec, _kind in parts):
        return None
    return [
        f"{{{name}{'!' + kind if kind else ''}{':' + spec if spec else ''}}}"
        for name, spec, kind in parts
    ]


def slot_text(metadata: Mapping[str, Any]) -> str:
    """The text that stands for worked examples in a prompt, or nothing; see `slots.py`."""
    said = metadata.get("demos")
    found = said.get("slot") if isinstance(said, Mapping) else None
    return found if isinstance(found, str) else ""


def max_chars_of(initial: str, metadata: Mapping[str, Any], *, field: str) -> int:
    """The length cap of a prompt: what its metadata says, else one by its first text.

    Raises `BadInput` naming `field` for anything that is no cap.
    """
    said = metadata.get("max_chars")
    if said is None:
        return max(4_000, 3 * len(initial))
    if not isinstance(said, int) or isinstance(said, bool) or said < 1:
        rule = "must be an integer of at least 1: the most characters of the prompt"
        raise BadInput(field=f"{field}.max_chars", value=said, rule=rule)
    return said


def require_satisfiable(
    text: str, metadata: Mapping[str, Any], *, template: str, field: str
) -> None:
    """Raise `BadInput`, naming `field`, where no text at all could pass what a prompt's metadata
    asks for: a text that must stay holds one that must not appear, or the cap is too small for what
    must stay."""
    kept = _listed(metadata.get("must_keep"))
    for banned in _listed(metadata.get("never")):
        for one in kept:
            if banned.casefold() in one.casefold():
                rule = f"is part of {one!r}, which must_keep asks for: no text can be both"
                raise BadInput(field=f"{field}.never", value=banned, rule=rule)
    cap = max_chars_of(text, metadata, field=field)
    held = sum(map(len, placeholders(text, template)))
    least = max([held, *map(len, kept)])
    if least > cap:
        rule = f"is too small: what must stay of the prompt takes {least} characters"
        raise BadInput(field=f"{field}.max_chars", value=cap, rule=rule)


class CaseTexts:
    """The texts of cases, to search a proposal for copies.

    `held` are the validation and holdout cases, `train` those that may be quoted; each is a value
    with the texts of one case. Time is linear in the characters of the cases.
    """

    def __init__(self, held: Iterable[Any], *, train: Iterable[Any] = ()) -> None:
        self._held = [_long_texts(value) for value in held]
        self._train = [_long_texts(value) for value in train]

    def copied(self, text: str, *, parent: str, no_quotes: bool = False) -> str | None:
        """The first `COPY_LENGTH` characters that `text` copies from a case, or None.

        What its parent held is no copy, nor what `MANY_CASES` hold. What stands in a train case is
        one with `no_quotes` only. White space and case are folded.
        """
        folded, before = _folded(text), _folded(parent)
        held_before = set(_stretches(before, COPY_LENGTH))
        fresh = dict.fromkeys(
            one for one in _stretches(folded, COPY_LENGTH) if one not in held_before
        )
        if not fresh:
            return None
        cases = [*self._held, *self._train] if no_quotes else self._held
        rare = {one for one, n in _shared(cases, {*fresh}).items() if n < MANY_CASES}
        if rare and not no_quotes:
            rare -= _shared(self._train, rare).keys()
        return next((one for one in fresh if one in rare), None)


def _shared(cases: Iterable[str], stretches: set[str]) -> Counter[str]:
    """In how many cases each of the stretches stands.

    A stretch holds a block of half its length wherever the case is cut into such blocks: only
    where one is met, the stretches around it are looked up.
    """
    half = COPY_LENGTH // 2
    blocks = {part for one in stretches for part in _stretches(one, half)}
    found: Counter[str] = Counter()
    for case in cases:
        there: set[str] = set()
        for start in range(0, len(case) - half + 1, half):
            if case[start : start + half] in blocks:
                first = max(0, start - half)
                near = (case[n : n + COPY_LENGTH] for n in range(first, start + 1))
                there.update(one for one in near if one in stretches)
        found.update(there)
    return found


def _stretches(text: str, length: int) -> Iterator[str]:
    return (text[start : start + length] for start in range(len(text) - length + 1))


def _long_texts(value: Any) -> str:
    texts = (_folded(text) for text in texts_in(value))
    return "\0".join(text for text in texts if len(text) >= COPY_LENGTH)


def _folded(text: str) -> str:
    return " ".join(text.split()).casefold()


def texts_in(value: Any) -> Iterator[str]:
    """Every text in a JSON value, its keys left out."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for entry in value.values() if isinstance(value, Mapping) else value:
            yield from texts_in(entry)


def refusals(component: ComponentRequest, text: Any, *, cases: CaseTexts) -> list[str]:
    """Why `text` may not replace `component.text`; empty when it may.

    The prompt's metadata may ask for more: `max_line_words` caps the words after the colon of every
    `label: words` line, `must_keep` lists texts that have to stay, `never` texts that must not
    appear (in any case of letters), `no_quotes` refuses copies of training cases too.
    """
    if not isinstance(text, str) or not text.strip():
        return ["empty"]
    if text == component.text:
        return ["identical to its parent"]
    reasons = _broken_constraints(component, text)
    if len(text) > component.max_chars:  # it may be very long: nothing else is searched for
        return [f"{len(text)} characters, over the cap of {component.max_chars}", *reasons]
    if clean_text(text) != text:
        reasons.append("holds characters that cannot be stored")
    template = component.template or template_of(
        " ".join(component.placeholders), component.metadata
    )
    held, wanted = Counter(placeholders(text, template)), Counter(component.placeholders)
    slot = slot_text(component.metadata)
    if slot in wanted and text.count(slot) != 1:
        reasons.append(f"must keep its slot for examples, once: {slot!r}")
    for names in (held, wanted):
        names.pop(slot, None)
    if lost := sorted(wanted - held):
        reasons.append(f"lost placeholders: {', '.join(lost)}")
    if invented := sorted(held - wanted):
        reasons.append(f"invented placeholders: {', '.join(invented)}")
    if template == "f-string" and _format_fields(component.text) and not _format_fields(text):
        reasons.append("is no f-string template any more: braces that are text must be doubled")
    for what, pattern in (("reasoning", _REASONING), ("chatter", _CHATTER)):
        if (found := pattern.search(text)) and not pattern.search(component.text):
            reasons.append(f"holds {what} around the text: {found[0].strip()!r}")
    if holds_secret(text) or (REDACTED in text and REDACTED not in component.text):
        reasons.append("holds a secret")
    if sum(line.lstrip().startswith("```") for line in text.splitlines()) % 2:
        reasons.append("a code fence is not closed")
    if isinstance(cap := component.metadata.get("max_line_words"), int):
        reasons += [
            f"line {number} has {count} words after its label, over the cap of {cap}"
            for number, line in enumerate(text.splitlines(), start=1)
            if (found := _LABELLED_LINE.match(line))
            and (count := len(found["words"].split())) > cap
        ]
    no_quotes = bool(component.metadata.get("no_quotes"))
    if copied := cases.copied(text, parent=component.text, no_quotes=no_quotes):
        reasons.append(f"copies a case: {copied!r}")
    return reasons


def _broken_constraints(component: ComponentRequest, text: str) -> list[str]:
    reasons = []
    for kept in _listed(component.metadata.get("must_keep")):
        if kept not in text:
            reasons.append(f"must keep {kept!r}")
    for banned in _listed(component.metadata.get("never")):
        if banned.casefold() in text.casefold():
            reasons.append(f"must never say {banned!r}")
    if split_at(text, component.labels) is None:
        kept = " ".join(component.labels)
        reasons.append(f"must keep the labels of images and files, each once, in order: {kept}")
    return reasons


def through_guards(
    request: ProposalRequest, texts: Mapping[str, Any], *, cases: CaseTexts
) -> tuple[dict[str, str], dict[str, list[str]]]:
    """The new texts that may be used, and the reasons against those that may not, by name.

    Edits (see `edits.py`) are applied before. A text that is the same as before is in neither.
    """
    asked = {component.name: component for component in request.components}
    passed: dict[str, str] = {}
    refused: dict[str, list[str]] = {}
    for name, proposed in texts.items():
        if name not in asked:
            refused[name] = ["was not asked for"]
            continue
        try:
            text = new_text(asked[name].text, proposed)
        except EditRefused as error:
            refused[name] = [str(error)]
            continue
        if text != asked[name].text:
            if found := refusals(asked[name], text, cases=cases):
                refused[name] = found
            else:
                passed[name] = text
    return passed, refused


def _listed(value: Any) -> list[str]:
    found = value if isinstance(value, list | tuple) else [value]
    return [entry for entry in found if isinstance(entry, str)]
