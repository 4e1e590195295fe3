"""Evidence that a kernel samples the law that it claims to: `certify` runs the checks, a `Certificate` holds them.

A chain of a wrong kernel looks like any other. Two properties can be tested. Chains that start with independent exact
draws from p(x) ∝ exp(−β E(x)) have that law after any number of steps (πP = π; Geweke 2004 and Cook et al. 2006 test
this). The identity has this property too, so chains must also forget their start, and reach the law from a single
configuration. Where the configurations can be enumerated, a χ² test compares the whole law. Elsewhere the means of the
energy, of sites or coordinates and of their squares are compared, the end of each chain with its own start, which
cancels most of the noise.

A statistical test can show that a kernel is wrong. It can show that a kernel is right only to within its resolution,
which the table states. A kernel that declares itself not exact (unadjusted Langevin) is therefore called biased even
where its bias is too small to be seen.

The modules behind this face: `report` (what a certificate is), `trial` (how chains are run), `structure` (checks that
need no statistics), `stationarity` (checks of the law), `laws` (comparing draws with a law).
"""

from ebm_jax.certificate.certifying import certify
from ebm_jax.certificate.report import Certificate, Check

__all__ = ["Certificate", "Check", "certify"]
