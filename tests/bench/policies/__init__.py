"""Names of retrieval policies, their simulated cost, and the cache of answers that the benches share."""
