"""Which module may import which, what `import ebm_jax` loads, and that every public name resolves."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import ebm_jax

PACKAGE = Path(ebm_jax.__file__).parent
# What runs, reports, configurations and commands may know of recipes; and what a recipe may not know.
RECIPE_FACES = ("experiment.recipes.base", "experiment.recipes.comparison")
ABOVE_RECIPES = ("experiment.run", "experiment.report")
LATTICE_USERS = ("samplers.gibbs", "samplers.metropolis", "samplers.cluster")

SOURCES = sorted(PACKAGE.rglob("*.py"))

# Imports go from a later row to an earlier one, or stay within a row.
LEVELS = [
    {"types", "files"},
    {"arrays", "functions", "checks", "rng", "draw", "chains"},
    {"graphs", "schedules"},
    {"energies", "lattice", "data"},
    {"samplers"},
    {"progress", "run", "exact", "diagnostics", "descriptions", "io", "partition"},
    {"annealing", "certificate"},
    {"training", "metrics", "sharding", "plots", "interop"},
    {"experiment"},
    {"cli"},
]
LEVEL_OF = {module: level for level, modules in enumerate(LEVELS) for module in modules}

# Who may import a library at all, and who may do so at the top of a module, by prefix of the module's name.
ANYWHERE = {
    "flax": ("training", "energies.networks", "energies.neural", "energies.latent", "energies.autoencoder"),
    "optax": ("training", "experiment.recipes", "metrics.classifier", "cli.demo"),
    "lazy_loader": ("", "energies", "metrics"),
    "blackjax": ("interop.blackjax",),
    "thrml": ("interop.thrml",),
    "networkx": ("interop.networkx",),
    "dimod": ("interop.dimod",),
    "arviz": (),
    "arviz_base": ("interop.arviz",),
    "xarray": ("interop.arviz",),
}
AT_TOP = {
    "matplotlib": ("plots", "experiment", "cli"),
    "tensorflow_datasets": ("data.tfds",),
    "orbax": ("experiment.run.checkpoint",),
    "sklearn": (),
    "networkx": (),
    "dimod": (),
    "pydantic": ("experiment.config", "experiment.recipes"),
}


def imported_modules(source: str, module: str, is_package: bool):
    """(name, at_top, line) of every import that runs; what is imported for type checkers alone does not."""
    package = module.split(".") if is_package else module.split(".")[:-1]

    def visit(node, at_top):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            children = node.orelse
        else:
            children = ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            yield from ((alias.name, at_top, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            # `from ebm_jax import graphs` imports ebm_jax.graphs.grids.
            packages = ("ebm_jax", "ebm_jax.experiment.recipes")
            names = [f"{origin}.{alias.name}" for alias in node.names] if origin in packages else [origin]
            yield from ((name, at_top, node.lineno) for name in names)
        in_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in children:
            yield from visit(child, at_top and not in_function)

    yield from visit(ast.parse(source), True)


def within(module: str, prefixes) -> bool:
    return any(module == prefix or module.startswith(prefix + ".") for prefix in prefixes)


def wrong_imports(source: str, module: str, is_package: bool = False) -> list[str]:
    """What is wrong with the imports of `module` (a dotted name that starts with ebm_jax), a line each."""
    inner = module.removeprefix("ebm_jax").lstrip(".")
    top = inner.split(".")[0]
    if inner and top not in LEVEL_OF:
        return [f"{module} has no level: give it one in LEVELS"]
    wrong = []
    for name, at_top, line in imported_modules(source, module, is_package):
        where = f"{module}:{line} imports {name}"
        library, _, rest = name.partition(".")
        target = rest.split(".")[0]
        if library != "ebm_jax":
            if library in ANYWHERE and not within(inner, ANYWHERE[library]):
                wrong.append(f"{where}: only {ANYWHERE[library]} may")
            if library in AT_TOP and at_top and not within(inner, AT_TOP[library]):
                wrong.append(f"{where} at its top: import it in the function that needs it")
        elif target in ("__version__",):
            continue
        elif not inner:
            wrong.append(f"{where}: the package itself loads names lazily")
        elif target not in LEVEL_OF:
            wrong.append(f"{where}: import from the module that defines it")
        elif LEVEL_OF[target] > LEVEL_OF[top]:
            wrong.append(f"{where}: {target} stands above {top}")
        elif target == "lattice" and top != "lattice" and inner not in LATTICE_USERS:
            wrong.append(f"{where}: only {LATTICE_USERS} may")
        elif (top, target) == ("samplers", "energies") and rest != "energies.base":
            wrong.append(f"{where}: samplers know the protocol of models, energies.base, and no family")
        elif within(rest, ("experiment.recipes",)) and not within(inner, ("experiment.recipes",)):
            if not within(rest, RECIPE_FACES):
                wrong.append(f"{where}: ask the recipe, which recipes.base.find returns by its name")
        elif within(rest, ABOVE_RECIPES) and within(inner, ("experiment.recipes", "experiment.config")):
            wrong.append(f"{where}: recipes and configurations know nothing of runs and reports")
    return wrong


def dotted(path: Path) -> str:
    parts = ("ebm_jax", *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path):
    wrong = wrong_imports(path.read_text(encoding="utf-8"), dotted(path), path.name == "__init__.py")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("ebm_jax.types", "from ebm_jax.checks import check_integer"),
        ("ebm_jax.checks", "import ebm_jax.graphs.grids"),
        ("ebm_jax.graphs.grids", "from ebm_jax import energies"),
        ("ebm_jax.energies.ising", "from ebm_jax.samplers.gibbs import gibbs"),
        ("ebm_jax.energies.ising", "def f():\n    from ..samplers import gibbs"),
        ("ebm_jax.energies.ising", "from ebm_jax.lattice import packing"),
        ("ebm_jax.samplers.gibbs", "from ebm_jax.energies.ising import Ising"),
        ("ebm_jax.samplers.langevin", "from ebm_jax.lattice import packing"),
        ("ebm_jax.run", "from ebm_jax import Grid"),
        ("ebm_jax.run", "from ebm_jax.training import fit"),
        ("ebm_jax.training.loop", "import ebm_jax.experiment.config as config"),
        ("ebm_jax.run", "def f():\n    import flax.struct"),
        ("ebm_jax.energies.rbm", "import optax"),
        ("ebm_jax.run", "import matplotlib.pyplot as plt"),
        ("ebm_jax.data.digits", "try:\n    import sklearn.datasets\nexcept ImportError:\n    pass"),
        ("ebm_jax.new", "import numpy"),
        ("ebm_jax.experiment.run.runner", "from ebm_jax.experiment.recipes.rbm.recipe import RECIPE"),
        ("ebm_jax.experiment.report.page", "def f():\n    from ebm_jax.experiment.recipes import rbm"),
        (
            "ebm_jax.experiment.run.runner",
            "from ebm_jax.experiment.recipes.optimiser import with_rate_factor",
        ),
        ("ebm_jax.experiment.recipes.new", "from ebm_jax.experiment.run.folder import RunFolder"),
        ("ebm_jax", "from ebm_jax.graphs.grids import Grid"),
    ],
)
def test_wrong_imports_are_found(module, source):
    assert wrong_imports(source, module)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("ebm_jax.types", "if TYPE_CHECKING:\n    from ebm_jax.graphs.blocks import BlockSpec"),
        ("ebm_jax.graphs.blocks", "from ebm_jax.graphs.grids import Grid"),
        ("ebm_jax.samplers.gibbs", "from ebm_jax.lattice import packing"),
        ("ebm_jax.energies.neural", "import flax.linen as nn"),
        ("ebm_jax.data.digits", "def load():\n    import sklearn.datasets"),
        ("ebm_jax.cli.main", "from ebm_jax import __version__"),
        ("ebm_jax.experiment.run.runner", "from ebm_jax.experiment.recipes.base import find"),
        ("ebm_jax.experiment.recipes.new", "from ebm_jax.experiment.recipes.optimiser import schedule"),
    ],
)
def test_right_imports_pass(module, source):
    assert not wrong_imports(source, module)


def loaded_after(code: str) -> set[str]:
    """Top-level names in sys.modules of a fresh interpreter after `code`."""
    report = "import sys; print('\\n' + ' '.join({name.split('.')[0] for name in sys.modules}))"
    run = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, check=True, timeout=120
    )
    return set(run.stdout.splitlines()[-1].split())


def test_import_of_the_package_loads_nothing():
    assert not {"jax", "numpy", "flax", "typer"} & loaded_after("import ebm_jax; dir(ebm_jax)")


def test_sample_loads_no_library_that_it_does_not_need():
    loaded = loaded_after("import ebm_jax as ej; ej.sample")
    assert "jax" in loaded
    unwanted = {"matplotlib", "tensorflow_datasets", "sklearn", "orbax", "pydantic", "flax", "optax", "PIL"}
    assert not unwanted & loaded


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["demo", "--help"], ["sweep", "--help"], ["data", "prepare", "--help"], ["--version"]],
)
def test_help_never_loads_jax(arguments):
    code = f"import sys; sys.argv[1:] = {arguments}\nfrom ebm_jax.cli.main import main\n"
    loaded = loaded_after(code + "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code")
    assert "typer" in loaded
    assert not {"jax", "jaxlib", "numpy", "flax", "rich"} & loaded


@pytest.mark.parametrize("name", ebm_jax.__all__)
def test_every_public_name_resolves(name):
    assert getattr(ebm_jax, name) is not None


def test_an_unknown_name_is_an_attribute_error():
    assert not hasattr(ebm_jax, "no_such_name")
    with pytest.raises(ImportError, match="no_such_name"):
        exec("from ebm_jax import no_such_name")


def test_the_package_offers_what_its_stub_lists():
    stub = ast.parse((PACKAGE / "__init__.pyi").read_text(encoding="utf-8"))
    names = [alias.name for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert sorted([*names, "__version__"]) == sorted(ebm_jax.__all__)
    assert len(set(names)) == len(names)
