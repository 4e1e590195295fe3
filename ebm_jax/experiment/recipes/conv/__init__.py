"""The recipe `conv`: a convolutional energy of images, trained by short Langevin chains from a replay buffer."""
