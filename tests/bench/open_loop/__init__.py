"""Open-loop load: requests arrive at planned times, whether or not earlier ones have been answered."""
