"""Routing tables down, facts and reports up: one unix socket per node, between its doorkeeper and its routers.

controller ── table ──► doorkeeper: Hub ──► Subscriber: ingress, driver, replica
controller ◄── facts, reports, lateness ── Hub ◄── acks, facts, reports ── Subscriber

messages.py   what travels, and its framing (no I/O)     peer.py   who is at the other end
hub.py        the doorkeeper's side                      subscriber.py   a router process's side
"""
