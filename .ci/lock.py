"""Write the lock, orchestrator/locks: the version and the hashes of all that `make` installs. `make lock` calls it.

The newest that pyproject.toml admits, one version for all Pythons where there is one. Only torch stays until another
is named (`make lock TORCH_VERSION=2.14.0`): it is large, and its builds lie in two places. The CUDA build comes
from PyPI with CUDA's own packages, the CPU build from PyTorch's index, which is asked only when the version moves.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
LOCKS = ROOT / "orchestrator" / "locks"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
OF_CUDA = re.compile(r"(torch|triton)==|(nvidia|cuda)-")
HEAD = "# Written by `make lock`.\n"


def main(torch: str = "") -> None:
    """Write the files.

    Args:
        torch: Version to lock; empty: the one that is locked now.
    """
    cpu_file = LOCKS / "torch-cpu.txt"
    locked = re.search(r"^torch==([\d.]+)", cpu_file.read_text(), re.M)
    assert locked
    torch = torch or locked[1]
    if torch != locked[1]:
        builds = [f"torch=={torch}+cpu ; sys_platform == 'linux'", f"torch=={torch} ; sys_platform == 'darwin'"]
        entries = resolve(builds, "--no-deps", "--default-index", CPU_INDEX)
        write("torch-cpu.txt", entries, f"--extra-index-url {CPU_INDEX}\n")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = [f"torch=={torch}", *project["build-system"]["requires"], *project["project"]["dependencies"]]
    extras = project["project"]["optional-dependencies"]
    all_of_it = resolve([*needed, *extras["dev"], *extras["docs"]])
    everything = resolve([*needed, *extras["dev"]], within=all_of_it)
    runtime = resolve(needed, within=everything)
    write("torch-cuda.txt", filter(OF_CUDA.match, runtime))
    write("runtime.txt", (entry for entry in runtime if not OF_CUDA.match(entry)))
    write("dev.txt", (entry for entry in everything if entry not in runtime))
    write("docs.txt", (entry for entry in all_of_it if entry not in everything))


def resolve(requirements: Sequence[str], *options: str, within: Iterable[str] = ()) -> list[str]:
    """Each package that the requirements bring: ``name==version``, its marker and its hashes.

    Args:
        within: Entries whose versions, and no others, may be chosen.
    """
    pins = ROOT / "build" / "within.txt"
    pins.parent.mkdir(exist_ok=True)
    pins.write_text("".join(within))
    text = subprocess.run(
        [
            *(Path(sys.executable).with_name("uv"), "pip", "compile", "-", "--constraints", pins),
            *("--universal", "--python-version", "3.11", "--fork-strategy", "fewest", "--generate-hashes"),
            *("--quiet", "--no-header", "--no-annotate", *options),
        ],
        input="\n".join(requirements),
        text=True,
        stdout=subprocess.PIPE,
        check=True,
    ).stdout
    return re.findall(r"^\S+==.*(?:\n +--hash.*)+\n", text, re.M)


def write(name: str, entries: Iterable[str], first: str = "") -> None:
    (LOCKS / name).write_text(HEAD + first + "".join(entries))


if __name__ == "__main__":
    main(*sys.argv[1:])
