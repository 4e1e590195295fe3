import subprocess
import sys


def test_importing_data_loads_no_heavy_library():
    code = (
        "import sys, ebm_jax.data\n"
        "heavy = ('sklearn', 'tensorflow_datasets', 'tensorflow', 'matplotlib', 'PIL', 'requests', 'flax', 'optax')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
