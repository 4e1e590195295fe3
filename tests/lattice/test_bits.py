"""32 sites to a word: packing, neighbours, the nine conditionals, and the law against a transfer matrix."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ebm_jax as ej
from ebm_jax import exact
from ebm_jax.lattice import bits
from tests import statistics, systems

SHAPES = [(8, 16), (16, 8), (4, 64), (64, 4), (16, 16), (24, 32), (32, 20)]
GRID = ej.Grid(16, 32, "periodic")
PARAMS = ej.IsingParams(jnp.float32(0.15), jnp.asarray([0.5, -0.3]))  # no two of the nine probabilities agree


def model_of(*shape):
    return ej.Ising(ej.Grid(*shape, "periodic"), bias="tied")


def random_spins(shape, n, seed=0):
    return jnp.asarray(np.random.default_rng(seed).random((n, *shape)) < 0.5)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_unpack_undoes_pack(shape):
    layout = ej.gibbs(model_of(*shape)).layout
    x = random_spins(shape, 3)
    np.testing.assert_array_equal(layout.unpack((), layout.pack((), x)), x)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_neighbours_are_those_of_the_torus(shape):
    layout = ej.gibbs(model_of(*shape)).layout
    x = random_spins(shape, 2)
    packs = layout.pack((), x)
    shifts = ((-1, 0), (1, 0), (0, -1), (0, 1))  # below, above, right, left
    for (a, b), own in zip(bits.PARITIES, range(4), strict=True):
        near = layout._neighbours((a, b), packs)
        for words, shift in zip(near, shifts, strict=True):
            expected = jnp.roll(x, shift, (1, 2))
            laid_out = layout.pack((), expected)[own][1:-1, 1:-1]
            np.testing.assert_array_equal(words, laid_out)


def classes_of(x):
    """Neighbours up along columns and along rows at every site."""
    x = np.asarray(x, int)
    down = np.roll(x, 1, 1) + np.roll(x, -1, 1)
    across = np.roll(x, 1, 2) + np.roll(x, -1, 2)
    return down, across


def last_colour_table(order, n_chains=400, n_steps=3, beta=0.9):
    """Sites of the colour that is drawn last, by what they are and by their nine classes, (9, 2); and σ(2βh)."""
    model = ej.Ising(GRID, bias="tied")
    blocks = ej.checkerboard(GRID)
    kernel = ej.gibbs(model, ej.BlockSpec([blocks[i] for i in order]))
    assert kernel.path == "bits"
    start = random_spins(GRID.shape, n_chains)
    x, _ = systems.run_chains(kernel, jax.random.key(5), PARAMS, beta, start, n_steps=n_steps)
    down, across = classes_of(x)
    mine = np.zeros(GRID.n_sites, bool)
    mine[blocks[order[1]].sites] = True
    mine = np.broadcast_to(mine.reshape(GRID.shape), x.shape)
    number = (3 * down + across)[mine] * 2 + np.asarray(x, int)[mine]
    i, j = np.divmod(np.arange(9), 3)
    field = (
        float(PARAMS.bias) + 2 * (i - 1) * float(PARAMS.coupling[1]) + 2 * (j - 1) * float(PARAMS.coupling[0])
    )
    p = 1 / (1 + np.exp(-2 * beta * field))
    return np.bincount(number, minlength=18).reshape(9, 2), np.stack([1 - p, p], axis=1)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_energies_are_those_of_the_model(shape):
    model = model_of(*shape)
    kernel, x = ej.gibbs(model), random_spins(shape, 3)
    states = jax.vmap(lambda x: kernel.init(PARAMS, x))(x)
    found = kernel.packed_energies(PARAMS, kernel.pack(PARAMS, states))
    np.testing.assert_allclose(found, jax.vmap(model.energy, (None, 0))(PARAMS, x), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_nine_conditionals(order):
    counts, p = last_colour_table(order)
    assert counts.sum(1).min() > 200
    statistics.assert_same_law(counts, p, "conditionals of 32 sites to a word")


def test_a_draw_site_by_site():
    """`_draw` against the rule in words, on planes of which most are rigged to leave sites undecided."""
    rng = np.random.default_rng(0)
    n = 60
    draw_word = lambda *shape: rng.integers(0, 2**32, shape, dtype=np.uint32)  # noqa: E731
    near, tails = draw_word(4, 1, n, 1), draw_word(2, 1, n, 1)
    thresholds = rng.integers(0, 2**24 + 1, (3, 3))
    thresholds[0, 0], thresholds[2, 2] = 0, 2**24
    upper = np.minimum(thresholds >> 16, 255)
    rest = thresholds - (upper << 16)
    bit = (upper >> np.arange(7, -1, -1)[:, None, None]) & 1
    t = bits.Thresholds(
        jnp.asarray(np.where(bit, 2**32 - 1, 0), jnp.uint32)[..., None],
        jnp.asarray(rest, jnp.uint32)[..., None],
    )
    site = lambda words, k: (words >> np.uint32(k)) & 1  # noqa: E731
    down, across = [np.stack([site(near[i], k) + site(near[i + 1], k) for k in range(32)]) for i in (0, 2)]
    planes = np.zeros((8, 1, n, 1), np.uint32)
    for k in range(32):  # a plane agrees with the threshold's bit in three of four places
        own = bit[:, down[k], across[k]]
        wrong = rng.random(own.shape) < 0.05
        planes |= (own ^ wrong).astype(np.uint32) << np.uint32(k)
    found = np.asarray(
        bits._draw(
            t, tuple(map(jnp.asarray, near)), list(map(jnp.asarray, planes)), list(map(jnp.asarray, tails))
        )
    )
    expected, n_undecided = np.zeros((1, n, 1), np.uint32), 0
    for w in range(n):
        rank = 0
        for k in range(32):
            i, j = down[k, 0, w, 0], across[k, 0, w, 0]
            top = int("".join(str((int(planes[p, 0, w, 0]) >> k) & 1) for p in range(8)), 2)
            if top != upper[i, j]:
                up = top < upper[i, j]
            elif rank < 4:
                tail = (int(tails[rank // 2, 0, w, 0]) >> (16 * (rank % 2))) & 0xFFFF
                up = tail < rest[i, j]
                rank += 1
            else:
                up = upper[i, j] >= 128
                n_undecided += 1
            expected[0, w, 0] |= np.uint32(int(up) << k)
    assert n_undecided > 100
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "mutant",
    ["swapped couplings", "a neglected neighbour", "a plane too few", "tails ignored", "one threshold off"],
)
def test_mutants_are_told_apart(mutant, monkeypatch):
    real = bits._draw

    def wrong(t, near, planes, tails):
        below, above, right, left = near
        if mutant == "swapped couplings":
            near = right, left, below, above
        elif mutant == "a neglected neighbour":
            near = below, below, right, left
        elif mutant == "a plane too few":
            planes = [planes[1], *planes[1:]]
        elif mutant == "tails ignored":
            t = t._replace(rest=jnp.zeros_like(t.rest))
        else:
            t = t._replace(planes=t.planes.at[4].set(~t.planes[4]))
        return real(t, near, planes, tails)

    monkeypatch.setattr(bits, "_draw", wrong)
    with jax.disable_jit():  # a mutant then costs no compilation
        n_chains = 8000 if mutant == "tails ignored" else 400  # p is off by at most 2⁻⁸ there
        counts, p = last_colour_table((0, 1), n_chains=n_chains)
    statistics.assert_other_law(counts, p, mutant)


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
        ej.SamplingSchedule(200, 100, 2),
        beta=beta,
        observe=model.energy,
    )
    means = np.asarray(run.observed).mean(0)
    z = (means.mean() - expected) / (means.std(ddof=1) / np.sqrt(len(means)))
    assert abs(z) < 6.2, f"{means.mean()} against {expected}: {z:.1f} standard errors"  # two-sided 5e-10


def test_certain_draws_are_certain():
    """At |2βh| beyond float32's sigmoid every site follows its neighbours; zero fields stay fair."""
    model = model_of(16, 16)
    params = ej.IsingParams(jnp.float32(60.0), jnp.asarray([0.0, 0.0]))
    x, _ = systems.run_chains(ej.gibbs(model), jax.random.key(0), params, 1.0, random_spins((16, 16), 50))
    assert np.asarray(x).all()
    none, _ = systems.run_chains(ej.gibbs(model), jax.random.key(0), params, -1.0, random_spins((16, 16), 50))
    assert not np.asarray(none).any()
    fair, _ = systems.run_chains(ej.gibbs(model), jax.random.key(0), params, 0.0, random_spins((16, 16), 50))
    counts = np.bincount(np.asarray(fair).ravel(), minlength=2)
    statistics.assert_same_law(counts, np.asarray([0.5, 0.5]), "fair spins")


