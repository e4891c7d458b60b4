"""Search algorithms decide which candidates to compare and when to stop. They do not depend on what a candidate is."""
