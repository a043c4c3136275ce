"""A task of rules to be found: rule k is scored where its prompt holds the token `Rk`.

The prompts are `planner` and `writer`; rule k belongs to the (k mod 2)-th of them. A rule may break
the cases of others until its fix `Fk` is there as well.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import Any

from orcheo_agentensor import Budget, Reflective, TrainingResult, atrain, get_prompt
from orcheo_agentensor.optimizers import ProposalRequest

NAMES = ("planner", "writer")
PROMPTS: dict[str, Any] = {"planner": "Plan.", "writer": "Write."}
SPLITS = ("train", "validation", "holdout")
ASKED = re.compile(r"(needs|remove) (\w+) in (\w+)")


def owner(rule: int) -> str:
    return NAMES[rule % 2]


def dataset(
    *, rules: int = 4, train: int = 12, validation: int = 8, holdout: int = 8
) -> list[dict[str, Any]]:
    sizes = dict(zip(SPLITS, (train, validation, holdout), strict=True))
    return [
        {
            "id": f"{split}-{i}",
            "split": split,
            "inputs": {"rule": i % rules, "split": split, "i": i},
        }
        for split, size in sizes.items()
        for i in range(size)
    ]


class Target:
    """The workflow under test; writes down every rollout.

    `calls` are `(texts, case)`; `hook` is awaited before each rollout; a text with `CRASHk` breaks
    on the cases of rule k.
    """

    def __init__(
        self,
        *,
        breaks: Mapping[int, Collection[int]] | None = None,
        hook: Callable[[dict[str, Any]], Any] | None = None,
        names: Collection[str] = NAMES,
    ) -> None:
        self.breaks = breaks or {}
        self.hook = hook
        self.names = names
        self.calls: list[tuple[tuple[str, ...], str]] = []

    async def __call__(self, inputs: dict[str, Any]) -> dict[str, Any]:
        texts = {name: get_prompt(name) for name in self.names}
        self.calls.append((tuple(texts.values()), f"{inputs['split']}-{inputs['i']}"))
        if self.hook is not None:
            await self.hook(inputs)
        return self.judge(texts, inputs["rule"])

    def judge(self, texts: Mapping[str, str], rule: int) -> dict[str, Any]:
        tokens = {name: texts.get(name, "").split() for name in NAMES}
        if any(f"CRASH{rule}" in found for found in tokens.values()):
            raise ValueError(f"remove CRASH{rule} in {owner(rule)}")
        if f"R{rule}" not in tokens[owner(rule)]:
            return {"score": 0.0, "feedback": f"needs R{rule} in {owner(rule)}"}
        for other, broken in self.breaks.items():
            there = tokens[owner(other)]
            if rule in broken and f"R{other}" in there and f"F{other}" not in there:
                return {"score": 0.0, "feedback": f"needs F{other} in {owner(other)}"}
        return {"score": 1.0, "feedback": "ok"}

    def cases(self, *texts: str) -> list[str]:
        """The cases that were run with these texts, in order."""
        return [case for found, case in self.calls if found == texts]

    def repeated(self) -> int:
        """How many rollouts were of a prompt set and case that had been run before."""
        return sum(count - 1 for count in Counter(self.calls).values())


def done(outputs: dict[str, Any]) -> dict[str, Any]:
    return {"key": "done", "score": outputs["score"], "comment": outputs["feedback"]}


def improved(text: str, name: str, feedback: list[str]) -> str:
    """The text with all that the feedback asks for in this prompt."""
    tokens = text.split(" ")
    for line in feedback:
        for verb, token, where in ASKED.findall(line):
            if where == name and verb == "remove":
                tokens = [other for other in tokens if other != token]
            elif where == name and token not in tokens:
                tokens.append(token)
    return " ".join(tokens)


class Teacher:
    """A perfect proposer: does what the feedback names, and no more."""

    def __init__(self) -> None:
        self.requests: list[ProposalRequest] = []

    async def propose(self, request: ProposalRequest) -> dict[str, str]:
        self.requests.append(request)
        return self.texts(request)

    def texts(self, request: ProposalRequest) -> dict[str, str]:
        texts = {
            c.name: improved(c.text, c.name, [record.feedback for record in c.feedback])
            for c in request.components
        }
        return {c.name: texts[c.name] for c in request.components if texts[c.name] != c.text}


async def trained(
    target: Any = None, proposer: Any = None, options: Any = None, **changes: Any
) -> TrainingResult:
    """A reflective training of the rule task."""
    job: dict[str, Any] = {
        "prompts": PROMPTS,
        "dataset": dataset(),
        "evaluators": [done],
        "optimizer": Reflective(
            **{"minibatch": 4, "proposer": proposer or Teacher(), **(options or {})}
        ),
        "budget": Budget(rollouts=300),
    }
    return await atrain(target or Target(), **{**job, **changes})


def settled(metrics: dict[str, Any]) -> dict[str, Any]:
    """The metrics of a version without what a busy machine changes: times."""
    return {key: value for key, value in metrics.items() if key != "latency_ms"}


def outcome_of(result: TrainingResult) -> Any:
    """What must be the same however a training went: all but times and ids."""
    held = result.holdout
    return (
        [
            (
                version.config_version,
                version.parent_version,
                {name: tensor.text for name, tensor in version.prompts.items()},
                settled(version.metrics),
            )
            for version in result.checkpoints
        ],
        result.best.config_version,
        held and (held["gain"], held["ci95"], held["p_value"], held["n"]),
        (result.decision.status, result.decision.reasons, result.decision.stopped),
        result.usage.rollouts,
    )
