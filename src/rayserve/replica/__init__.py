"""The process that runs user code: it receives calls as frames, runs them, and answers."""
