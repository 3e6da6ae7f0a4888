"""The command `rayserve`: run, status, routes, shutdown.

    main (options) ─┬─ run ─► target (module:function) ─► serve.init ─► the function ─► views ─► serve.wait
                    └─ status, routes, shutdown ─► join (never starts anything) ─► views

What a command prints goes to stdout: tables on a terminal, plain lines in a pipe. What goes wrong goes to stderr in
words, with exit code 2 for a command line that cannot be and 1 for everything else.
"""
