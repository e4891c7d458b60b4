"""What is put before the client's words: served bundles, retrieval and the token budget. It does not know HTTP."""
