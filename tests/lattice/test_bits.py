"""32 sites to a word: packing, neighbours, the nine conditionals, and the law against a transfer matrix."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ebm_jax as ej
from ebm_jax import exact
from ebm_jax.lattice import bits
from tests import statistics, systems

# Every way to cut a sublattice into tiles: both ways many tiles, one row of them, one column, and words of one row.
SHAPES = [(8, 16), (4, 64), (64, 6), (24, 32), (32, 20)]
GRID = ej.Grid(16, 32, "periodic")
MODEL = ej.Ising(GRID, bias="tied")
# No two of the nine probabilities agree.
PARAMS = ej.IsingParams(jnp.float32(0.15), jnp.asarray([0.5, -0.3]))
BLOCKS = ej.checkerboard(GRID)
N_CHAINS = 400


def model_of(*shape):
    return ej.Ising(ej.Grid(*shape, "periodic"), bias="tied")


def random_spins(shape, n, seed=0):
    return jnp.asarray(np.random.default_rng(seed).random((n, *shape)) < 0.5)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_packing_neighbours_and_energies(shape):
    model, x = model_of(*shape), random_spins(shape, 3)
    kernel = ej.gibbs(model)
    layout = kernel.layout
    shifts = ((-1, 0), (1, 0), (0, -1), (0, 1))  # below, above, right, left

    @jax.jit
    def run(x):
        packs = layout.pack((), x)
        neighbours = [layout._neighbours(parity, packs) for parity in bits.PARITIES]
        shifted = [layout.pack((), jnp.roll(x, shift, (1, 2))) for shift in shifts]
        expected = [tuple(arrays[own][1:-1, 1:-1] for arrays in shifted) for own in range(4)]
        states = jax.vmap(lambda x: kernel.init(PARAMS, x))(x)
        energies = kernel.packed_energies(PARAMS, kernel.pack(PARAMS, states))
        own = jax.vmap(model.energy, (None, 0))(PARAMS, x)
        return layout.unpack((), packs), neighbours, expected, energies, own

    unpacked, neighbours, expected, energies, own = run(x)
    np.testing.assert_array_equal(unpacked, x)
    jax.tree.map(np.testing.assert_array_equal, neighbours, expected)
    np.testing.assert_allclose(energies, own, rtol=1e-5, atol=1e-4)


def test_shapes_meet_every_way_to_shift_tiles():
    cuts = [bits.tiling(ej.Grid(*shape, "periodic")) for shape in SHAPES]
    assert any(tall == 1 for tall, _ in cuts) and any(wide == 1 for _, wide in cuts)
    assert any(tall > 1 and wide > 1 for tall, wide in cuts)


def classes_of(x):
    """Neighbours up along columns and along rows at every site."""
    x = np.asarray(x, int)
    down = np.roll(x, 1, 1) + np.roll(x, -1, 1)
    across = np.roll(x, 1, 2) + np.roll(x, -1, 2)
    return down, across


def last_colour_table(x, last, beta=0.9):
    """Sites of the colour drawn last by their nine classes and by what they are, (9, 2); and σ(2βh)."""
    down, across = classes_of(x)
    drawn = np.zeros(GRID.n_sites, bool)
    drawn[BLOCKS[last].sites] = True
    drawn = np.broadcast_to(drawn.reshape(GRID.shape), x.shape)
    number = (3 * down + across)[drawn] * 2 + np.asarray(x, int)[drawn]
    i, j = np.divmod(np.arange(9), 3)
    field = (
        float(PARAMS.bias) + 2 * (i - 1) * float(PARAMS.coupling[1]) + 2 * (j - 1) * float(PARAMS.coupling[0])
    )
    p = 1 / (1 + np.exp(-2 * beta * field))
    return np.bincount(number, minlength=18).reshape(9, 2), np.stack([1 - p, p], axis=1)


def test_the_nine_conditionals():
    kernel = ej.gibbs(MODEL)
    assert kernel.path == "bits"
    start = random_spins(GRID.shape, N_CHAINS)
    x, _ = systems.run_chains(kernel, jax.random.key(5), PARAMS, 0.9, start)
    counts, p = last_colour_table(x, last=1)
    assert counts.sum(1).min() > 200
    statistics.assert_same_law(counts, p, "conditionals of 32 sites to a word")


def test_a_draw_site_by_site():
    """`_draw` against the rule in words, on planes of which most are rigged to leave sites undecided."""
    rng = np.random.default_rng(0)
    n = 60
    neighbours = rng.integers(0, 2**32, (4, 1, n, 1), dtype=np.uint32)
    tails = rng.integers(0, 2**32, (2, 1, n, 1), dtype=np.uint32)
    thresholds = rng.integers(0, 2**24 + 1, (3, 3))
    thresholds[0, 0], thresholds[2, 2] = 0, 2**24
    upper = np.minimum(thresholds >> 16, 255)
    rest = thresholds - (upper << 16)
    bit = (upper >> np.arange(7, -1, -1)[:, None, None]) & 1
    t = bits.Thresholds(
        jnp.asarray(np.where(bit, 2**32 - 1, 0), jnp.uint32)[..., None],
        jnp.asarray(rest, jnp.uint32)[..., None],
    )

    def up(i):
        """How many of two neighbours are up, at every site of a word."""
        return np.stack(
            [
                ((neighbours[i] >> np.uint32(k)) & 1) + ((neighbours[i + 1] >> np.uint32(k)) & 1)
                for k in range(32)
            ]
        )

    down, across = up(0), up(2)
    planes = np.zeros((8, 1, n, 1), np.uint32)
    # A plane differs from the threshold's bit in few places.
    for k in range(32):
        own = bit[:, down[k], across[k]]
        wrong = rng.random(own.shape) < 0.05
        planes |= (own ^ wrong).astype(np.uint32) << np.uint32(k)
    found = np.asarray(
        bits._draw(
            t,
            tuple(map(jnp.asarray, neighbours)),
            list(map(jnp.asarray, planes)),
            list(map(jnp.asarray, tails)),
        )
    )
    expected, n_undecided = np.zeros((1, n, 1), np.uint32), 0
    for w in range(n):
        rank = 0
        for k in range(32):
            i, j = down[k, 0, w, 0], across[k, 0, w, 0]
            top = int("".join(str((int(planes[p, 0, w, 0]) >> k) & 1) for p in range(8)), 2)
            if top != upper[i, j]:
                is_up = top < upper[i, j]
            elif rank < 4:
                tail = (int(tails[rank // 2, 0, w, 0]) >> (16 * (rank % 2))) & 0xFFFF
                is_up = tail < rest[i, j]
                rank += 1
            else:
                is_up = upper[i, j] >= 128
                n_undecided += 1
            expected[0, w, 0] |= np.uint32(int(is_up) << k)
    assert n_undecided > 100
    np.testing.assert_array_equal(found, expected)


MUTANTS = (
    "none",
    "swapped couplings",
    "a neglected neighbour",
    "a plane too few",
    "tails ignored",
    "one threshold off",
)


def test_mutants_are_told_apart(monkeypatch):
    """The real draw and every mutant in one program, of the colours in reverse order; an argument chooses."""
    kernel = ej.gibbs(MODEL, ej.BlockSpec(BLOCKS[::-1]))
    real, n_chains = bits._draw, 8000

    def draw(which, t, neighbours, planes, tails):
        def choose(name, mutant, genuine):
            where = which == MUTANTS.index(name)
            return jax.tree.map(lambda a, b: jnp.where(where, a, b), mutant, genuine)

        below, above, right, left = neighbours
        neighbours = choose("swapped couplings", (right, left, below, above), neighbours)
        neighbours = choose("a neglected neighbour", (below, below, right, left), neighbours)
        planes = [choose("a plane too few", planes[1], planes[0]), *planes[1:]]
        rest = choose("tails ignored", jnp.zeros_like(t.rest), t.rest)
        off = choose("one threshold off", t.planes.at[4].set(~t.planes[4]), t.planes)
        return real(bits.Thresholds(off, rest), neighbours, planes, tails)

    @jax.jit
    def run(which, start):
        monkeypatch.setattr(bits, "_draw", functools.partial(draw, which))
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(5), jnp.arange(n_chains))
        states = jax.vmap(kernel.init, (None, 0))(PARAMS, start)
        packed, _ = kernel.packed_steps(keys, PARAMS, 0.9, kernel.pack(PARAMS, states), 1)
        return kernel.packed_positions(packed)

    start = random_spins(GRID.shape, n_chains)
    for which, name in enumerate(MUTANTS):
        # p is off by at most 2⁻⁸ where tails are ignored, so that mutant needs all chains.
        n = n_chains if name in ("none", "tails ignored") else N_CHAINS
        counts, p = last_colour_table(run(which, start)[:n], last=0)
        check = statistics.assert_same_law if name == "none" else statistics.assert_other_law
        check(counts, p, name)


def test_energy_against_the_transfer_matrix():
    """8×16, where every word is its own neighbour through the border."""
    model, beta = model_of(8, 16), 0.8
    kernel = ej.gibbs(model)
    assert kernel.path == "bits"
    step = 1e-4
    log_z = [exact.log_partition(model, PARAMS, beta=b) for b in (beta - step, beta + step)]
    expected = -(log_z[1] - log_z[0]) / (2 * step)
    run = ej.sample(
        jax.random.key(2),
        kernel,
        PARAMS,
        ej.init_chains(jax.random.key(0), model, 512),
        # The first half is left out below: a warm-up of another length is a second loop to compile.
        ej.SamplingSchedule(2, 200, 2),
        beta=beta,
        observe=model.energy,
    )
    means = np.asarray(run.observed)[100:].mean(0)
    z = (means.mean() - expected) / (means.std(ddof=1) / np.sqrt(len(means)))
    assert abs(z) < 6.2, f"{means.mean()} against {expected}: {z:.1f} standard errors"  # two-sided 5e-10


def test_certain_draws_are_certain():
    """At |2βh| beyond float32's sigmoid every site follows its neighbours; zero fields stay fair."""
    params = ej.IsingParams(jnp.float32(60.0), jnp.asarray([0.0, 0.0]))
    start = random_spins(GRID.shape, N_CHAINS)
    up, down, fair = (
        np.asarray(systems.run_chains(ej.gibbs(MODEL), jax.random.key(0), params, beta, start)[0])
        for beta in (1.0, -1.0, 0.0)
    )
    assert up.all()
    assert not down.any()
    statistics.assert_same_law(np.bincount(fair.ravel(), minlength=2), np.asarray([0.5, 0.5]), "fair spins")


