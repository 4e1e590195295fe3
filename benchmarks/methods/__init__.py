"""Who is measured: each file holds one package, in the fastest form that its documentation gives."""
