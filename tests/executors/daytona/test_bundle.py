"""What is installed in a sandbox needs Python and nothing else."""

import asyncio
import io
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from runner_service.executors.daytona import bundle as bundle_module
from runner_service.executors.daytona.bundle import bundle

_IMPORT_ALL = """
import importlib, pathlib, sys
code = pathlib.Path(sys.argv[1])
sys.path.insert(0, str(code))
for path in sorted(code.rglob("*.py")):
    importlib.import_module(".".join(path.relative_to(code).with_suffix("").parts).removesuffix(".__init__"))
strangers = {name.partition(".")[0] for name, module in sys.modules.items() if getattr(module, "__file__", None)}
print(sorted(strangers - set(sys.stdlib_module_names) - {"__main__"}))
"""


async def test_every_module_of_the_bundle_can_be_imported_where_no_package_is_installed(tmp_path: Path) -> None:
    zipfile.ZipFile(io.BytesIO(bundle().data)).extractall(tmp_path)
    ran = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-I", "-S", "-c", _IMPORT_ALL, str(tmp_path / "code")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.stderr == ""
    assert ran.stdout.strip() == "['runner_service']"


def test_the_bundle_holds_plain_python_only_and_fits_into_one_request_that_a_proxy_repeats() -> None:
    names = zipfile.ZipFile(io.BytesIO(bundle().data)).namelist()
    assert not [name for name in names if not name.endswith(".py")]
    assert len(bundle().data) * 4 / 3 < 250 * 1024


def test_executions_that_begin_at_once_build_one_bundle() -> None:
    bundle_module._built.cache_clear()
    with ThreadPoolExecutor(8) as threads:
        built = list(threads.map(lambda _: bundle(), range(8)))
    assert all(each is built[0] for each in built)
