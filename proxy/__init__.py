"""Serves models with their bundles through OpenAI's API. The package does not depend on how a bundle was made."""
