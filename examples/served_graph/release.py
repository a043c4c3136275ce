"""Store two versions of the prompt, and promote the second."""

import asyncio

from orcheo_agentensor import RunConfig, Settings, Store

TEXTS = ("You are helpful.", "You are helpful and brief.")


async def main() -> None:
    """What a training with `promote="auto"` does when it has proved a gain."""
    async with Store.from_url(Settings().database_url) as store:
        for text in TEXTS:
            prompt = {"text": text, "bind": "context.system_prompt"}
            config = RunConfig.parse({"prompts": {"support": prompt}}).to_json()
            saved = await store.checkpoints.save(
                workflow_id="support", runnable_config=config, metrics={}
            )
            await store.aliases.move(
                "support",
                "production",
                to=saved.config_version,
                actor="release.py",
                reason="a first release",
            )


if __name__ == "__main__":
    asyncio.run(main())
