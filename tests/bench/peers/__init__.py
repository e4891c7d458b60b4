"""Other gateways, and what stands around a gateway when its cost is measured. Nothing of it is the project's to run."""
