"""The pages of the live app, one per file."""
