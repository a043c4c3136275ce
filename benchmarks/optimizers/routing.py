"""Real queries to ten domains, routed by real embeddings: holdout accuracy.

A query goes to the domain whose line of the prompt is nearest to it, by the cosine of their
embeddings (`embedding.py`). The domains have numbers for names, so that nothing is known of them
before the search; a line holds forty words at most.

The bank messages are those that come with the package. CLINC150 (Larson et al., 2019, "An
Evaluation Dataset for Intent Classification and Out-of-Scope Prediction"; repository
clinc/oos-eval, CC BY 3.0) does not: the environment variable `CLINC150` names the folder that holds
its `data_full.json` and `domains.json`.
"""

from __future__ import annotations

import functools
import json
import os
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.optimizers import embedding
from benchmarks.optimizers.real import ARMS, GREEDY, TOLD, Arm, Scored, contest, rows
from benchmarks.optimizers.results import NotHere, Plan, Result
from benchmarks.optimizers.tasks import Texts
from orcheo_agentensor import Dataset, TextTensor, get_prompt
from orcheo_agentensor.datasets import Case
from orcheo_agentensor.demo.model import parse_definitions
from orcheo_agentensor.demo.run import DATA

BUDGET = 1_500
SEEDS = 5
GOAL = 0.66
LINE_WORDS = 40
FOLDER = "CLINC150"
SIZES = {"train": ("train", 150), "validation": ("val", 90), "holdout": ("test", 300)}

PEERS = (
    Arm(name="gepa"),
    Arm(name="gepa, all, 150", options={"components": "all", "minibatch": 150}),
)
OTHERS = (Arm(name="greedy, no budget", optimizer=GREEDY),)


def run(plan: Plan) -> Result:
    """Every arm, a few seeds: on CLINC150 where it is there, else on BANKING77.

    Raises `NotHere` where the network is not installed.
    """
    if told := embedding.missing():
        raise NotHere(told)
    seeds = range(min(plan.seeds, SEEDS))
    budget = max(1_000, plan.size(BUDGET))
    name = "CLINC150" if FOLDER in os.environ else "BANKING77"
    found = contest(
        functools.partial(Routing, name), (*PEERS, *ARMS, *OTHERS), seeds=seeds, budget=budget
    )
    return Result(
        setup=f"Queries of {name} to ten domains by the cosine of all-MiniLM-L6-v2 embeddings, "
        "the domains named by numbers; 150 training and 90 validation cases, and 300 holdout cases "
        "(180 of BANKING77), which no search is given; the demo's proposer for all, with lines of "
        f"{LINE_WORDS} words; means of {len(seeds)} seeds, at most {budget:,} rollouts. {TOLD}",
        rows=tuple(rows(found, peers=PEERS, goal=GOAL)),
    )


class Routing:
    """Queries and their domains, and the router."""

    def __init__(self, name: str) -> None:
        cases = _bank() if name == "BANKING77" else _clinc(Path(os.environ[FOLDER]))
        names = sorted({case["domain"] for case in cases})
        self._names = {domain: f"d{number}" for number, domain in enumerate(names)}
        whole = Dataset.from_cases(
            [
                {
                    "id": case["id"],
                    "split": case["split"],
                    "inputs": {"query": case["query"]},
                    "expected_output": {"domain": self._names[case["domain"]]},
                }
                for case in cases
            ]
        )
        self.holdout = list(whole.split("holdout"))
        self.data = whole.split(["train", "validation"])
        lines = "".join(f"{name}: {name}\n" for name in self._names.values())
        text = f"A query goes to the domain whose line is nearest to it.\n\nDomains:\n{lines}"
        self.seeds = {"router": TextTensor(text, metadata={"max_line_words": LINE_WORDS})}
        self.evaluators = (routed,)
        self._embed = embedding.embedder()
        self._count = 0

    @property
    def rollouts(self) -> int:
        """Queries routed so far."""
        return self._count

    async def target(self, inputs: Mapping[str, str]) -> dict[str, Any]:
        """Route a query by the prompt."""
        return self._route(get_prompt("router"), inputs["query"])

    def scores(self, texts: Texts, cases: Sequence[Case]) -> list[Scored]:
        """One rollout per case."""
        found = []
        for case in cases:
            output = self._route(texts["router"], case.inputs["query"])
            told = routed(output, case.expected_output)
            found.append(
                Scored(
                    accuracy=told["score"],
                    objective=told["score"],
                    feedback=f"routed: {told['score']:g} ({told['comment']})",
                    output=output,
                )
            )
        return found

    def _route(self, text: str, query: str) -> dict[str, Any]:
        self._count += 1
        lines = {name: " ".join(line) for name, line in parse_definitions(text).items()}
        names = list(lines)
        near = self._embed([lines[name] for name in names]) @ self._embed([query])[0]
        return {"domain": names[int(near.argmax())]}


def routed(outputs: Mapping[str, Any], reference_outputs: Mapping[str, Any]) -> dict[str, Any]:
    """Whether a query went where it belongs."""
    right, given = reference_outputs["domain"], outputs["domain"]
    comment = "right" if right == given else f"expected {right!r}, got {given!r}"
    return {"key": "routed", "score": float(right == given), "comment": comment}


def _bank() -> list[dict[str, str]]:
    return [
        {
            "id": case.id,
            "split": str(case.split),
            "query": case.inputs["ticket"],
            "domain": case.expected_output["queue"],
        }
        for case in Dataset.load(DATA)
    ]


def _clinc(folder: Path) -> list[dict[str, str]]:
    """As many queries of every domain, drawn by chance from the split of the same name."""
    queries = json.loads((folder / "data_full.json").read_text())
    domains = json.loads((folder / "domains.json").read_text())
    domain_of = {
        intent.replace(" ", "_"): name for name, intents in domains.items() for intent in intents
    }
    found = []
    for split, (source, count) in SIZES.items():
        draw = random.Random(f"clinc/{split}")
        for domain in sorted(domains):
            known = [query for query, intent in queries[source] if domain_of.get(intent) == domain]
            found += [
                {"split": split, "query": query, "domain": domain}
                for query in draw.sample(known, count // len(domains))
            ]
    return [{"id": f"query-{number:03}", **one} for number, one in enumerate(found)]
