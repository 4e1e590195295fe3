"""What `certify` returns: checks with a status, and a table of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

PASSED, FAILED, BIASED, SKIPPED = "passed", "FAILED", "BIASED", "skipped"


class Check(NamedTuple):
    """One check of a certificate.

    Attributes:
      name: "energy", "dtype", "purity", "invariance", "mixing" or "clamping".
      status: "passed", "FAILED", "BIASED" or "skipped".
      detail: What was measured, in words with numbers.
    """

    name: str
    status: str
    detail: str


@dataclass(frozen=True)
class Certificate:
    """What `certify` found.

    It prints as a table; `certificate["invariance"]` is one of its checks.

    Attributes:
      kernel: Name of the kernel's class.
      model: The model as text, or the name of the energy function.
      checks: The checks in the order in which they ran.

    Example:
      >>> from ebm_jax.certificate import Check
      >>> found = ej.Certificate("Gibbs", "Ising", (Check("dtype", "passed", "a step keeps bool"),))
      >>> print(found)
      Gibbs on Ising: ok
        dtype      passed   a step keeps bool
    """

    kernel: str
    model: str
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether no check failed and the kernel is not biased."""
        return all(check.status in (PASSED, SKIPPED) for check in self.checks)

    @property
    def biased(self) -> bool:
        """Whether the kernel does not leave the law invariant."""
        return any(check.status == BIASED for check in self.checks)

    def __getitem__(self, name: str) -> Check:
        return next(check for check in self.checks if check.name == name)

    def __repr__(self) -> str:
        verdict = "ok" if self.ok else "biased" if self.biased else "FAILED"
        rows = [f"  {check.name:<11}{check.status:<9}{check.detail}" for check in self.checks]
        return "\n".join([f"{self.kernel} on {self.model}: {verdict}", *rows])
