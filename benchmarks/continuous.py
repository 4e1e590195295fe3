"""Time of a step of MALA and HMC beside BlackJAX's, on a Gaussian with a dense covariance.

    python benchmarks/continuous.py [--dimension 100] [--chains 256] [--steps 500] [--leapfrog 10] [--rounds 7]

Both sample the same law with the same step size from the same exact start, all chains together in one compiled scan
that keeps nothing but the last state and the mean acceptance: the acceptances printed must agree, and say that the work
is the same. Methods take turns, round by round, on one core and one thread, so that a busy machine slows all of them
alike; a figure is the median round, a ratio the median of the rounds' ratios (over 1: ebm_jax is faster). The law's
inverse covariance has eigenvalues from 0.25 to 4. BlackJAX has to be installed (pip install blackjax).
"""

import argparse
import os
import statistics
import time


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dimension", type=int, default=100, help="coordinates (default 100)")
    parser.add_argument("--chains", type=int, default=256, help="chains side by side (default 256)")
    parser.add_argument("--steps", type=int, default=500, help="steps a timed call (default 500)")
    parser.add_argument("--leapfrog", type=int, default=10, help="leapfrog steps of HMC (default 10)")
    parser.add_argument("--rounds", type=int, default=7, help="timed rounds (default 7)")
    parser.add_argument(
        "--diagonal", action="store_true", help="a diagonal covariance with those eigenvalues"
    )
    parser.add_argument("--device", choices=["cpu", "gpu"], default="cpu")
    return parser.parse_args()


def pin_to_one_core() -> None:
    """One core and one thread; before JAX is imported."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = "1"
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def methods(arguments):
    """Returns {sampler: {library: call}}; a call runs all steps of all chains and gives the mean acceptance."""
    import blackjax
    import jax
    import jax.numpy as jnp
    import numpy as np

    import ebm_jax as ej

    d, n, steps = arguments.dimension, arguments.chains, arguments.steps
    generator = np.random.default_rng(0)
    basis = np.eye(d) if arguments.diagonal else np.linalg.qr(generator.normal(size=(d, d)))[0]
    eigenvalues = np.geomspace(0.25, 4, d)
    precision = jnp.asarray(
        eigenvalues if arguments.diagonal else (basis * eigenvalues) @ basis.T, jnp.float32
    )
    start = jnp.asarray((generator.normal(size=(n, d)) / np.sqrt(eigenvalues)) @ basis.T, jnp.float32)

    def energy(precision, x):
        return 0.5 * jnp.dot(x, precision * x if arguments.diagonal else precision @ x)

    def ours(kernel):
        @jax.jit
        def call(key, kernel, precision, start):
            keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(n))
            states = jax.vmap(kernel.init, (None, 0))(precision, start)
            packed = kernel.pack(precision, states)
            packed, info = kernel.packed_steps(keys, precision, 1.0, packed, steps)
            return info.acceptance.mean(), kernel.unpack(packed).position

        return lambda: call(jax.random.key(0), kernel, precision, start)

    def theirs(build):
        @jax.jit
        def call(key, precision, start):
            kernel = build(lambda x: -energy(precision, x))
            states = jax.vmap(kernel.init)(start)

            def body(carry, key):
                states, acceptance = carry
                states, info = jax.vmap(kernel.step)(jax.random.split(key, n), states)
                return (states, acceptance + info.is_accepted.mean() / steps), None

            (states, acceptance), _ = jax.lax.scan(body, (states, 0.0), jax.random.split(key, steps))
            return acceptance, states.position

        return lambda: call(jax.random.key(0), precision, start)

    # BlackJAX's MALA takes ε²/2 where ours takes ε.
    small, large = 1.2 * d ** (-1 / 6) * 0.65, 1.1 * d ** (-1 / 4)
    return {
        "mala": {
            "ebm_jax": ours(ej.mala(energy, small)),
            "blackjax": theirs(lambda logdensity: blackjax.mala(logdensity, small**2 / 2)),
        },
        f"hmc, {arguments.leapfrog} leapfrog steps": {
            "ebm_jax": ours(ej.hmc(energy, large, arguments.leapfrog, jitter=0.0)),
            "blackjax": theirs(
                lambda logdensity: blackjax.hmc(logdensity, large, jnp.ones(d), arguments.leapfrog)
            ),
        },
    }


def main() -> None:
    arguments = parse()
    if arguments.device == "cpu":
        pin_to_one_core()
    import jax

    print(f"{'sampler':<24}{'library':<10}{'acceptance':>11}{'ms a step':>11}{'ratio':>7}")
    for name, calls in methods(arguments).items():
        accepted, times = {}, {library: [] for library in calls}
        for library, call in calls.items():
            accepted[library] = float(jax.block_until_ready(call())[0])
        for _ in range(arguments.rounds):
            for library, call in calls.items():
                begin = time.perf_counter()
                jax.block_until_ready(call())
                times[library].append(time.perf_counter() - begin)
        ratio = statistics.median(b / a for a, b in zip(times["ebm_jax"], times["blackjax"], strict=True))
        for library in calls:
            ms = 1e3 * statistics.median(times[library]) / arguments.steps
            shown = f"{ratio:.2f}" if library == "ebm_jax" else ""
            print(f"{name:<24}{library:<10}{accepted[library]:>11.3f}{ms:>11.3f}{shown:>7}")


if __name__ == "__main__":
    main()
