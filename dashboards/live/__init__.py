"""What the live app does around its pages: one concern per file, with the callbacks that it needs."""
