"""A workflow, an evaluator and a proposer that tell every secret they know of."""

from __future__ import annotations

import os
from typing import Any

from langchain_core.runnables import RunnableConfig

from orcheo_agentensor import get_prompt

ENVIRONMENT = {
    "SHOP_DB_PASSWORD": "canary-env-41f0",
    "LEAKY_SESSION_TOKEN": "canary-env-77a2",
}
KEY, PIN, HOOK = "canary-key-9b1c", "canary-pin-31d8", "canary-hook-55e0"
COOKIE, BEARER = "canarycookie62aa", "canary-bearer-08cf"
WORDS = {  # told in a form by which they can be known
    "dsn": "postgresql://shop:canary-dsn-1a2b@db.example/shop",
    "keywords": "host=db.example user=shop password=canary-kw-3c4d dbname=shop",
    "hook": "https://hooks.slack.com/services/T0/B0/canary-hook2-5e6f",
    "sas": "https://a.blob.core.windows.net/c?sv=1&sig=canary-sas-7a8b0000&se=2",
    "mapping": "{'api_key': 'canary-map-9c0d', 'n': 1}",
    "db_pass": "canary-dbpass-2e3f",
    "jwt": "canary-jwt-4a5b",
    "session": "canary-session-6c7d",
}


def all_known(config: RunnableConfig) -> str:
    """Everything this workflow knows, in words."""
    told = {**WORDS, **(config.get("configurable") or {})}
    told |= {name: os.environ.get(name, "") for name in ENVIRONMENT}
    plain = [str(told.get("api_key")), *(told[name] for name in ENVIRONMENT)]
    return f"I know {plain}; " + "; ".join(f"{name}={told[name]}" for name in WORDS)


def target(inputs: Any, config: RunnableConfig) -> dict[str, Any]:
    """Answers with secrets, or fails with them."""
    if inputs["n"] % 3 == 2:
        raise RuntimeError(f"login failed: {all_known(config)}")
    if "prompts" in config["configurable"]:
        get_prompt("reply", config)
    own = {k: v for k, v in config["configurable"].items() if isinstance(v, str)}
    return {"said": all_known(config), "config": own, "prompt": inputs["n"], **WORDS}


def score(inputs: Any, outputs: Any) -> dict[str, Any]:
    """Repeats the output in its comment, or breaks with it."""
    if inputs["n"] % 3 == 1:
        raise ValueError(f"cannot score {outputs}")
    assert KEY in str(outputs)  # evaluators see what the target said
    return {"key": "told", "score": 0.5, "comment": f"saw {outputs}"}


class Proposer:
    """Puts what it knows into prompts, one kind of secret each time; now and then a fair text."""

    async def propose(self, request: Any) -> dict[str, str]:
        """New texts."""
        named = [f"{name}={value}" for name, value in WORDS.items()]
        kinds = [*named, *ENVIRONMENT.values(), KEY, "kind words"]
        return {one.name: f"Use {kinds[request.seed % len(kinds)]}" for one in request.components}


class Broken:
    """A proposer that breaks."""

    async def propose(self, request: Any) -> dict[str, str]:
        """Raises."""
        raise RuntimeError(f"no reply: {all_known({})}")
