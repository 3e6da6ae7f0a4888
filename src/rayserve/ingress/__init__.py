"""HTTP/1.1 in front of the router, in an operating system process of its own that never imports ray.

    bytes from a client ─► reading: head.parse_head ─► Head ─┐
                                    body decoders   ─► body ─┴─► exchange ─► router ─► replica
    bytes to the client ◄─ answers: render.head, render.error ◄─────┘

`connection` is `reading` and `answers` under the time limits of `clock`; `site` is what all connections share.
`grammar`, `refusal`, `head`, `body` and `render` are sans-I/O: bytes in, values or bytes out; no socket, clock or loop.
"""
