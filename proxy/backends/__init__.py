"""Model servers: connections, health, load balancing and dialects. It does not depend on prompts."""