def test_chains_are_alike_in_any_company_and_pieces():
    model = ej.Ising(GRID, bias="tied")
    kernel, key = ej.gibbs(model), jax.random.key(4)
    start = random_spins(GRID.shape, 9)
    whole, _ = systems.run_chains(kernel, key, PARAMS, 0.7, start, n_steps=6)
    few, _ = systems.run_chains(kernel, key, PARAMS, 0.7, start[:2], n_steps=6)
    np.testing.assert_array_equal(whole[:2], few)
    first = ej.sample(key, kernel, PARAMS, start, ej.SamplingSchedule(4, 1), beta=0.7)
    second = ej.sample(key, kernel, PARAMS, first.state, ej.SamplingSchedule(2, 1), beta=0.7)
    np.testing.assert_array_equal(second.positions[0], whole)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(9))
    betas = jnp.linspace(0.1, 1.0, 9)
    many = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (9, *leaf.shape)), PARAMS)
    many = many._replace(bias=many.bias * jnp.linspace(-1, 1, 9))

    def one(key, params, beta, x):
        return kernel.steps(key, params, beta, kernel.init(params, x), 3)[0].position

    together = jax.vmap(one)(keys, many, betas, start)
    single = jax.jit(one)
    for i in (0, 5):
        alone = single(keys[i], jax.tree.map(lambda leaf, i=i: leaf[i], many), betas[i], start[i])
        np.testing.assert_array_equal(together[i], alone)


