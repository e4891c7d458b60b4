"""Serves a bundle: OpenAI requests in, OpenAI replies out. Knows nothing of how the bundle was learned."""
