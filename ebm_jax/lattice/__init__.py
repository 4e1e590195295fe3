"""How discrete configurations are packed, drawn and updated fast.

`base.Layout` is the form that Gibbs sampling drives; `bits`, `grid`, `bipartite` and `general` hold one layout each.
Grids and graphs keep the chain axis last, so that one vector instruction updates one site of many chains and a
neighbour is a whole row away. RBMs cut chains into tiles, which are the columns of a matrix product. `single` and
`clusters` serve the kernels of single sites and of clusters. Only `samplers` imports this package.
"""
