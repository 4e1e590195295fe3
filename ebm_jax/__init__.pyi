# The public names. `__init__.py` reads this file, and so do type checkers and editors.

from . import (
    data as data,
)
from . import (
    diagnostics as diagnostics,
)
from . import (
    energies as energies,
)
from . import (
    exact as exact,
)
from . import (
    graphs as graphs,
)
from . import (
    interop as interop,
)
from . import (
    metrics as metrics,
)
from . import (
    partition as partition,
)
from . import (
    plots as plots,
)
from . import (
    samplers as samplers,
)
from . import (
    schedules as schedules,
)
from . import (
    training as training,
)
from .annealing import (
    Annealed as Annealed,
)
from .annealing import (
    anneal as anneal,
)
from .certificate import (
    Certificate as Certificate,
)
from .certificate import (
    certify as certify,
)
from .energies.base import Model as Model
from .energies.categorical_rbm import (
    CategoricalRBM as CategoricalRBM,
)
from .energies.categorical_rbm import (
    CategoricalRBMParams as CategoricalRBMParams,
)
from .energies.composition import (
    Ensemble as Ensemble,
)
from .energies.composition import (
    Sum as Sum,
)
from .energies.composition import (
    Tempered as Tempered,
)
from .energies.factor_graph import FactorGraph as FactorGraph
from .energies.factors import Factor as Factor
from .energies.gaussian_rbm import GaussianRBM as GaussianRBM
from .energies.ising import (
    Ising as Ising,
)
from .energies.ising import (
    IsingParams as IsingParams,
)
from .energies.marginal import Marginal as Marginal
from .energies.mixture import (
    Mixture as Mixture,
)
from .energies.mixture import (
    MixtureParams as MixtureParams,
)
from .energies.neural import (
    JointEnergy as JointEnergy,
)
from .energies.neural import (
    NeuralEnergy as NeuralEnergy,
)
from .energies.nodes import (
    Categories as Categories,
)
from .energies.nodes import (
    Gaussians as Gaussians,
)
from .energies.nodes import (
    NodeKind as NodeKind,
)
from .energies.nodes import (
    Spins as Spins,
)
from .energies.potts import (
    Potts as Potts,
)
from .energies.potts import (
    PottsParams as PottsParams,
)
from .energies.rbm import (
    RBM as RBM,
)
from .energies.rbm import (
    RBMParams as RBMParams,
)
from .energies.spins import (
    as_spins as as_spins,
)
from .energies.spins import (
    spins_from as spins_from,
)
from .graphs import (
    Bipartite as Bipartite,
)
from .graphs import (
    Graph as Graph,
)
from .graphs import (
    Grid as Grid,
)
from .graphs import (
    blocks as blocks,
)
from .graphs import (
    local_grid as local_grid,
)
from .graphs.blocks import (
    Block as Block,
)
from .graphs.blocks import (
    BlockSpec as BlockSpec,
)
from .graphs.blocks import (
    SamplingSchedule as SamplingSchedule,
)
from .graphs.blocks import (
    checkerboard as checkerboard,
)
from .graphs.blocks import (
    colour as colour,
)
from .graphs.blocks import (
    default_spec as default_spec,
)
from .io import (
    load as load,
)
from .io import (
    save as save,
)
from .run import (
    NonFiniteError as NonFiniteError,
)
from .run import (
    Observer as Observer,
)
from .run import (
    Samples as Samples,
)
from .run import (
    sample as sample,
)
from .samplers.adaptation import warm_up as warm_up
from .samplers.base import Kernel as Kernel
from .samplers.categorical import categorical_gibbs as categorical_gibbs
from .samplers.cluster import (
    swendsen_wang as swendsen_wang,
)
from .samplers.cluster import (
    wolff as wolff,
)
from .samplers.composition import (
    cycle as cycle,
)
from .samplers.composition import (
    mixture as mixture,
)
from .samplers.gibbs import gibbs as gibbs
from .samplers.hmc import hmc as hmc
from .samplers.informed import (
    dmala as dmala,
)
from .samplers.informed import (
    gibbs_with_gradients as gibbs_with_gradients,
)
from .samplers.ladders import (
    swap_report as swap_report,
)
from .samplers.ladders import (
    tune_ladder as tune_ladder,
)
from .samplers.langevin import (
    langevin as langevin,
)
from .samplers.langevin import (
    ula as ula,
)
from .samplers.mala import mala as mala
from .samplers.metropolis import metropolis as metropolis
from .samplers.parts import within_gibbs as within_gibbs
from .samplers.start import init_chains as init_chains
from .samplers.tempering import (
    parallel_tempering as parallel_tempering,
)
from .training import (
    TrainState as TrainState,
)
from .training import (
    fit as fit,
)
from .training import (
    make_train_step as make_train_step,
)
from .training import (
    negatives as negatives,
)
from .types import (
    Info as Info,
)
from .types import (
    count_parameters as count_parameters,
)

__version__: str
