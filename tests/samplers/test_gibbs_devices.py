"""Chains spread over devices draw the same bits: in a process of its own, which can have four CPU devices."""

import os
import pathlib
import subprocess
import sys

import ebm_jax

SCRIPT = pathlib.Path(__file__).with_name("devices.py")
ROOT = pathlib.Path(ebm_jax.__file__).parents[1]

HOLDS = [
    "jit over 4",
    "shard_map over 4",
    "steps, Auto mesh",
    "packed_steps, Auto mesh",
    "steps, Explicit mesh",
    "sample, Auto mesh",
    "sample, Explicit mesh, whole arrays",
    "sample, Explicit mesh",
    "steps of grids and graphs, Explicit mesh",
]


def test_same_bits_on_any_number_of_devices():
    environment = os.environ | {
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    done = subprocess.run(
        [sys.executable, SCRIPT], env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines() == HOLDS
