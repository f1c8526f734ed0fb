"""`python -m orchestrator`: the command `saccade`, without installing it."""

from results.import_path import leave_out_current_folder

if __name__ == "__main__":
    leave_out_current_folder()  # before anything else is looked for
    from orchestrator.cli import main

    main()
