"""The recipe `rbm`: an RBM of binary images, trained by contrastive divergence."""
