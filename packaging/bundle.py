"""Collect the tree of files for the binary: Debian's Python, its library, the packages, the collector, the licences.

bin/collector          /usr/bin/python3.11, which is linked statically: a quarter faster than a shared one
lib/*.so.*             the shared libraries that Python and the packages need, except glibc
lib/python3.11/        the standard library, compiled
app/                   the packages and the collector, compiled; __main__ starts it. mypyc has compiled the hot modules
licences/              the licences of everything above

python packaging/bundle.py FOLDER COMMIT SOURCE

Run it with the Python of an environment that has requirements/run.txt. SOURCE is the copy that compile.py has made.
"""

import os
import py_compile
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

STDLIB = Path(sysconfig.get_path("stdlib"))
PACKAGES = Path(sysconfig.get_path("purelib"))
MULTIARCH = str(sysconfig.get_config_var("MULTIARCH"))

GLIBC = re.compile(r"(ld-linux-.*|lib(c|m|dl|rt|pthread|resolv|util))\.so\.\d+")

USED_FILE = re.compile(r"\.py$|\.so(\.\d+)*$|^UTC$|^crawler-user-agents\.json$")
UNUSED_LIBRARY = re.compile(
    # for development, tests or graphics, or in need of more shared libraries (of which readline is under the GPL)
    r"(test|unittest|idlelib|lib2to3|distutils|ensurepip|venv|tkinter|turtle|turtledemo|pydoc_data|config-3.*|dbm|curses"
    r"|sitecustomize"
    r"|lib-dynload/(_test.*|_ctypes_test|_xx.*|xx.*|_curses.*|_dbm|_gdbm|_crypt|nis|readline|ossaudiodev|_tkinter))"
    r"([./].*)?"
)
UNUSED_PACKAGE = re.compile(
    # rich needs these for syntax highlighting and Markdown only, which the collector does not use
    r"(pip|setuptools|_distutils_hack|distutils-precedence|pygments|markdown_it|mdurl"
    # psutil's modules for other systems
    r"|psutil/_ps(aix|bsd|osx|sunos|windows)"
    r"|crawleruseragents/(test_.*|validate)"
    # every time zone but UTC
    r"|tzdata/zoneinfo/.+/__init__"
    # all of pyarrow that reading and writing Parquet does not need: 82 of 170 MB
    r"|pyarrow/(tests|include|includes|src|interchange"
    r"|_?(acero|azurefs|csv|cuda|dataset|dataset_orc|dataset_parquet|dataset_parquet_encryption|feather|flight|gcsfs|hdfs"
    r"|json|orc|parquet_encryption|pyarrow_cpp_tests|s3fs|substrait)"
    r"|(benchmark|cffi|conftest|jvm)"
    r"|libarrow_(acero|dataset|flight|s3|substrait|python_flight|python_parquet_encryption)"
    # copies of libarrow_python.so.2600
    r"|libarrow_python\.so(\.\d+\.\d+\.\d+)?$))"
    r"([./].*)?"
)
# Every library of pyarrow lists these as needed, but those that are kept do not use them.
UNUSED_NEEDS = re.compile(r"libarrow_(acero|dataset|substrait)\.so\.\d+")


def main() -> None:
    tree, commit, source = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    shutil.rmtree(tree, ignore_errors=True)
    library = f"lib/python3.{sys.version_info.minor}"
    copy(Path(os.path.realpath(sys.executable)), tree, "bin/collector")
    for file in chosen(STDLIB, UNUSED_LIBRARY):
        copy(STDLIB / file, tree, f"{library}/{file}")
    for file in chosen(PACKAGES, UNUSED_PACKAGE):
        copy(PACKAGES / file, tree, f"app/{file}")
    collector = files(source / "collector")  # its data too
    extensions = [path for path in (*source.glob("*.so"), *collector) if path.suffix == ".so"]
    if not extensions:
        raise SystemExit(f"{source}: the hot modules are not compiled")
    modules = {path.with_name(path.name.partition(".")[0]) for path in extensions}
    for path in (*source.glob("*.so"), *collector):
        if path.suffix == ".so" or path.with_suffix("") not in modules:
            copy(path, tree, f"app/{path.relative_to(source)}")
    copy(Path(__file__).with_name("main.py"), tree, "app/__main__.py")
    if commit:
        (tree / "app/collector/commit").write_text(f"{commit}\n")
    packages = add_libraries(tree)
    add_licences(tree, packages | {"python3.11", "libzstd1"})
    for path in files(source / "licences"):
        copy(path, tree, f"licences/{path.relative_to(source / 'licences')}")


