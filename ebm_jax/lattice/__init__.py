"""How discrete configurations are packed, drawn and updated fast.

Grids and graphs keep the chain axis last, so that one vector instruction updates one site of many chains and a
neighbour is a whole row away; RBMs keep chains in front, as rows of a matrix product. Only
`samplers` imports this package.
"""
