"""Learns and judges: calls models, scores their answers. Knows nothing of the proxy that serves the result."""
