"""The control plane: what should be, kept safe, made true and told to every router.

    api ── command ──► actor ─► verbs ─► commands (pure) ─► ledger ── checkpoint ──► store
                                  │                            │
                                  │                            └─► tables ─► doors ── table ──► doorkeepers
                                  └── waits ◄── bell ◄── fleet ◄─ plan (pure)   facts, reports ◄──┘
                                                          └── load, run, kill ──► replica actors

Every effect goes through `shell.Shell`, so all of it also runs on a plain event loop without Ray.
"""
