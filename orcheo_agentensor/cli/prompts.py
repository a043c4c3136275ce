"""`agentensor prompts pull`: prompts of LangSmith's hub as files of the project.

What the hub gives is read as data. It is never loaded as the LangChain objects that it names: those
may bring models, addresses and headers with them.
"""

from __future__ import annotations

import inspect
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from orcheo_agentensor.cli import options
from orcheo_agentensor.cli.errors import command
from orcheo_agentensor.cli.output import (
    as_yaml,
    print_json,
    require_new,
    say,
    show,
    write_whole,
)
from orcheo_agentensor.errors import BadInput, NotFound, RunFailed, shorten
from orcheo_agentensor.redaction import redact, redact_url

app = typer.Typer(help="Prompts in files.", no_args_is_help=True)

_ROLES = {
    "SystemMessage": "system",
    "HumanMessage": "human",
    "AIMessage": "ai",
    "ChatMessage": "chat",
    "FunctionMessage": "function",
    "ToolMessage": "tool",
}
_TEMPLATES = {"jinja2": "jinja"}
"""Names of template languages where the metadata of a prompt has another one."""
_NAME = re.compile(r"(?:[\w.-]+/)?[\w.-]+(?::[\w.-]+)?", re.ASCII)
_MILLISECONDS = (10_000, 60_000)
_DEEPEST = 6


@dataclass(frozen=True, kw_only=True)
class HubText:
    """A text of a prompt of the hub: of a message, or the whole prompt where it has no messages."""

    text: str
    role: str | None
    number: int
    template: str
    variables: tuple[str, ...]


@command(app, "pull")
def pull(
    prompt: Annotated[
        str,
        typer.Argument(metavar="PROMPT", help="OWNER/NAME, or NAME of your own; with :COMMIT."),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help=r"The file. \[default: prompts/NAME.md]"
        ),
    ] = None,
    force: options.Force = False,
    as_json: options.AsJson = False,
) -> None:
    """Write a prompt of LangSmith's hub into a file, with its commit in the front matter.

    A prompt of several messages makes a file for each, as NAME.0.system.md. This asks the hub once,
    at LANGSMITH_ENDPOINT with LANGSMITH_API_KEY; nothing else of the command line does.
    """
    if not _NAME.fullmatch(prompt):
        rule = "must be OWNER/NAME or NAME, and may end in :COMMIT"
        raise BadInput(field="prompt", value=prompt, rule=rule)
    path = output or Path("prompts") / f"{prompt.partition(':')[0].rpartition('/')[2]}.md"
    require_new(path, force=force)
    commit, source = _pulled(prompt)
    texts, left_out = texts_in(commit.manifest)
    if not texts:
        raise BadInput(
            f"{prompt} holds no text: {', '.join(left_out) or shorten(commit.manifest)}",
            field="prompt",
            value=prompt,
            rule="must hold a text",
        )
    files = {_file_of(path, text, alone=len(texts) == 1): text for text in texts}
    for file in files:
        require_new(file, force=force)
    hub = f"{commit.owner}/{commit.repo}" if commit.owner != "-" else str(commit.repo)
    path.parent.mkdir(parents=True, exist_ok=True)
    for file, text in files.items():
        facts = {"hub": hub, "commit": commit.commit_hash, "source": source}
        facts |= {} if text.role is None else {"role": text.role, "message": text.number}
        facts |= {"template": text.template, "variables": [*text.variables]}
        write_whole(file, ["---\n", as_yaml(facts), "---\n\n", text.text.strip(), "\n"])
        if text.text != text.text.strip():
            say(f"note: white space around the text of {file} is left out")
    for one in left_out:
        say(f"note: left out: {one}")
    job = {_prompt_name(file): _in_job(file, text) for file, text in files.items()}
    if as_json:
        print_json({"hub": hub, "commit": commit.commit_hash, "source": source, "prompts": job})
        return
    show("In a job file beside it:")
    show(as_yaml({"prompts": job}).rstrip())


def _pulled(prompt: str) -> tuple[Any, str]:
    """The commit that the hub gives, and where the hub is."""
    from langsmith import Client
    from langsmith.utils import LangSmithAuthError, LangSmithNotFoundError

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a key that is missing: public prompts need none
        client = Client(
            api_url=os.environ.get("LANGSMITH_ENDPOINT"),  # now: the client remembers what it reads
            api_key=os.environ.get("LANGSMITH_API_KEY"),
            auto_batch_tracing=False,
            timeout_ms=_MILLISECONDS,
        )
    pull = client.pull_prompt_commit
    # Releases differ in what they ask to be confirmed; a manifest that is only read confirms it.
    asked = {"skip_cache": True, "dangerously_pull_public_prompt": True}
    known = {key: one for key, one in asked.items() if key in inspect.signature(pull).parameters}
    source = redact_url(str(client.api_url))
    try:
        return pull(prompt, **known), source
    except LangSmithNotFoundError:
        raise NotFound(
            f"{source} has no prompt {prompt!r}, or none that this key may read"
        ) from None
    except LangSmithAuthError as error:
        raise BadInput(
            f"{source} refuses the key in LANGSMITH_API_KEY: {shorten(redact(str(error)))}",
            field="LANGSMITH_API_KEY",
            rule="must be a key that may read the prompt",
        ) from None
    except Exception as error:  # noqa: BLE001 - whatever the client and what is below it raise
        raise RunFailed(
            f"{prompt} could not be pulled from {source}: {type(error).__name__}: "
            f"{shorten(redact(str(error)))}"
        ) from None


