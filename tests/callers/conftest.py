from pathlib import Path

import pytest
from tests.callers.files import CallersYaml


@pytest.fixture
def callers(tmp_path: Path) -> CallersYaml:
    """A CALLERS_FILE without callers yet."""
    return CallersYaml(tmp_path / "callers.yaml")
