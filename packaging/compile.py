"""Copy this clone into a folder, and compile the hot modules there, in place (setup.py lists them).

    python packaging/compile.py FOLDER

Run it with the Python that the modules are for; it needs mypy and setuptools.
"""

import os
import shutil
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

ROOT = Path(__file__).parent.parent
LEFT_OUT = shutil.ignore_patterns(
    ".git", ".venv*", ".*_cache", ".hypothesis", "__pycache__", "*.egg-info", "node_modules", "data"
)


def main() -> None:
    copy = Path(sys.argv[1]).absolute()
    shutil.rmtree(copy, ignore_errors=True)
    made = {ROOT / "build", ROOT / "dist"}
    for path in sorted(set(ROOT.iterdir()) - made):
        if path.name in LEFT_OUT(str(ROOT), [path.name]):
            continue
        if path.is_dir():
            shutil.copytree(path, copy / path.name, symlinks=True, ignore=LEFT_OUT)
        else:
            copy.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy / path.name)
    # The compiled modules contain C code of mypyc.
    mypy = distribution("mypy")
    for licence in mypy.files or ():
        if licence.match("*.dist-info/licenses/LICENSE"):
            folder = copy / "licences" / f"mypy-{mypy.version}"
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(str(licence.locate()), folder / licence.name)
    # A fixed seed, so that the same source gives the same bytes.
    environment = os.environ | {"PYTHONHASHSEED": "0"}
    subprocess.run(
        [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"], cwd=copy, env=environment, check=True
    )


main()
