"""Energy families: each file holds one, its energy and its conditionals."""

import lazy_loader

# They load Flax.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submodules=["autoencoder", "latent", "networks", "neural"]
)
