"""What all other packages depend on: settings, errors, logging, metrics and tracing."""
