"""Run the book's notebooks as other machines would, and print a table: ``make matrix``.

Each setting is the same suite of notebooks, outputs compared, with other instructions, threads or
libraries, as environment variables choose them. The last is an environment of its own with the
newest Python, PyTorch and NumPy that can be had, where the package's tests run too. Outputs are
stored once and serve all.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from pkgutil import iter_modules
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parent.parent
NOT_PINNED = re.compile(r"(torch|numpy|triton|cuda|nvidia)[\w-]*==")


def instructions(torch: str, openblas: str, mkl: str, onednn: str, numpy: str) -> dict[str, str]:
    """Keep every library to an instruction set; `numpy` names the features it may not use."""
    return {
        "ATEN_CPU_CAPABILITY": torch,
        "OPENBLAS_CORETYPE": openblas,
        "MKL_ENABLE_INSTRUCTIONS": mkl,
        "ONEDNN_MAX_CPU_ISA": onednn,
        "NPY_DISABLE_CPU_FEATURES": numpy,
    }


def settings(dispatched: Iterable[str], flags: str, startup: Path) -> dict[str, dict[str, str]]:
    """Name the settings of this processor, with their environment variables.

    Parameters
    ----------
    dispatched : iterable of str
        Features that NumPy finds at run time.
    flags : str
        The processor's flags, as Linux tells them.
    startup : Path
        Folder for a profile of IPython that turns oneDNN off.
    """
    wide = [name for name in dispatched if "512" in name or name.endswith("V4")]
    found = {
        "as is": {},
        "vector units off": instructions(
            "default", "Nehalem", "SSE4_2", "SSE41", " ".join(dispatched)
        ),
        "AVX2 only": instructions("avx2", "Haswell", "AVX2", "AVX2", " ".join(wide)),
        "AVX-512": instructions("avx512", "SkylakeX", "AVX512", "AVX512_CORE", ""),
        "two threads": {f"{name}_NUM_THREADS": "2" for name in ("OMP", "MKL", "OPENBLAS")},
        "oneDNN off": {"IPYTHONDIR": str(startup)},
    }
    for name, flag in (("AVX2 only", "avx2"), ("AVX-512", "avx512f")):
        if flag not in flags.split():
            del found[name]
    profile = startup / "profile_default" / "startup"
    profile.mkdir(parents=True)
    off = "import torch\ntorch.backends.mkldnn.set_flags(False)\ndel torch\n"
    (profile / "off.py").write_text(off)
    return found


def run_suite(python: str, paths: list[str], environment: dict[str, str]) -> tuple[str, float]:
    """Run a part of the suite; return what it printed, and the seconds it took."""
    start = time.monotonic()
    told = os.environ | {"OMP_NUM_THREADS": "1", "COMPANION_SEED": "0", "COMPANION_CLAIMS": ""}
    workers = "1" if environment.get("OMP_NUM_THREADS") == "2" else str(os.cpu_count() or 1)
    command = [python, "-m", "pytest", "-q", "-n", workers, "--dist", "loadscope", "-rfE"]
    ran = subprocess.run(
        [*command, "-p", "no:cacheprovider", *paths],
        cwd=ROOT, env=told | environment, capture_output=True, text=True,
    )  # fmt: skip
    return ran.stdout + ran.stderr, time.monotonic() - start


def row(name: str, printed: str, seconds: float) -> tuple[str, int]:
    """One line of the table, and how many cells or tests failed."""
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+?)(?:::(.*?))?(?: - .*)?$", printed, re.MULTILINE)
    counts = dict(
        (word, int(n)) for n, word in re.findall(r"(\d+) (passed|failed|errors?)\b", printed)
    )
    n_failed = sum(n for word, n in counts.items() if word != "passed")
    if "passed" not in counts and not n_failed:
        n_failed, failed = 1, [("nothing ran", printed.strip()[-300:])]
    places = ", ".join(f"{Path(path).stem} {part or ''}".strip() for path, part in failed)
    ran = counts.get("passed", 0) + n_failed
    return f"| {name} | {n_failed} of {ran} | {places or '–'} | {seconds:.0f} |", n_failed


def newest_python() -> str:
    """Find the newest Python on this machine that runs: on the path, or installed by pyenv."""
    names = [shutil.which(f"python3.{minor}") for minor in range(30, 10, -1)]
    names += [str(path) for path in Path.home().glob(".pyenv/versions/3.*/bin/python3")]
    versions = {sys.executable: tuple(sys.version_info[:2])}
    for name in filter(None, names):
        ask = "import sys; print(*sys.version_info[:2])"
        ran = subprocess.run([name, "-c", ask], capture_output=True, text=True)
        if ran.returncode == 0:
            versions[name] = tuple(map(int, ran.stdout.split()))
    return max(versions, key=lambda name: versions[name])


def newest_environment(folder: Path) -> str:
    """Install the newest Python, PyTorch and NumPy beside what else is pinned; return its python.

    An environment that is there already is brought up to date.
    """
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([newest_python(), "-m", "venv", folder], check=True)
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    kept = folder / "constraints.txt"
    kept.write_text("\n".join(pin for pin in pins if not NOT_PINNED.match(pin)) + "\n")
    install = [python, "-m", "pip", "install", "--quiet", "--upgrade", "--constraint", kept]
    subprocess.run([*install, "torch", "numpy", "--editable", f"{ROOT}[book,test]"], check=True)
    return str(python)


def main() -> int:
    """Print the table; the exit status is 1 if anything differs."""
    parser = argparse.ArgumentParser(prog="python -m tests.matrix", description=__doc__)
    parser.add_argument("names", nargs="*", help="stems of notebooks; by default all")
    parser.add_argument("--only", nargs="+", metavar="SETTING", help="by default all of them")
    parser.add_argument("--newest", type=Path, default=ROOT / ".venv-newest", metavar="FOLDER")
    options = parser.parse_args()
    books = [f"book/{name}.ipynb" for name in options.names] or ["book"]
    ask = "import json, numpy; print(json.dumps(numpy._core._multiarray_umath.__cpu_dispatch__))"
    dispatched = json.loads(subprocess.check_output([sys.executable, "-c", ask]))
    cpuinfo = Path("/proc/cpuinfo")
    flags = " ".join(re.findall(r"^flags\s*:(.*)", cpuinfo.read_text(), re.M)[:1])
    model = re.search(r"^model name\s*: (.*)", cpuinfo.read_text(), re.M)
    print(f"{model[1] if model else 'a processor'}, {os.cpu_count()} cores\n")
    print("| setting | differ | where | seconds |\n|:--|:--|:--|--:|", flush=True)
    total = 0

    def show(name: str, python: str, paths: list[str], environment: dict[str, str]) -> None:
        nonlocal total
        line, n_failed = row(name, *run_suite(python, paths, environment))
        print(line, flush=True)
        total += n_failed

    with TemporaryDirectory() as folder:
        for name, environment in settings(dispatched, flags, Path(folder)).items():
            if not options.only or name in options.only:
                show(name, sys.executable, books, environment)
    if not options.only or "newest" in options.only:
        python = newest_environment(options.newest)
        versions = "import platform, torch, numpy; print(platform.python_version(), "
        versions += "'torch', torch.__version__, 'numpy', numpy.__version__)"
        name = subprocess.check_output([python, "-c", versions], text=True).strip()
        show(f"newest: Python {name}", python, books, {})
        modules = {module.name for module in iter_modules([str(ROOT / "companion")])}
        tests = [f"tests/test_{name}.py" for name in sorted(modules)]
        show("newest: the package's tests", python, ["companion", *tests], {})
    return int(total > 0)


if __name__ == "__main__":
    sys.exit(main())
