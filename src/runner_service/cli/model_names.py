"""Which provider `--model` means."""

import re
from typing import get_args

from runner_service.cli.errors import CommandError, ExitCode

_FAMILIES = (
    ("openai", re.compile(r"(gpt|chatgpt|o[1-9])(-|$)")),
    ("anthropic", re.compile(r"claude-")),
    (
        "ollama",
        re.compile(r"[^/]+:[^/]+|(codellama|codestral|deepseek|devstral|gemma|gpt-oss|granite|llama|mistral|phi|qwen)"),
    ),
)
"""Providers of well-known model names. Names with a tag, such as `qwen3:8b`, are Ollama's."""


def model_of(text: str, *, is_provider_set: bool) -> tuple[str, str]:
    """Returns the provider and the name that `[provider/]name` means; either may be empty.

    `is_provider_set` says whether the settings name a provider, which names of unknown families then belong to.

    Raises:
        CommandError: whose model it is cannot be known.
    """
    if not text:
        return "", ""
    from runner_service.settings import Provider  # noqa: PLC0415  # names of families need none

    provider, _, name = text.partition("/")
    if provider in get_args(Provider):
        return provider, name
    if is_provider_set:
        return "", text
    lower = text.lower()
    # `gpt-oss` is Ollama's although its name begins like OpenAI's.
    for family, pattern in sorted(_FAMILIES, key=lambda each: each[0] != "ollama"):
        if pattern.match(lower):
            return family, text
    raise CommandError(
        f"--model {text}: it is not known whose model this is; name its provider, such as --model ollama/{text} "
        f"or --model openai/{text} (providers: {', '.join(get_args(Provider))})",
        ExitCode.USAGE,
    )
