"""The dialects of model servers, one module each, and their registry. The package does not depend on connections."""
