"""Names of retrieval policies, their simulated cost, and what the benches of answers share."""
