"""Stores bundles of prompt and examples, retrieves examples, and renders prompts. It depends on no HTTP server."""
