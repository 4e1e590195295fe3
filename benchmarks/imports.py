"""Times the import of the package and the help of the command line, beside `import jax`.

    python benchmarks/imports.py [--runs 9]

Every figure is the median wall time of fresh interpreters, including their start. The commands take turns, so a busy
machine slows all of them alike. The first round only fills the file cache. The promises: importing `ebm_jax` and
using `ebm_jax.sample` takes at most 1.4 times as long as `import jax`, and the help a quarter of it.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

SCRIPT = str(Path(sys.executable).with_name("ebm-jax"))
COMMANDS = {
    "import jax": [sys.executable, "-c", "import jax"],
    "ebm_jax.sample": [sys.executable, "-c", "import ebm_jax; ebm_jax.sample"],
    "ebm-jax --help": [SCRIPT, "--help"],
}
PROMISED = {"ebm_jax.sample": 1.4, "ebm-jax --help": 0.25}


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "JAX_PLATFORMS": "cpu"})
    return time.perf_counter() - start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=9, help="timed rounds (default 9)")
    runs = parser.parse_args().runs
    rounds = [{name: seconds(command) for name, command in COMMANDS.items()} for _ in range(runs + 1)][1:]
    median = {name: statistics.median(each[name] for each in rounds) for name in COMMANDS}

    print(f"{'command':<16}{'seconds':>9}{'ratio':>8}{'promised':>10}")
    for name, value in median.items():
        ratio = value / median["import jax"]
        print(f"{name:<16}{value:>9.3f}{ratio:>8.2f}{PROMISED.get(name, ''):>10}")
    return int(any(median[name] > limit * median["import jax"] for name, limit in PROMISED.items()))


if __name__ == "__main__":
    sys.exit(main())
