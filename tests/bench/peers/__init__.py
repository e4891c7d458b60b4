"""Other gateways, with the load and the processes to measure their cost. The project itself uses none of it."""
