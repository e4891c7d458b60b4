"""Model servers: connections, health checks, load balancing, dialects. The package does not depend on prompts."""