def files(folder: Path) -> list[Path]:
    """All files below a folder, sorted. Follows symlinks to folders; the collector's schemas are one."""
    found = [Path(parent, name) for parent, _, names in os.walk(folder, followlinks=True) for name in names]
    return sorted(path for path in found if path.parent.name != "__pycache__")


def chosen(folder: Path, unused: re.Pattern[str]) -> Iterator[Path]:
    """Names of the Python modules, shared libraries and data in a folder, without the unused ones."""
    for path in files(folder):
        name = path.relative_to(folder)
        if USED_FILE.search(path.name) and not unused.fullmatch(name.as_posix()):
            yield name


def copy(source: Path, tree: Path, name: str) -> None:
    """Copy a file. Compile Python, without dates or local paths, so that the same source gives the same bytes."""
    target = tree / name
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.suffix == ".py":
        unchecked = py_compile.PycInvalidationMode.UNCHECKED_HASH
        py_compile.compile(str(source), str(target.with_suffix(".pyc")), name, True, invalidation_mode=unchecked)
    else:
        shutil.copyfile(source, target)


def add_libraries(tree: Path) -> set[str]:
    """Add missing shared libraries, strip everything, and set RPATHs. Returns the Debian packages of what it added."""
    packages = set()
    waiting = [path for path in files(tree) if path.open("rb").read(4) == b"\x7fELF"]
    there = {path.name for path in waiting}
    while waiting:
        path = waiting.pop()
        run("strip", "--strip-unneeded", path)
        all_needs = run("patchelf", "--print-needed", path).split()
        unused = [name for name in all_needs if UNUSED_NEEDS.fullmatch(name)]
        needs = [name for name in all_needs if name not in unused and not GLIBC.fullmatch(name)]
        for name in set(needs) - there:
            there.add(name)
            packages.add(run("dpkg", "-S", f"*/{MULTIARCH}/{name}").split(":")[0])
            copy(Path("/usr/lib") / MULTIARCH / name, tree, f"lib/{name}")
            waiting.append(tree / "lib" / name)
        options = [option for name in unused for option in ("--remove-needed", name)]
        if needs:
            # RPATH, because LD_LIBRARY_PATH overrides RUNPATH
            up = os.path.relpath(tree / "lib", path.parent)
            options += ["--force-rpath", "--set-rpath", f"$ORIGIN:$ORIGIN/{up}"]
        if options:
            run("patchelf", *options, path)
    return packages


def add_licences(tree: Path, packages: set[str]) -> None:
    for package in sorted(packages):
        source = Path("/usr/share/doc") / package / "copyright"
        copy(source, tree, f"licences/debian/{package}")
        for common in sorted(
            set(re.findall("/usr/share/common-licenses/([A-Za-z0-9.-]*[A-Za-z0-9])", source.read_text()))
        ):
            copy(Path("/usr/share/common-licenses") / common, tree, f"licences/debian/{common}")
    for info in sorted(PACKAGES.glob("*.dist-info")):
        for source in files(info):
            if re.match("licen[cs]e|notice|copying|authors", source.name, re.IGNORECASE):
                copy(source, tree, f"licences/{info.name.removesuffix('.dist-info')}/{source.name}")


def run(*command: str | Path) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


main()
