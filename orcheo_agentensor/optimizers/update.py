"""One optimizer step on tensors: from their gradients to new texts, through the guards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from orcheo_agentensor.evaluators.threads import run_sync
from orcheo_agentensor.optimizers.guards import (
    CaseTexts,
    max_chars_of,
    placeholders,
    slot_text,
    through_guards,
)
from orcheo_agentensor.optimizers.proposer import ProposalRefused
from orcheo_agentensor.optimizers.protocol import ComponentRequest, Edit, ProposalRequest, Purpose
from orcheo_agentensor.optimizers.registry import resolve_optimizer, resolve_proposer
from orcheo_agentensor.optimizers.slots import plain_template
from orcheo_agentensor.prompts import TextTensor
from orcheo_agentensor.runs.arguments import check_arguments
from orcheo_agentensor.settings import Settings


def proposal_request(
    tensors: Mapping[str, TextTensor],
    names: Iterable[str],
    *,
    seed: int,
    purpose: Purpose = "rewrite",
    initial: Mapping[str, TextTensor] | None = None,
    history: Callable[[str], tuple[Edit, ...]] = lambda name: (),
    caps: Mapping[str, int] | None = None,
    task: str = "",
    dataset: Mapping[str, Any] | None = None,
) -> ProposalRequest:
    """What a proposer is asked: to rewrite the tensors `names` by their gradients.

    Length caps and placeholders follow from the `initial` texts; those of `tensors` where left out.
    No cap is larger than the one in `caps`. A slot for examples is a placeholder while it is empty.
    """

    def component(name: str) -> ComponentRequest:
        first, text = (initial or tensors)[name], tensors[name].text
        template, slot = plain_template(first.text, first.metadata), slot_text(first.metadata)
        cap = max_chars_of(first.text, first.metadata, field=f"prompts.{name}.metadata")
        held = tuple(one for one in placeholders(first.text, template) if one != slot)
        if slot and slot in text:
            held = (*held, slot)
        return ComponentRequest(
            name=name,
            text=text,
            feedback=tuple(tensors[name].gradients),
            siblings={other: t.text for other, t in tensors.items() if other != name},
            history=history(name),
            max_chars=min(cap, (caps or {}).get(name, cap)),
            placeholders=held,
            metadata=dict(first.metadata),
            template=template,
            labels=tuple(first.labels),
        )

    return ProposalRequest(
        components=tuple(map(component, names)),
        seed=seed,
        purpose=purpose,
        task=task,
        dataset=dict(dataset or {}),
    )


async def astep(
    tensors: Mapping[str, TextTensor],
    *,
    optimizer: Any = None,
    seed: int = 0,
    settings: Settings | None = None,
) -> dict[str, str]:
    """Rewrite, in place, the tensors that have gradients; a loop by hand is built from this.

    The gradients stay until `zero_grad()`, as in torch. Nothing is tested, stored or budgeted: that
    is what `atrain` adds.

    Args:
        tensors: The prompts by name; those without gradients are shown, and stay as they are.
        optimizer: Its `proposer` or `model` writes the new texts, but for prompts with a `model` of
            their own.
        seed: The only randomness that the proposer may use.
        settings: Where the optimizer names a model or a module to load.

    Returns:
        The names of the prompts whose new text was refused, with the reason.

    Raises:
        BadInput: There is no proposer.

    Example:
        >>> from orcheo_agentensor import TextGrad, TextTensor, step
        >>> class Obedient:
        ...     async def propose(self, request):
        ...         return {c.name: f"{c.text} {c.feedback[0]}" for c in request.components}
        >>> prompt = TextTensor("Answer.")
        >>> prompt.backward("Be brief.")
        >>> step({"answer": prompt}, optimizer=TextGrad(proposer=Obedient()))
        {}
        >>> prompt.zero_grad()
        >>> prompt.text
        'Answer. Be brief.'
    """
    check_arguments("astep", locals())
    settings = settings or Settings()
    chosen = resolve_optimizer(optimizer, settings=settings)
    proposer = resolve_proposer(chosen, settings=settings, prompts=tensors)
    names = [name for name, tensor in tensors.items() if tensor.gradients]
    if not names:
        return {}
    request = proposal_request(tensors, names, seed=seed)
    try:
        texts = await proposer.propose(request)
    except ProposalRefused as error:
        return dict.fromkeys(names, error.message)
    passed, refused = through_guards(request, texts, cases=CaseTexts([]))
    for name, text in passed.items():
        tensors[name].text = text
    return {name: "; ".join(reasons) for name, reasons in refused.items()}


def step(
    tensors: Mapping[str, TextTensor],
    *,
    optimizer: Any = None,
    seed: int = 0,
    settings: Settings | None = None,
) -> dict[str, str]:
    """`astep` for sync code, with the same arguments and errors; works in notebooks, too.

    Example:
        >>> from orcheo_agentensor import TextGrad, TextTensor, step
        >>> class Careful:
        ...     async def propose(self, request):
        ...         return {c.name: f"{c.text} {c.feedback[0]}" for c in request.components}
        >>> tone, policy = TextTensor("Answer."), TextTensor("No refunds.", requires_grad=False)
        >>> tone.backward("Be kind.")
        >>> step({"tone": tone, "policy": policy}, optimizer=TextGrad(proposer=Careful()))
        {}
        >>> tone.text, policy.text
        ('Answer. Be kind.', 'No refunds.')
    """
    check_arguments("step", locals())
    return run_sync(astep(tensors, optimizer=optimizer, seed=seed, settings=settings))
