"""The tracker's build: `make tracker` gives what is committed, and its types accept what works and nothing else."""

import gzip
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.crash.conftest import need

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "tracker"
BUILT = ROOT / "collector" / "tracker"
MODULES = SOURCE / "node_modules"
BUILD_S = 300.0  # npm downloads 40 MB where they are not installed yet

UNPACK = "process.stdout.write(require('zlib').brotliDecompressSync(require('fs').readFileSync(process.argv[1])))"


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository after `make tracker`. Packages that are installed already are taken from here."""
    need(shutil.which("npm") is not None and shutil.which("make") is not None, "npm and make")
    need(MODULES.exists() or os.environ.get("CI") == "true", "the packages that `make tracker` installs")
    root = tmp_path_factory.mktemp("build")
    shutil.copy2(ROOT / "Makefile", root)
    shutil.copytree(ROOT / "schemas", root / "schemas")
    shutil.copytree(SOURCE, root / "tracker", ignore=shutil.ignore_patterns("node_modules"))
    (root / "collector" / "tracker").mkdir(parents=True)
    if MODULES.exists():
        (root / "tracker" / "node_modules").symlink_to(MODULES.resolve())
    done = subprocess.run(["make", "tracker"], cwd=root, capture_output=True, text=True, timeout=BUILD_S, check=False)
    assert 0 == done.returncode, done.stdout + done.stderr
    return root


@pytest.mark.parametrize(
    "name", ["collector/tracker/t.js", "collector/tracker/collector.d.ts", "tracker/src/contract.d.ts"]
)
def test_build_gives_what_is_committed(copy: Path, name: str) -> None:
    """Byte for byte. What is committed was not forgotten after a change, or changed by hand."""
    assert (ROOT / name).read_text() == (copy / name).read_text()


@pytest.mark.parametrize("folder", ["committed", "built"])
def test_compressed_forms_unpack_to_the_script(copy: Path, folder: str) -> None:
    """Their own bytes differ by the version of Node.js."""
    at = BUILT if folder == "committed" else copy / "collector" / "tracker"
    script = (at / "t.js").read_bytes()
    assert script == gzip.decompress((at / "t.js.gz").read_bytes())
    unpacked = subprocess.run(["node", "-e", UNPACK, at / "t.js.br"], capture_output=True, timeout=60, check=True)
    assert script == unpacked.stdout


def test_packages_come_from_the_registry_that_npm_is_set_to() -> None:
    """The lock file names versions and hashes, and no host. Funding and licence links are no sources."""
    lock = (SOURCE / "package-lock.json").read_text()
    assert [] == re.findall(r'"resolved": *"[^"]*"', lock)
    assert '"integrity": "sha512-' in lock


IMPORT = 'import type { Collector, CollectorBeforeSend } from "./collector";\n'
RIGHT = """
window.collector = { q: [["trackEvent", { type: "signup" }], ["consent", true]] };
window.collector.q.push(["trackPageview", { page_title: "Prices" }], ["disable"]);
declare const collector: Collector;
const track = (): void => {
  window.collector?.trackEvent?.({ type: "pageview" });
};
collector.trackEvent({ type: "click", click_x: 7, click_element_id: "buy" });
collector.trackEvent({ type: "newsletter signup" });
collector.trackPageview();
collector.consent(false);
collector.disable();
collector.enable();
const enabled: boolean = collector.isEnabled();
const beforeSend: CollectorBeforeSend = (event) => (enabled && event.event_type !== "copy" ? event : null);
export { beforeSend, track };
"""
WRONG = {
    "unknown method": 'collector.trackClick({ type: "click" });',
    "no type": "collector.trackEvent({ click_x: 7 });",
    "no argument": "collector.trackEvent();",
    "unit in a text": 'collector.trackEvent({ type: "click", click_x: "7px" });',
    "misspelt field": 'collector.trackEvent({ type: "click", clickX: 7 });',
    "unknown source": 'collector.trackPageview({ traffic_source: "heaven" });',
    "consent by text": 'collector.consent("yes");',
    "unknown call": 'collector.q.push(["track", 1]);',
    "own function gives a text": 'const f: CollectorBeforeSend = () => "no"; f;',
}


def compile_page(folder: Path, page: str) -> str:
    """What `tsc --strict` says of a page's code; nothing if it is right."""
    tsc = MODULES / ".bin" / "tsc"
    need(tsc.exists(), "the packages that `make tracker` installs")
    shutil.copy(BUILT / "collector.d.ts", folder)
    (folder / "page.ts").write_text(IMPORT + page)
    options = [
        "--strict",
        "--noEmit",
        "--target",
        "es2021",
        "--lib",
        "es2021,dom",
        "--types",
        "",
        "page.ts",
        "collector.d.ts",
    ]
    done = subprocess.run([tsc, *options], cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    return done.stdout + done.stderr


def test_types_accept_what_works(tmp_path: Path) -> None:
    assert "" == compile_page(tmp_path, RIGHT)


def test_types_refuse_what_does_not(tmp_path: Path) -> None:
    """TypeScript also complains of a line that is marked as wrong and is not."""
    lines = "\n".join(f"// @ts-expect-error {name}\n{{ {code} }}" for name, code in WRONG.items())
    assert "" == compile_page(tmp_path, f"declare const collector: Collector;\n{lines}\nexport {{}};\n")
