"""A call finds a replica and comes back: waiting lines, attempts, deadlines. Ingress and handles share it."""
