"""What every other package uses: settings, errors, logging, metrics, tracing."""