def test_clamped_sites_stay_and_the_others_move():
    model = ej.Ising(GRID, bias="tied")
    mask = random_spins(GRID.shape, 1, seed=3)[0]
    values = random_spins(GRID.shape, 1, seed=4)[0]
    run = ej.sample(
        jax.random.key(0),
        ej.gibbs(model),
        PARAMS,
        random_spins(GRID.shape, 30),
        ej.SamplingSchedule(1, 30),
        clamped=(mask, values),
    )
    held = np.asarray(mask)
    x = np.asarray(run.positions)
    assert (x[..., held] == np.asarray(values)[held]).all()
    assert x[..., ~held].std(axis=(0, 1)).min() > 0


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


@pytest.mark.parametrize("path", ["grid", "general"])
def test_a_tied_bias_is_equal_biases_on_the_other_paths(path):
    model, plain = ej.Ising(GRID, bias="tied"), ej.Ising(GRID)
    start = random_spins(GRID.shape, 4)
    x = random_spins(GRID.shape, 1)[0]
    full = PARAMS._replace(bias=jnp.full(GRID.shape, PARAMS.bias))
    assert model.energy(PARAMS, x) == pytest.approx(float(plain.energy(full, x)), rel=1e-5)
    np.testing.assert_allclose(
        model.conditional_logits(PARAMS, x), plain.conditional_logits(full, x), rtol=1e-5
    )
    ends = [
        systems.run_chains(ej.gibbs(m, path=path), jax.random.key(1), p, 1.0, start, n_steps=2)[0]
        for m, p in ((model, PARAMS), (plain, full))
    ]
    np.testing.assert_array_equal(*ends)
    ends = [
        systems.run_chains(ej.metropolis(m), jax.random.key(1), p, 1.0, start)[0]
        for m, p in ((model, PARAMS), (plain, full))
    ]
    np.testing.assert_array_equal(*ends)


def test_exact_answers_know_a_tied_bias():
    for grid in (ej.Grid(3, 4, "periodic"), ej.Grid(4, 6)):
        model, plain = ej.Ising(grid, bias="tied"), ej.Ising(grid)
        full = PARAMS._replace(bias=jnp.full(grid.shape, PARAMS.bias))
        assert exact.log_partition(model, PARAMS) == pytest.approx(exact.log_partition(plain, full), rel=1e-9)
        data = random_spins(grid.shape, 5)
        a, b = exact.gradient(model, PARAMS, data), exact.gradient(plain, full, data)
        np.testing.assert_allclose(a.bias, b.bias.sum(), atol=1e-6)
        np.testing.assert_allclose(a.coupling, b.coupling, atol=1e-6)
