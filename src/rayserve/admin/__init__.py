"""Looking in from outside: /metrics, /status and a small page on a loopback port of their own.

    controller (its loop) ◄── asked for facts and words ── AdminServer (own thread, own loop) ◄── HTTP + bearer token

It only reads. Nothing here can change, slow down or end the control plane; `desk` joins the two.
"""
