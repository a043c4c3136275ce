"""Serve the small model, train with it as a user would, and stop it: `make demo-llm` runs this."""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
AGENTENSOR = str(Path(sys.executable).with_name("agentensor"))


def main(python: str) -> int:
    """Run the commands of the README; `python` is the one that has the model."""
    with subprocess.Popen(
        [python, HERE / "serve.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        with server.stdin:  # the server stops when this is closed
            address = server.stdout.readline().strip()
            if not address:
                print("The model's server did not start.", file=sys.stderr)
                return 1
            settings = {
                "OPENAI_BASE_URL": f"{address}/v1",
                "OPENAI_API_KEY": "none",
                "AGENTENSOR_ALLOWED_MODULES": "names",
            }
            command = [AGENTENSOR, "train", "train.yaml", "--store", ":memory:"]
            print("SmolLM2-135M-Instruct is served on this machine.\n")
            for name, value in settings.items():
                print(f"export {name}={value}")
            print(" ".join(["agentensor", *command[1:]]), "\n", flush=True)
            return subprocess.run(
                command, cwd=HERE, env={**os.environ, **settings}, check=False
            ).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
