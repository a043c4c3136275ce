"""The offline proposers, in a search played through without a workflow."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from orcheo_agentensor import demo
from orcheo_agentensor.datasets import Dataset
from orcheo_agentensor.demo import (
    MAX_LINE_WORDS,
    QUEUES,
    REPLY,
    Router,
    answer,
    parse_definitions,
    parse_rules,
    reply_policy,
    set_up,
    triage_text,
    words,
)
from orcheo_agentensor.demo.proposer import (
    RULES_AT_ONCE,
    LexicalProposer,
    MemorisingProposer,
    ParaphraseProposer,
    one_shot_fill,
)
from orcheo_agentensor.optimizers import (
    CaseTexts,
    ComponentRequest,
    Edit,
    FeedbackRecord,
    ProposalRequest,
    Proposer,
    derive_seed,
    refusals,
    resolve_optimizer,
    resolve_proposer,
)
from orcheo_agentensor.settings import Settings

DATASET = Dataset.load(Path(demo.__file__).parent / "data" / "banking_tickets.jsonl")
STEPS = 5

Tickets = list[tuple[str, str]]
"""(ticket, queue) pairs."""


def tickets(split: str, *, grouping: int = 0) -> Tickets:
    """The tickets of a split; with `grouping` the 30 intents make other queues of three."""
    intents = sorted({str(case.metadata["intent"]) for case in DATASET})
    random.Random(grouping).shuffle(intents)
    regrouped = {intent: QUEUES[number // 3] for number, intent in enumerate(intents)}
    return [
        (
            case.inputs["ticket"],
            regrouped[case.metadata["intent"]] if grouping else case.expected_output["queue"],
        )
        for case in DATASET.split(split)
    ]


def accuracy(triage: str, cases: Tickets) -> float:
    """The share of tickets that the simulated model routes rightly."""
    router = Router(parse_definitions(triage))
    return sum(router.route(words(text)) == queue for text, queue in cases) / len(cases)


def policy_score(reply: str) -> dict[str, Any]:
    """How well replies under this prompt keep the policy."""
    return reply_policy({"queue": "cash", "reply": answer(reply, "Team: cash\nMessage: hm")})


def request(
    prompts: dict[str, str], cases: Tickets, *, seed: int, past: list[Edit] | None = None
) -> ProposalRequest:
    """What the training graph would ask after running `prompts` on `cases`."""
    router = Router(parse_definitions(prompts["triage"]))
    policy = policy_score(prompts["reply"])
    records = []
    for number, (text, queue) in enumerate(cases):
        given = router.route(words(text))
        records.append(
            FeedbackRecord(
                case_id=str(number),
                inputs={"ticket": text},
                output={"queue": given, "reply": "…"},
                expected_output={"queue": queue},
                score=((given == queue) + policy["score"]) / 2,
                feedback=f"queue_accuracy: {given == queue:g}\n"
                f"reply_policy: {policy['score']:g} ({policy['comment']})",
            )
        )
    return ProposalRequest(
        seed=seed,
        components=tuple(
            ComponentRequest(
                name=name,
                text=text,
                feedback=tuple(records),
                siblings={},
                history=tuple(past or ()) if name == "triage" else (),
                max_chars=4_000,
                placeholders=(),
                metadata={"max_line_words": MAX_LINE_WORDS} if name == "triage" else {},
            )
            for name, text in prompts.items()
        ),
    )


async def search(proposer: Proposer, *, seed: int, grouping: int = 0) -> tuple[dict[str, str], int]:
    """A search as `textgrad` does it: (best prompts on validation, proposals refused)."""
    train, validation = (
        tickets("train", grouping=grouping),
        tickets("validation", grouping=grouping),
    )
    texts = CaseTexts(text for text, _ in train)
    prompts, past, refused = {"triage": triage_text(), "reply": REPLY}, [], 0

    def objective(candidate: dict[str, str], cases: Tickets) -> float:
        return accuracy(candidate["triage"], cases) + float(
            policy_score(candidate["reply"])["score"]
        )

    for step in range(STEPS):
        asked = request(prompts, train, seed=derive_seed(seed, step, "propose"), past=past)
        new = await proposer.propose(asked)
        if any(refusals(c, new[c.name], cases=texts) for c in asked.components if c.name in new):
            refused += 1
            continue
        child = {**prompts, **new}
        accepted = objective(child, train) > objective(prompts, train) and (
            objective(child, validation) >= objective(prompts, validation)
        )
        past.append(
            Edit(text=child["triage"], accepted=accepted, before=None, after=None, reason="")
        )
        prompts = child if accepted else prompts
    return prompts, refused


@pytest.mark.parametrize(("seed", "grouping"), [(0, 0), (1, 0), (0, 7)])
async def test_the_learner_beats_bare_names_and_the_one_shot_fill_on_holdout(
    seed: int, grouping: int
) -> None:
    found, refused = await search(LexicalProposer(), seed=seed, grouping=grouping)
    holdout = tickets("holdout", grouping=grouping)
    trained = accuracy(found["triage"], holdout)
    filled = one_shot_fill(triage_text(), tickets("train", grouping=grouping))
    assert refused == 0
    assert trained >= accuracy(triage_text(), holdout) + 0.20
    assert trained > accuracy(filled, holdout)
    assert policy_score(found["reply"])["score"] == 1.0


async def test_the_cap_holds_for_every_proposer_and_fill() -> None:
    train = tickets("train")
    asked = request({"triage": triage_text(), "reply": REPLY}, train, seed=3)
    texts = [one_shot_fill(triage_text(), train)]
    for proposer in (LexicalProposer(), ParaphraseProposer(), MemorisingProposer()):
        texts.append((await proposer.propose(asked))["triage"])
    for text in texts:
        assert all(len(line) == MAX_LINE_WORDS for line in parse_definitions(text).values())


async def test_the_same_request_gets_the_same_answer_and_another_seed_another() -> None:
    prompts = {"triage": triage_text(), "reply": REPLY}
    for proposer in (LexicalProposer(), ParaphraseProposer(), MemorisingProposer()):
        first = await proposer.propose(request(prompts, tickets("train"), seed=1))
        assert first == await type(proposer)().propose(request(prompts, tickets("train"), seed=1))
        assert first != await proposer.propose(request(prompts, tickets("train"), seed=2))


async def test_the_learner_does_not_repeat_a_past_edit() -> None:
    prompts = {"triage": triage_text(), "reply": REPLY}
    asked = request(prompts, tickets("train"), seed=1)
    first = (await LexicalProposer().propose(asked))["triage"]
    past = [Edit(text=first, accepted=False, before=None, after=None, reason="")]
    again = request(prompts, tickets("train"), seed=1, past=past)
    assert (await LexicalProposer().propose(again))["triage"] != first


async def test_rules_found_broken_are_added_a_few_at_a_time_until_none_is_left() -> None:
    prompts = {"triage": triage_text(), "reply": REPLY}
    before = len(parse_rules(REPLY))
    for _ in range(3):
        new = await LexicalProposer().propose(request(prompts, tickets("validation"), seed=1))
        prompts["reply"] = new.get("reply", prompts["reply"])
        after = len(parse_rules(prompts["reply"]))
        assert after - before <= RULES_AT_ONCE
        before = after
    assert policy_score(prompts["reply"])["score"] == 1.0
    assert "reply" not in await LexicalProposer().propose(
        request(prompts, tickets("validation"), seed=1)
    )


async def test_a_queue_that_the_prompt_lacks_gets_a_line() -> None:
    prompts = {"triage": triage_text(QUEUES[1:]), "reply": REPLY}
    new = await LexicalProposer().propose(request(prompts, tickets("train"), seed=1))
    assert QUEUES[0] in parse_definitions(new["triage"])


async def test_the_memoriser_gains_on_training_and_loses_on_holdout() -> None:
    found, refused = await search(MemorisingProposer(), seed=0)
    bare = triage_text()
    assert accuracy(found["triage"], tickets("train")) > accuracy(bare, tickets("train"))
    assert accuracy(found["triage"], tickets("holdout")) < 0.98 * accuracy(bare, tickets("holdout"))
    assert policy_score(found["reply"])["score"] == 1.0
    assert refused > 0


@pytest.mark.parametrize(
    ("optimizer", "proposer"),
    [
        ("textgrad", LexicalProposer),
        ("textgrad", MemorisingProposer),
        ("random_search", ParaphraseProposer),
    ],
)
def test_the_demo_finds_its_proposers(optimizer: str, proposer: type[Proposer]) -> None:
    settings = Settings(model=None)
    spec = set_up(settings).optimizer(optimizer, proposer.__name__)
    found = resolve_optimizer(spec, settings=settings)
    assert isinstance(resolve_proposer(found, settings=settings), proposer)
