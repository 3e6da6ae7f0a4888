"""What RayServe costs, beside uvicorn and gunicorn apps that do the same, measured in the same run.

    python -m benchmarks [--quick] [--only NAME] [--output BENCHMARKS.md]

    __main__ ─► Bench (instance, peers, wrk) ─► one module per benchmark ─► [Figure, …] ─► report

Everything listens on loopback only; nothing is written unless `--output` names the file. Machines drift, so the
subjects take turns in short rounds and the figure is the median of the rounds' ratios.
"""
