"""How discrete configurations are packed, drawn and updated fast.

Every layout packs many chains with the chain axis last, so that one vector instruction updates one site of many chains
and a neighbour is a whole row away. Only `samplers` imports this package.
"""
