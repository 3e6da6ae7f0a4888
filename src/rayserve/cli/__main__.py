"""`python -m rayserve.cli` is `rayserve`."""

from rayserve.cli.main import main

if __name__ == "__main__":
    main()
