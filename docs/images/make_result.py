"""Makes `result.svg`, the picture in README.md: what a training of the bundled workflow prints.

    python docs/images/make_result.py

It trains on real customer messages with the simulated model, as `make demo` does, so that anybody
can make the picture anew. Only the latencies in it differ from run to run.
"""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console
from rich.text import Text

from orcheo_agentensor import TextGrad, TrainingResult, train
from orcheo_agentensor.demo.proposer import LexicalProposer
from orcheo_agentensor.demo.run import DATA, TARGET
from orcheo_agentensor.demo.workflow import seed_prompts

PICTURE = Path(__file__).parent / "result.svg"
WIDTH = 92
CALL = ">>> train(target, prompts=…, dataset=…, evaluators=…, promote='auto').print()"
STYLES = {"+": "green", "-": "red", "@": "cyan"}
# Rich's own format loads fonts from the network; a page that shows pictures does not let them.
FORMAT = """\
<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{
  font-family: ui-monospace, Menlo, Consolas, monospace;
  font-size: {char_height}px; line-height: {line_height}px;
}}
{styles}
</style>
<defs><clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/></clipPath>
{lines}</defs>
<rect fill="#292929" width="100%" height="100%" rx="8"/>
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g></g></svg>
"""


def trained() -> TrainingResult:
    """A training of the two prompts of the bundled support triage, promoted if it earns it."""
    return train(
        TARGET,
        prompts=seed_prompts(),
        dataset=DATA,
        evaluators=[
            "orcheo_agentensor.demo.evaluators:queue_accuracy",
            "orcheo_agentensor.demo.evaluators:reply_policy",
        ],
        optimizer=TextGrad(minibatch=150, proposer=LexicalProposer()),
        budget={"rollouts": 3_600},
        stop=[{"type": "max_steps", "steps": 12}],
        limits={"concurrency": 2},
        promote="auto",
        workflow_id="support_triage",
    )


def picture(printed: str) -> str:
    """What was printed, up to the diff of the first prompt, as an SVG in colour."""
    console = Console(record=True, width=WIDTH, file=io.StringIO())
    console.print(Text(CALL, style="bold"))
    printed = printed.partition("--- triage")[0]
    in_diff = False
    for line in printed.rstrip().splitlines():
        in_diff = in_diff or line.startswith("--- ")
        style = STYLES.get(line[:1], "") if in_diff else ""
        if line.startswith(("holdout gain", "decision: promoted")):
            style = "bold green"
        console.print(Text(line, style=style, overflow="ellipsis", no_wrap=True))
    return console.export_svg(title="", code_format=FORMAT, unique_id="result")


def main() -> None:
    """Train, and write the picture."""
    printed = io.StringIO()
    trained().print(file=printed)
    PICTURE.write_text(picture(printed.getvalue()), encoding="utf-8")


if __name__ == "__main__":
    main()
