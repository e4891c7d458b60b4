"""What is put before the client's text: served bundles, retrieval and the token budget. It does not depend on HTTP."""
