"""Pure decisions: match a path, split traffic, pick a replica, retry, shed.

Time and randomness are arguments, so every rule is tested without a clock or a socket.
"""