def test_chains_are_alike_in_any_company_and_pieces():
    """Nine chains in two pieces, each with its own β and bias; and two of them alone in one piece."""
    kernel, key = ej.gibbs(MODEL), jax.random.key(4)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(9))
    start = random_spins(GRID.shape, 9)
    first = ej.sample(key, kernel, PARAMS, start, ej.SamplingSchedule(3, 1, 3), beta=0.7)
    second = ej.sample(key, kernel, PARAMS, first.state, ej.SamplingSchedule(3, 1, 3), beta=0.7)
    betas = np.where(np.arange(9) == 5, 0.7, np.linspace(0.1, 1.0, 9)).astype(np.float32)
    many = jax.tree.map(lambda leaf: np.broadcast_to(leaf, (9, *leaf.shape)), PARAMS)
    factors = np.where(np.arange(9) == 5, 1, np.linspace(-1, 1, 9)).astype(np.float32)
    many = many._replace(bias=many.bias * factors)

    @jax.jit
    def one(key, params, beta, x):
        return kernel.steps(key, params, beta, kernel.init(params, x), 6)[0].position

    together = jax.jit(jax.vmap(one))(keys, many, betas, start)
    for i in (0, 5):
        alone = one(keys[i], jax.tree.map(lambda leaf, i=i: leaf[i], many), betas[i], start[i])
        np.testing.assert_array_equal(together[i], alone)
    np.testing.assert_array_equal(second.positions[0, 5], together[5])
    assert (np.asarray(together[:5]) != np.asarray(second.positions[0, :5])).any()


