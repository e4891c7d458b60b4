"""Model servers: connections, health, load balancing, and the differences between them. It does not know prompts."""
