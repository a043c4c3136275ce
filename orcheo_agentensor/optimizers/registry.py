"""Make the optimizer, its proposer and its chat model from a job's `optimizer` field."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any

from orcheo_agentensor.entrypoints import chat_model, load_entrypoint
from orcheo_agentensor.errors import BadInput, EntrypointNotFound, MissingExtra, shorten
from orcheo_agentensor.optimizers.demos import Demos
from orcheo_agentensor.optimizers.protocol import Optimizer, ProposalRequest, Proposer
from orcheo_agentensor.optimizers.random_search import RandomSearch
from orcheo_agentensor.optimizers.reflective import Reflective
from orcheo_agentensor.optimizers.textgrad import TextGrad
from orcheo_agentensor.prompts import TextTensor
from orcheo_agentensor.runs.job import parse_model
from orcheo_agentensor.runs.schema import Definitions, Schema, model_form, named, one_of
from orcheo_agentensor.settings import Settings

GROUP = "orcheo_agentensor.optimizers"
DEFAULT = "reflective"
_BUNDLED: dict[str, Any] = {
    "reflective": Reflective,
    "textgrad": TextGrad,
    "demos": Demos,
    "random_search": RandomSearch,
}


def resolve_optimizer(spec: Any, *, settings: Settings) -> Optimizer:
    """The optimizer that `spec` names or is.

    `spec` is None (the default one), a name, `{"name": …, **options}`, or an `Optimizer`.
    Raises `BadInput` for an unknown name and `ConfigError` for an unknown or bad option.
    """
    if spec is None or isinstance(spec, str):
        spec = {"name": DEFAULT if spec is None else spec}
    if not isinstance(spec, Mapping):
        if isinstance(spec, Optimizer):
            return spec
        raise BadInput(
            field="optimizer", value=spec, rule="must be a name, {name, …options} or an Optimizer"
        )
    found: Any
    factory = _factory(spec.get("name", DEFAULT))
    if isinstance(factory, type) and hasattr(factory, "model_validate"):
        found = parse_model(factory, dict(spec), where="optimizer")
    else:
        found = factory(**{key: value for key, value in spec.items() if key != "name"})
    if not isinstance(found, Optimizer):
        rule = "must name an Optimizer"
        raise BadInput(field="optimizer.name", value=spec.get("name"), rule=rule)
    return found


def optimizer_form(definitions: Definitions) -> Schema:
    """The JSON Schema of a job's `optimizer`: a name, or one of the bundled ones with its options,
    or one that another package brings with whatever options it has."""
    kinds = {}
    for name, kind in _BUNDLED.items():
        schema = named(model_form(kind, definitions), "name", name)
        for live in {"proposer", "model"} & schema["properties"].keys():
            schema["properties"][live] |= {"type": "string"}
        if name == DEFAULT:
            schema["properties"]["name"]["default"] = name
            del schema["required"]
        kinds[name] = kind.__name__
        definitions[kind.__name__] = schema
    others = sorted(point.name for point in entry_points(group=GROUP) if point.name not in kinds)
    names = {"type": "string", "enum": [*kinds, *others]}
    forms = [{**names, "title": "Name"}, one_of("name", kinds)]
    if others:
        definitions["OtherOptimizer"] = {
            "type": "object",
            "title": "An optimizer of another package",
            "properties": {
                "name": {"enum": others, "title": "Name", "description": "Which one this is."}
            },
            "required": ["name"],
        }
        forms.append({"$ref": "#/$defs/OtherOptimizer"})
    return {"anyOf": forms}


def _factory(name: Any) -> Any:
    if name in _BUNDLED:
        return _BUNDLED[name]
    others = {point.name: point for point in entry_points(group=GROUP)}
    if name not in others:
        known = ", ".join(sorted({*_BUNDLED, *others}))
        raise BadInput(field="optimizer.name", value=name, rule=f"is not known; known: {known}")
    try:
        return others[name].load()
    except ImportError as error:
        raise EntrypointNotFound(f"optimizer {name!r} does not import: {error}") from None


def resolve_model(spec: Any, *, field: str, **options: Any) -> Any:
    """The chat model that `spec` names the LangChain way ("openai:gpt-5-mini") or is."""
    if not isinstance(spec, str):
        return spec
    try:
        return chat_model(spec, **options)
    except ImportError as error:
        provider = spec.split(":", 1)[0]
        raise MissingExtra(str(error.name or provider), extra=provider) from None
    except Exception as error:  # noqa: BLE001 - every provider has errors of its own
        raise BadInput(
            f"{field}: {shorten(spec)} is not a usable chat model: {error}",
            field=field,
            value=spec,
            rule="must name a chat model",
        ) from None


def own_models(
    prompts: Mapping[str, TextTensor], *, optimizer: Optimizer, settings: Settings
) -> dict[str, Any]:
    """The chat models that prompts to be trained have for themselves, by the prompts' names.

    Raises `BadInput` for a model that cannot be had, or that has no such setting.
    """
    found = {}
    for name, tensor in prompts.items():
        spec, field = tensor.model, f"prompts.{name}.model"
        if not tensor.requires_grad or (spec is None and not tensor.model_kwargs):
            continue
        if isinstance(spec, str):
            found[name] = resolve_model(spec, field=field, **tensor.model_kwargs)
            continue
        if spec is None:
            spec = getattr(optimizer, "model", None) or settings.model
        model = resolve_model(spec, field="optimizer.model")
        known = getattr(type(model), "model_fields", {})
        for key, value in tensor.model_kwargs.items():
            if key not in known:
                rule = "needs a model of the prompt's or the optimizer's own that has such a field"
                raise BadInput(field=f"prompts.{name}.model_kwargs.{key}", value=value, rule=rule)
        found[name] = model.model_copy(update=tensor.model_kwargs) if tensor.model_kwargs else model
    return found


class NoProposer:
    """Stands where an optimizer needs no proposer; it proposes nothing."""

    async def propose(self, request: ProposalRequest) -> Mapping[str, Any]:
        """No text for any prompt."""
        return {}


def resolve_proposer(
    optimizer: Optimizer, *, settings: Settings, prompts: Mapping[str, TextTensor] | None = None
) -> Proposer:
    """The proposer of an optimizer; raises `BadInput` when there is none.

    It is the optimizer's `proposer` (an object or "module:attribute"), else one that asks its
    `model` or that of `AGENTENSOR_MODEL`. Those of `prompts` that have a model of their own are
    rewritten by it. An optimizer that does not propose gets one that gives nothing.
    """
    from orcheo_agentensor.optimizers.proposer import LLMProposer, ProposerPerPrompt

    if not getattr(optimizer, "proposes", True):
        return NoProposer()
    own = own_models(prompts or {}, optimizer=optimizer, settings=settings)
    if not own:
        return _shared_proposer(optimizer, settings=settings)
    rest = [name for name, t in (prompts or {}).items() if t.requires_grad and name not in own]
    sighted = getattr(optimizer, "sees", None)
    groups = bool(getattr(optimizer, "groups", False))
    shared = _shared_proposer(optimizer, settings=settings) if rest else None
    return ProposerPerPrompt(
        {name: LLMProposer(model, sees=sighted, groups=groups) for name, model in own.items()},
        shared,
    )


def _shared_proposer(optimizer: Optimizer, *, settings: Settings) -> Proposer:
    from orcheo_agentensor.optimizers.proposer import LLMProposer

    spec = named = getattr(optimizer, "proposer", None)
    if isinstance(named, str):
        spec = load_entrypoint(named, settings=settings, what="proposer")
    if isinstance(spec, type):
        try:
            spec = spec()
        except (Exception, SystemExit) as error:
            raise BadInput(
                f"optimizer.proposer: {spec.__name__}() failed: {type(error).__name__}: {error}",
                field="optimizer.proposer",
                value=named,
                rule="must be constructed without arguments",
            ) from error
    if spec is not None:
        if not isinstance(spec, Proposer):
            raise BadInput(
                field="optimizer.proposer", value=named, rule="must have async propose(request)"
            )
        return spec
    model = getattr(optimizer, "model", None) or settings.model
    if model is None:
        raise BadInput(
            f"optimizer: {optimizer.name!r} has no proposer; give it proposer=, or model= (or set "
            "AGENTENSOR_MODEL)",
            field="optimizer.model",
            rule="must be given",
        )
    sighted = getattr(optimizer, "sees", None)
    groups = bool(getattr(optimizer, "groups", False))
    resolved = resolve_model(model, field="optimizer.model")
    return LLMProposer(resolved, sees=sighted, groups=groups)