def test_clamped_sites_stay_and_the_others_move():
    mask = random_spins(GRID.shape, 1, seed=3)[0]
    values = random_spins(GRID.shape, 1, seed=4)[0]
    start = jnp.zeros((N_CHAINS, *GRID.shape), bool)
    clamped = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, start.shape), (mask, values))
    x, _ = systems.run_chains(ej.gibbs(MODEL), jax.random.key(0), PARAMS, 1.0, start, clamped)
    held, x = np.asarray(mask), np.asarray(x)
    assert (x[..., held] == np.asarray(values)[held]).all()
    assert x[..., ~held].std(axis=0).min() > 0


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (ej.Ising(ej.Grid(16, 16, "periodic")), "tied"),
        (ej.Ising(ej.Grid(16, 16), bias="tied"), "periodic"),
        (ej.Ising(ej.Grid(16, 16, "periodic", 8), bias="tied"), "four neighbours"),
        (ej.Ising(ej.Grid(28, 28, "periodic"), bias="tied"), "32 equal tiles"),
        (ej.Ising(ej.Grid(16, 16, "periodic"), "edge", bias="tied"), "tied"),
        (ej.Potts(ej.Grid(16, 16, "periodic"), 2), "tied"),
    ],
    ids=str,
)
def test_where_it_does_not_fit(model, reason):
    assert ej.gibbs(model).path == "grid"
    with pytest.raises(ValueError, match=reason):
        ej.gibbs(model, path="bits")


