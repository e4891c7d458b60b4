"""Bundles of prompt and examples: stored, retrieved and rendered. This package does not depend on HTTP servers."""
