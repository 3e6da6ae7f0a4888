"""Frozen values that all processes share: endpoints, backends, traffic, the routing table. No I/O."""