def test_a_tied_bias_is_equal_biases_on_the_other_paths():
    model, plain = MODEL, ej.Ising(GRID)
    start = random_spins(GRID.shape, 4)
    x = random_spins(GRID.shape, 1)[0]
    full = PARAMS._replace(bias=jnp.full(GRID.shape, PARAMS.bias))
    assert model.energy(PARAMS, x) == pytest.approx(float(plain.energy(full, x)), rel=1e-5)
    np.testing.assert_allclose(
        model.conditional_logits(PARAMS, x), plain.conditional_logits(full, x), rtol=1e-5
    )
    for build in (
        functools.partial(ej.gibbs, path="grid"),
        functools.partial(ej.gibbs, path="general"),
        ej.metropolis,
    ):
        ends = [
            systems.run_chains(build(m), jax.random.key(1), p, 1.0, start)[0]
            for m, p in ((model, PARAMS), (plain, full))
        ]
        np.testing.assert_array_equal(*ends)


def test_exact_answers_know_a_tied_bias():
    for grid in (ej.Grid(3, 4, "periodic"), ej.Grid(3, 4)):
        model, plain = ej.Ising(grid, bias="tied"), ej.Ising(grid)
        full = PARAMS._replace(bias=jnp.full(grid.shape, PARAMS.bias))
        assert exact.log_partition(model, PARAMS) == pytest.approx(exact.log_partition(plain, full), rel=1e-9)
        data = random_spins(grid.shape, 5)
        a, b = exact.gradient(model, PARAMS, data), exact.gradient(plain, full, data)
        np.testing.assert_allclose(a.bias, b.bias.sum(), atol=1e-6)
        np.testing.assert_allclose(a.coupling, b.coupling, atol=1e-6)