def texts_in(manifest: Any) -> tuple[list[HubText], list[str]]:
    """The texts of a manifest in their order, and what of it is no text."""
    left_out: list[str] = []
    whole = _prompt_in(manifest, _DEEPEST)
    if whole is None:
        return [], [f"a {_kind(manifest) or 'manifest'} without a prompt"]
    kwargs = whole["kwargs"]
    if "template" in kwargs:
        return [*_templates(whole, None, 0, left_out)], left_out
    texts: list[HubText] = []
    for number, message in enumerate(kwargs.get("messages") or ()):
        kind = _kind(message)
        inner = message.get("kwargs", {}) if isinstance(message, Mapping) else {}
        name = kind.removesuffix("PromptTemplate")
        role = str(inner.get("role") or _ROLES.get(name.removesuffix("Chunk"), name or "message"))
        if kind == "MessagesPlaceholder":
            left_out.append(f"message {number}, the placeholder {inner.get('variable_name')!r}")
        elif isinstance(inner.get("content"), str):  # a message that is no template
            texts.append(HubText(text=inner["content"], role=role, number=number, template="none",
                                 variables=()))  # fmt: skip
        else:
            parts = inner.get("prompt")
            held = parts if isinstance(parts, list) else [parts]
            found = [one for part in held for one in _templates(part, role, number, left_out)]
            texts += [_joined(found)] if found else []
            if not found:
                left_out.append(f"message {number}, a {kind or 'thing without a type'}")
    if kwargs.get("schema_"):
        left_out.append("the schema of the answer")
    return texts, left_out


def _prompt_in(value: Any, depth: int) -> Mapping[str, Any] | None:
    """The prompt in a manifest: the whole of it, or the first step of a chain."""
    if not isinstance(value, Mapping) or not isinstance(value.get("kwargs"), Mapping) or not depth:
        return None
    kwargs = value["kwargs"]
    if "messages" in kwargs or "template" in kwargs:
        return value
    inner = kwargs.get("first") or kwargs.get("bound") or kwargs.get("prompt")
    return _prompt_in(inner, depth - 1)


def _kind(value: Any) -> str:
    name = value.get("id") if isinstance(value, Mapping) else None
    return str(name[-1]) if isinstance(name, list) and name else ""


def _templates(part: Any, role: str | None, number: int, left_out: list[str]) -> Iterator[HubText]:
    kwargs = part.get("kwargs", {}) if isinstance(part, Mapping) else {}
    template = kwargs.get("template")
    if not isinstance(template, str):
        if kwargs:
            where = "" if role is None else f" of message {number}"
            left_out.append(f"a {_kind(part) or 'part'}{where}")
        return
    named = str(kwargs.get("template_format") or "f-string")
    variables = tuple(map(str, kwargs.get("input_variables") or ()))
    yield HubText(text=template, role=role, number=number,
                  template=_TEMPLATES.get(named, named), variables=variables)  # fmt: skip


def _joined(texts: list[HubText]) -> HubText:
    """The texts of one message as one."""
    variables = dict.fromkeys(name for one in texts for name in one.variables)
    first = texts[0]
    return HubText(
        text="\n".join(one.text for one in texts),
        role=first.role,
        number=first.number,
        template=first.template,
        variables=tuple(variables),
    )


def _file_of(path: Path, text: HubText, *, alone: bool) -> Path:
    if alone or text.role is None:
        return path
    role = re.sub(r"\W+", "-", text.role)
    return path.with_name(f"{path.stem}.{text.number}.{role}{path.suffix}")


def _prompt_name(file: Path) -> str:
    name = re.sub(r"\W+", "_", file.stem, flags=re.ASCII).strip("_")
    return name if name[:1].isalpha() else f"prompt_{name}"


def _in_job(file: Path, text: HubText) -> dict[str, Any]:
    """A prompt as a job file names it; the template language is said where it is not the usual."""
    told = {} if text.template in ("f-string", "none") else {"template": text.template}
    return {"file": file.as_posix(), **({"metadata": told} if told else {})}
