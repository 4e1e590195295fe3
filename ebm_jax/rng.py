"""Counter-based random words that fuse into the code that uses them.

Threefry-2x32 (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011) maps a key of two
32-bit words and a counter of two 32-bit words to two random words. Here the key belongs to a chain and the counter is
(step, site), so a draw does not depend on how many chains run, in what order, or on what machine.

`jax.random` computes the same function, on the CPU as a rolled loop that the compiler cannot fuse. Written out in
`jnp`, the rounds become part of the loop that consumes the words: no random array is ever stored.

Rounds: 13. The paper finds that Threefry-2x32 passes every test of TestU01's BigCrush from 13 rounds on, and gives 20
as its default for a margin; a round is a quarter of the cost of a Gibbs update here, so the toolkit takes 13.
Resolution: a uniform has 24 bits, 2⁻²⁴.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt32

from ebm_jax.chains import with_leading_axes
from ebm_jax.types import Key

ROUNDS = 13

_ROTATIONS = (13, 15, 26, 6, 17, 29, 16, 24)
_PARITY = np.uint32(0x1BD11BDA)
# Any constants far from the counters that jax.random uses.
_DOMAIN = (np.uint32(0x65626D5F), np.uint32(0x6A617821))


def threefry2x32(
    k0: UInt32[Array, "..."],
    k1: UInt32[Array, "..."],
    c0: UInt32[Array, "..."],
    c1: UInt32[Array, "..."],
    rounds: int = ROUNDS,
) -> tuple[UInt32[Array, "..."], UInt32[Array, "..."]]:
    """Returns the two words of Threefry-2x32 for key (k0, k1) and counter (c0, c1); all arguments broadcast.

    Equal to the reference (and to `jax.random`'s cipher) at 20 rounds.
    """
    keys = (k0, k1, k0 ^ k1 ^ _PARITY)
    x0, x1 = c0 + keys[0], c1 + keys[1]
    for r in range(rounds):
        d = np.uint32(_ROTATIONS[r % 8])
        x0 = x0 + x1
        x1 = (x1 << d) | (x1 >> np.uint32(32 - d))
        x1 = x1 ^ x0
        # The key is injected after every fourth round.
        if r % 4 == 3:
            i = r // 4 + 1
            x0 = x0 + keys[i % 3]
            x1 = x1 + keys[(i + 1) % 3] + np.uint32(i)
    return x0, x1


def chain_words(key: Key) -> UInt32[Array, "*batch 2"]:
    """Returns the two cipher-key words of a chain from its key.

    The words are enciphered from the key's data instead of copied from it, so a caller who also passes the same key to
    `jax.random` gets unrelated numbers. It works for every implementation of keys, of two words or more, and gives the
    same words under `vmap`.
    """
    data = jax.random.key_data(key)
    first, second = (jnp.uint32(word) for word in _DOMAIN)
    for i in range(0, data.shape[-1], 2):
        first, second = threefry2x32(
            data[..., i], data[..., min(i + 1, data.shape[-1] - 1)], first, second, rounds=20
        )
    return jnp.stack([first, second], axis=-1)


def uniform(word: UInt32[Array, "..."]) -> Float[Array, "..."]:
    """Returns u in [0, 1) from a random word: its upper 24 bits times 2⁻²⁴, exact in float32."""
    return (word >> np.uint32(8)).astype(jnp.float32) * np.float32(2.0**-24)


def normal(word: UInt32[Array, "..."]) -> Float[Array, "..."]:
    """Returns a standard normal from a random word by the inverse distribution function.

    z = √2 erf⁻¹(2u − 1) with u = (m + ½) 2⁻²⁴, m the upper 24 bits: symmetric, |z| ≤ 5.42.
    """
    m = (word >> np.uint32(8)).astype(jnp.int32) - np.int32(2**23)
    centred = (2 * m + 1).astype(jnp.float32) * np.float32(2.0**-24)
    return np.float32(np.sqrt(2.0)) * jax.lax.erf_inv(centred)


def site_words(
    words: UInt32[Array, "chains 2"], step: UInt32[Array, " chains"], site: UInt32[Array, "*sites 1"]
) -> tuple[UInt32[Array, "*sites chains"], UInt32[Array, "*sites chains"]]:
    """Returns two random words for every site and chain, chains last.

    The counter is (step, site + step): as unique as (step, site), but no part of the cipher is the same at every step,
    so the compiler cannot move half-finished rounds out of a loop over steps and store them for every site.
    """
    first, second, step = (with_leading_axes(each, site.ndim) for each in (words[:, 0], words[:, 1], step))
    return threefry2x32(first, second, step, site + step)


def below(word: UInt32[Array, "..."], n: int) -> UInt32[Array, "..."]:
    """Returns a whole number in 0 … n − 1 from a random word: ⌊word · n / 2³²⌋, each with probability 1/n to 2⁻³²."""
    high, low = word >> np.uint32(16), word & np.uint32(0xFFFF)
    n_high, n_low = np.uint32(n >> 16), np.uint32(n & 0xFFFF)
    # The upper half of a 64-bit product, from four products of 16-bit halves.
    middle = high * n_low + ((low * n_low) >> np.uint32(16))
    carry = (middle & np.uint32(0xFFFF)) + low * n_high
    return high * n_high + (middle >> np.uint32(16)) + (carry >> np.uint32(16))
