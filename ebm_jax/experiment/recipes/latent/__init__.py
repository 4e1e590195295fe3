"""The recipe `latent`: an energy of the latents of an autoencoder, trained by persistent MALA chains."""
