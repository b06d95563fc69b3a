"""The variables of confinement: what is refused at the start, and how."""

import pytest

from runner_service.settings import SettingsError, load_settings

LOCAL = {"MODE": "local", "STIGMER_LLM_PROVIDER": "scripted"}


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"SANDBOX_CONFINEMENT": "some"}, "SANDBOX_CONFINEMENT"),
        ({"SANDBOX_NETWORK": "none"}, "needs SANDBOX_CONFINEMENT"),
        ({"SANDBOX_CONFINEMENT": "strict", "SANDBOX_ALLOWED_HOSTS": "example.com"}, "needs SANDBOX_NETWORK"),
        ({"SANDBOX_ALLOWED_HOSTS": "http://example.com"}, "the port must be a number"),
        ({"SANDBOX_HIDDEN_PATHS": "relative"}, "absolute paths"),
        ({"SANDBOX_HIDDEN_PATHS": "/fine:/not/../fine"}, "absolute paths"),
        ({"MODE": "cloud", "DAYTONA_API_KEY": "k" * 10, "SANDBOX_CONFINEMENT": "strict"}, "MODE=local"),
    ],
)
def test_what_cannot_be_meant_is_refused(variables: dict[str, str], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        load_settings(LOCAL | variables)


def test_levels_may_be_written_in_capitals() -> None:
    settings = load_settings(LOCAL | {"SANDBOX_CONFINEMENT": "READ_ONLY", "SANDBOX_NETWORK": "None"})
    assert (settings.sandbox_confinement, settings.sandbox_network) == ("read_only", "none")
