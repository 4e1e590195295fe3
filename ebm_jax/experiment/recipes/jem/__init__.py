"""The recipe `jem`: a classifier of images that is trained as an energy of its inputs too."""
