"""HTTP/1.1 in front of the router, in an operating system process of its own that never imports ray.

    bytes from a client ─► head.parse_head ─► Head ─┐
                           body decoders   ─► body ─┴─► router ─► replica
    bytes to the client ◄─ render.head, render.error ◄────────────┘

`grammar`, `refusal`, `head`, `body` and `render` are sans-I/O: bytes in, values or bytes out; no socket, clock or loop.
"""
