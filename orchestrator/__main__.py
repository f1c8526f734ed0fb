"""`python -m orchestrator`: the command `saccade`, without installing it."""

from orchestrator.cli import main

if __name__ == "__main__":
    main()
